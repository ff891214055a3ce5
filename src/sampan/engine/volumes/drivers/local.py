"""The local driver: a directory per volume, or a filesystem that is mounted there while it is used. Not the records.

    <data-root>/volumes/<name>/_data

A plain volume and one with `o=bind` need no mount on the host: the container's own mount namespace binds the
directory. Any other `type` (tmpfs, nfs, ext4 …) is mounted on `_data` when the first container uses it, so that all
users share one filesystem and network filesystems live in the host's network, and unmounted with the last.

Invariants: removal renames into trash/ first, so a half-deleted volume never has a name; a directory that no record
names is left alone (it may be the user's only copy), unless it is empty.

Source: moby 28.5 volume/local (names, options, words); mount(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sampan.engine.config import EngineConfig
from sampan.engine.hostpaths import HostPaths
from sampan.engine.layers.snapshots.trash import discard
from sampan.engine.volumes.drivers.driver import Capabilities
from sampan.engine.volumes.records import Volume
from sampan.errors import Internal, InvalidArgument, words
from sampan.linux import mounts

log = logging.getLogger("sampan.volumes")

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
OPTIONS = frozenset({"type", "o", "device", "size"})
_SIZE = re.compile(r"[0-9]+(\.[0-9]+)? ?([kmgtp]i?)?b?", re.IGNORECASE)

_SET = {
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "sync": 0x10,
    "remount": 0x20,
    "mand": 0x40,
    "dirsync": 0x80,
    "noatime": 0x400,
    "nodiratime": 0x800,
    "bind": 0x1000,
    "rbind": 0x5000,
    "relatime": 0x200000,
    "strictatime": 0x1000000,
}
_CLEAR = {
    "defaults": 0,
    "rw": 0x1,
    "suid": 0x2,
    "dev": 0x4,
    "exec": 0x8,
    "async": 0x10,
    "nomand": 0x40,
    "atime": 0x400,
    "diratime": 0x800,
    "norelatime": 0x200000,
    "nostrictatime": 0x1000000,
}


class LocalDriver:
    """Implements `VolumeDriver`."""

    capabilities = Capabilities(scope="local", measured=True)

    def __init__(self, config: EngineConfig, host_paths: HostPaths) -> None:
        self._root = os.path.join(config.data_root, "volumes")
        self._trash = os.path.join(config.data_root, "trash")
        self._host_paths = host_paths
        self._reaping: set[asyncio.Future[None]] = set()

    def check(self, name: str, options: Mapping[str, str]) -> None:
        check_name(name)
        check_options(name, options)

    async def start(self, volumes: Sequence[Volume]) -> None:
        os.makedirs(self._root, mode=0o711, exist_ok=True)
        os.makedirs(self._trash, mode=0o700, exist_ok=True)
        for volume in volumes:
            if not _has_directory(volume.mountpoint):
                log.error("volume %s has lost its directory %s: made anew, empty", volume.name, volume.mountpoint)
                try:
                    _make_directory(volume.mountpoint)
                except OSError as e:  # a full disk, say: what does not need it goes on
                    log.error("volume %s: %s", volume.name, words(e))
        for name in set(os.listdir(self._root)) - {volume.name for volume in volumes}:
            _remove_empty(os.path.join(self._root, name))
        for name in os.listdir(self._trash):
            if name.startswith("volume-"):
                self._reap(os.path.join(self._trash, name))

    async def close(self) -> None:
        if self._reaping:
            await asyncio.wait(self._reaping, timeout=5)

    async def create(self, volume: Volume) -> str:
        path = os.path.join(self._root, volume.name, "_data")
        try:
            _make_directory(path)
        except OSError as e:
            raise Internal(f"create {volume.name}: error while creating volume path '{path}': {words(e)}") from e
        return path

    async def remove(self, volume: Volume) -> None:
        if needs_host_mount(volume.options):
            await self._host_paths.run(volume.mountpoint, partial(unmount, volume.mountpoint))
        moved = os.path.join(self._trash, f"volume-{secrets.token_hex(8)}")
        discard(os.path.dirname(volume.mountpoint), moved)
        self._reap(moved)

    async def mount(self, volume: Volume, user: str) -> str:
        options = volume.options or {}
        bind = bind_source(options)
        if bind:
            await self._host_paths.run(bind, partial(_look, volume.mountpoint, bind, options))
        elif needs_host_mount(options):
            await self._host_paths.run(volume.mountpoint, partial(mount, volume.mountpoint, options))
        return bind or volume.mountpoint

    async def unmount(self, volume: Volume, user: str, *, last: bool) -> None:
        if last and needs_host_mount(volume.options):
            await self._host_paths.run(volume.mountpoint, partial(unmount, volume.mountpoint))

    def path(self, volume: Volume) -> str:
        return bind_source(volume.options) or volume.mountpoint

    async def describe(self, volume: Volume) -> Mapping[str, Any]:
        return {}

    def _reap(self, path: str) -> None:
        """Delete a tree in the background."""
        task = asyncio.get_running_loop().run_in_executor(None, lambda: shutil.rmtree(path, ignore_errors=True))
        self._reaping.add(task)
        task.add_done_callback(self._reaping.discard)


def _has_directory(path: str) -> bool:
    """Tell whether a volume's directory is there, by its name: what is mounted on it may not answer."""
    try:
        return os.path.basename(path) in os.listdir(os.path.dirname(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _make_directory(path: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o755)


def _remove_empty(path: str) -> None:
    """Remove what a creation that was killed has left: a directory without a record, and without anybody's data."""
    for directory in (f"{path}/_data", path):
        with contextlib.suppress(OSError):  # there is something in it, or it is no directory
            os.rmdir(directory)


def _look(path: str, bind: str, options: Mapping[str, str]) -> None:
    """Make sure that a bind's device is there. May block. Raises Internal in Docker's words."""
    try:
        os.stat(bind)
    except OSError as e:
        raise failed(path, options, e) from e


def check_name(name: str) -> None:
    """Raise InvalidArgument for a name that cannot be a volume's."""
    if len(name) == 1:
        raise InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not NAME.fullmatch(name) or len(name) > 255:
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )


def check_options(name: str, options: Mapping[str, str]) -> None:
    """Raise InvalidArgument for driver options that do not make a mount."""
    for key in sorted(options):
        if key not in OPTIONS:
            raise InvalidArgument(f'create {name}: invalid option: "{key}"')
    if "size" in options:
        if not _SIZE.fullmatch(options["size"]):
            raise InvalidArgument(f"create {name}: invalid size: '{options['size']}'")
        raise InvalidArgument(f"create {name}: quota size requested but no quota support")
    if options:
        for key in ("device", "type"):
            if not options.get(key):
                raise InvalidArgument(f'create {name}: missing required option: "{key}"')


def parse_options(text: str) -> tuple[int, str]:
    """Split the `o` of mount(8) into flags and filesystem data. Pure."""
    flags, data = 0, []
    for word in filter(None, text.split(",")):
        if word in _SET:
            flags |= _SET[word]
        elif word in _CLEAR:
            flags &= ~_CLEAR[word]
        else:
            data.append(word)
    return flags, ",".join(data)


def bind_source(options: Mapping[str, str] | None) -> str:
    """Return the directory that a volume with `o=bind` is, or ""."""
    if options and parse_options(options.get("o", ""))[0] & _SET["bind"]:
        return options["device"]
    return ""


def needs_host_mount(options: Mapping[str, str] | None) -> bool:
    """Tell whether the volume is a filesystem that must be mounted on `_data`."""
    return bool(options) and not bind_source(options)


def is_mounted(path: str) -> bool:
    """Tell whether a filesystem is mounted on `path`."""
    try:
        return os.lstat(path).st_dev != os.lstat(os.path.dirname(path)).st_dev
    except FileNotFoundError:
        return False


def mount(path: str, options: Mapping[str, str]) -> None:
    """Mount the volume's filesystem on `path`; mounted already is fine. May block.

    Raises: Internal in Docker's words.
    """
    if is_mounted(path):
        return
    text = options.get("o", "")
    try:
        if options["type"] in ("nfs", "nfs4", "cifs"):
            text = _resolve_address(text)
        flags, data = parse_options(text)
        mounts.mount(options["device"], path, options["type"], flags, data or None)
    except OSError as e:
        raise failed(path, options, e) from e


def failed(path: str, options: Mapping[str, str], error: OSError) -> Internal:
    """Build Docker's message for a volume that cannot be mounted."""
    flags, data = parse_options(options.get("o", ""))
    data = re.sub(r"(^|,)(pass(?:word)?)=[^,]*", r"\1\2=********", data)  # what mount.cifs takes as one
    extra = f", data: {data}" if data else ""
    return Internal(
        f"error while mounting volume '{path}': failed to mount local volume: "
        f"mount {options['device']}:{path}, flags: {flags:#x}{extra}: {words(error)}"
    )


def unmount(path: str) -> None:
    """Unmount, without a look at what is mounted: it may not answer. Not mounted is fine."""
    try:
        mounts.umount2(path, mounts.MNT_DETACH)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def _resolve_address(text: str) -> str:
    """Replace the host name in `addr=`: mount(2) takes addresses only. Raises OSError EHOSTUNREACH."""
    words = text.split(",")
    for index, word in enumerate(words):
        if word.startswith("addr="):
            try:
                found = socket.getaddrinfo(word[5:], None, type=socket.SOCK_STREAM)
            except socket.gaierror:
                raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH)) from None
            words[index] = f"addr={found[0][4][0]}"
    return ",".join(words)
