"""Archives for the image tests, benign and hostile, made block by block so that nothing refuses to write them."""

from __future__ import annotations

import asyncio
import os
import tarfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sampan.engine.archives import tar_writer
from sampan.engine.archives.streams import decompressed
from sampan.engine.layers import unpack
from sampan.spec import ustar
from tests.support import tars


class Bytes:
    """A source for the worker side."""

    def __init__(self, data: bytes, step: int = 10_000) -> None:
        self._data, self._at, self._step = data, 0, step

    def read(self) -> bytes:
        chunk = self._data[self._at : self._at + self._step]
        self._at += len(chunk)
        return chunk


def member(name: str, data: bytes = b"", **fields: Any) -> bytes:
    """One member; `fields` as tar_writer.header takes them."""
    size: dict[str, Any] = {"size_bytes": len(data)} if data else {}
    return tar_writer.header(name.encode(), **size, **fields) + data + bytes(-len(data) % 512)


def directory(name: str, mode: int = 0o755, **fields: Any) -> bytes:
    return member(name, kind=b"5", mode=mode, **fields)


def symlink(name: str, target: str) -> bytes:
    return member(name, kind=b"2", mode=0o777, link=target.encode())


def hardlink(name: str, target: str) -> bytes:
    return member(name, kind=b"1", link=target.encode())


def archive(*members: bytes) -> bytes:
    return b"".join(members) + ustar.END


def unpack_into(layer: Path, data: bytes, *, limit_bytes: int = 1 << 40, step: int = 10_000) -> unpack.Unpacked:
    """Unpack as the service does: in a thread of its own umask, decompressing, below layer/fs."""
    (layer / "fs").mkdir(parents=True)
    (layer / "fs").chmod(0o755)
    layer_fd = os.open(layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with ThreadPoolExecutor(1, initializer=unpack.adopt_thread) as pool:
            source = decompressed(Bytes(data, step), limit_bytes=limit_bytes)
            return pool.submit(unpack.unpack, source, layer_fd).result()
    finally:
        os.close(layer_fd)


async def stream(data: bytes, step: int = 50_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]
        await asyncio.sleep(0)


def python_tar(*, format: int = tarfile.PAX_FORMAT, **files: bytes) -> bytes:
    """An archive written by somebody else's program."""
    return tars.tar(*(tars.member(name, data, mtime=1_700_000_000) for name, data in files.items()), format=format)
