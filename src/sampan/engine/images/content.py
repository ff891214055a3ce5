"""Blobs by digest: `content/blobs/sha256/<hex>`, written once, verified when read.

Here live image configurations (and what a later issue pulls). Not here: layers, whose files live in snapshots.
Invariants: a blob is visible only when it is complete and on the disk (written in `content/ingest`, fsync, rename,
fsync of the directory); its bytes have the digest of its name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress

from sampan.errors import Internal, words
from sampan.linux import filesystems

ABANDONED_S = 3600


class MissingBlob(Internal):
    """A blob that a record names is not there, or not what its name says."""


class ContentStore:
    """The directory `content` of a data root. Blocking, cheap."""

    def __init__(self, root: str) -> None:
        self._blobs = os.path.join(root, "blobs", "sha256")
        self.ingest = os.path.join(root, "ingest")
        self.fresh: set[str] = set()  # stored by this process, perhaps for a record that is still to come
        self._unsynced: set[str] = set()
        self._since = time.time()
        for path in (root, os.path.join(root, "blobs"), self._blobs, self.ingest):
            os.makedirs(path, mode=0o700, exist_ok=True)  # one by one: parents would get the umask's mode

    def path(self, digest: str) -> str:
        return os.path.join(self._blobs, digest.removeprefix("sha256:"))

    def has(self, digest: str) -> bool:
        return os.path.exists(self.path(digest))

    def put(self, data: bytes, *, durable: bool = True) -> str:
        """Store a blob; return its digest. One that is there already is left alone.

        durable: it is on the disk afterwards. Raises: OSError.
        """
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.fresh.add(digest)
        if not self.has(digest):
            fd, temporary = tempfile.mkstemp(dir=self.ingest)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    file.flush()
                    if durable:
                        os.fsync(fd)
                os.rename(temporary, self.path(digest))
            except BaseException:
                try:
                    os.unlink(temporary)
                except FileNotFoundError:
                    pass
                raise
            if durable:
                _fsync(self._blobs)
            else:
                self._unsynced.add(digest)
        elif durable:
            self.sync(digest)
        return digest

    def unsynced(self, digests: Iterable[str]) -> list[str]:
        """Those of them that may not be on the disk yet."""
        return [digest for digest in digests if digest in self._unsynced]

    def sync(self, *digests: str) -> None:
        """Make durable what was stored otherwise. Several at once cost no more than one."""
        waiting = self.unsynced(digests)
        if len(waiting) > 1:
            fd = os.open(self._blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                filesystems.syncfs(fd)
            finally:
                os.close(fd)
        elif waiting:
            with suppress(FileNotFoundError):  # removed meanwhile, with its record
                _fsync(self.path(waiting[0]))
            _fsync(self._blobs)
        self._unsynced.difference_update(waiting)

    def get(self, digest: str) -> bytes:
        """The bytes of a blob, verified. Raises: MissingBlob."""
        try:
            with open(self.path(digest), "rb") as file:
                data = file.read()
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE):
                raise
            raise MissingBlob(f"content {digest} is missing: {self.path(digest)}: {words(e)}") from e
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise MissingBlob(f"content {digest} is damaged: {self.path(digest)} has another digest")
        return data

    def remove(self, digest: str) -> None:
        """Forget a blob; a missing one is already so."""
        self.fresh.discard(digest)
        try:
            os.unlink(self.path(digest))
        except FileNotFoundError:
            pass

    def all(self) -> dict[str, str]:
        """Every blob: digest → path."""
        return {f"sha256:{name}": os.path.join(self._blobs, name) for name in os.listdir(self._blobs)}

    def abandoned(self) -> list[str]:
        """What lies in `ingest` and cannot belong to work under way: older than this process, or idle for an hour."""
        found = []
        for name in os.listdir(self.ingest):
            try:
                changed = os.lstat(os.path.join(self.ingest, name)).st_ctime
            except FileNotFoundError:
                continue
            if changed < max(self._since, time.time() - ABANDONED_S):
                found.append(name)
        return sorted(found)

    def sweep(self, wanted: Iterable[str]) -> list[str]:
        """Remove what no record names, and everything unfinished; returns the digests removed."""
        keep = {digest.removeprefix("sha256:") for digest in wanted}
        gone = []
        for name in os.listdir(self._blobs):
            if name not in keep:
                os.unlink(os.path.join(self._blobs, name))
                gone.append(f"sha256:{name}")
        for name in os.listdir(self.ingest):
            path = os.path.join(self.ingest, name)
            if not os.path.isdir(path):
                os.unlink(path)
        return gone


def _fsync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
