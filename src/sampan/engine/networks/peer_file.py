"""The source of peers that is a file, replaced in one step by who writes it (daemon option `overlay-peers`).

Its directory is watched with inotify, so that a file that is not there yet, or replaced by another, is noticed. A file
that is missing or damaged changes nothing: what was known goes on, and the log says why.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator

from sampan.engine.hostpaths import HostPaths
from sampan.engine.networks import peers
from sampan.engine.networks.peers import Peer, PeerUpdate
from sampan.errors import SampanError
from sampan.linux.inotify import IN_CLOSE_WRITE, IN_IGNORED, IN_MOVED_TO, IN_ONLYDIR, IN_Q_OVERFLOW, Inotify

log = logging.getLogger(__name__)

MOST_BYTES = 16 * 1024 * 1024
_AGAIN_S = 2.0  # between looks at a directory that cannot be watched


class FilePeers:
    """The peers that a file names. path: absolute."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._directory, self._name = os.path.split(path)

    async def watch(self) -> AsyncIterator[PeerUpdate]:
        """Yield what the file says, and again after each change of it."""
        looks = HostPaths(threads=1)
        try:
            while True:
                with _Directory(self._directory, self._name) as directory:
                    try:
                        await looks.run(self._directory, directory.begin)
                    except (OSError, SampanError) as error:
                        log.warning("overlay peers: %s cannot be watched: %s", self._directory, error)
                        directory.gone = True
                    while True:
                        directory.changed.clear()
                        found = await self._read(looks)
                        if found is not None:
                            yield PeerUpdate(put=found, whole=True)
                        if directory.gone:
                            break
                        await directory.changed.wait()
                await asyncio.sleep(_AGAIN_S)
        finally:
            looks.close()

    async def _read(self, looks: HostPaths) -> tuple[Peer, ...] | None:
        """Return what the file says; None, and a warning, when that cannot be known."""
        try:
            return await looks.run(self._path, self._look)
        except (OSError, peers.BadPeers, SampanError) as error:
            log.warning("overlay peers: %s: %s; what was known stays", self._path, error)
            return None

    def _look(self) -> tuple[Peer, ...]:
        with open(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise peers.BadPeers(f"more than {MOST_BYTES} bytes")
        return peers.decode(text)


class _Directory:
    """A directory in which one name is watched. changed: it was written, or the directory is `gone`."""

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        self._inotify = Inotify()
        self.changed = asyncio.Event()
        self.gone = False

    def __enter__(self) -> _Directory:
        asyncio.get_running_loop().add_reader(self._inotify, self._readable)
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.get_running_loop().remove_reader(self._inotify)
        self._inotify.close()

    def begin(self) -> None:
        """Begin to watch. Raises: OSError."""
        self._inotify.add_watch(self._path, IN_CLOSE_WRITE | IN_MOVED_TO | IN_ONLYDIR)

    def _readable(self) -> None:
        for event in self._inotify.read():
            self.gone = self.gone or bool(event.mask & IN_IGNORED)
            if self.gone or event.name == self._name or event.mask & IN_Q_OVERFLOW:
                self.changed.set()
