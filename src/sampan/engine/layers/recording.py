"""A directory becomes a layer where it stands: no archive is written and no file copied.

What a container or a build step wrote lies in overlayfs' upper directory already, in the form that a layer has. Its
archive is only described: the headers go to `tar-split` as if it had been unpacked (tarsplit.py), and the digest is
computed while the contents are read once. Equal files give equal layers: entries are ordered, headers have no names.
"""

from __future__ import annotations

import hashlib
import os

from sampan.engine.archives import tar_writer
from sampan.engine.archives.streams import CHUNK
from sampan.engine.layers.tarsplit import Recorder
from sampan.engine.layers.unpack import Unpacked
from sampan.spec import ustar


def record(layer_fd: int) -> Unpacked:
    """Describe what is in `fs` below `layer_fd` (snapshots/<n>). Blocking; nobody may write there meanwhile.

    Raises: InvalidArgument for directories nested too deep, OSError (ENOSPC, …); the caller throws the directory away.
    """
    recorder = Recorder(layer_fd)
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    raw = bytearray()
    size = 0
    try:
        root_fd = os.open("fs", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer_fd)
        try:
            for member in tar_writer.members(root_fd, overlay=True):
                raw += member.head
                digest.update(member.head)
                if member.size_bytes:
                    recorder.payload(raw, member.size_bytes, "fs/" + os.fsdecode(member.path))
                    _hash(digest, member.fd, member.size_bytes, buffer)
                    padding = ustar.padding(member.size_bytes)
                    raw += padding
                    digest.update(padding)
                size += member.size_bytes + member.link_bytes
        finally:
            os.close(root_fd)
        raw += ustar.END
        digest.update(ustar.END)
        tar_bytes = recorder.finish(raw)
    finally:
        recorder.abandon()
    return Unpacked(diff_id=f"sha256:{digest.hexdigest()}", tar_bytes=tar_bytes, size_bytes=size)


def _hash(digest: hashlib._Hash, fd: int, size_bytes: int, buffer: bytearray) -> None:
    view = memoryview(buffer)
    left = size_bytes
    while left:
        got = os.readv(fd, [view[: min(left, CHUNK)]])
        if not got:
            raise OSError(5, "a file of the layer became shorter while it was read")
        digest.update(view[:got])
        left -= got
