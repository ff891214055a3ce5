"""Archives of files for tests and measurements, written by the standard library: no code of the engine's.

    tar_of({"f": b"content"})                                             regular files only
    tar(member("f", b"content", mode=0o640), directory("d"), symlink("l", "f"))

Not here: archives that the standard library would not write (tests/kernel/images/archives.py).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

Member = tuple[tarfile.TarInfo, bytes]

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def member(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", **fields: Any) -> Member:
    """One entry. fields: attributes of TarInfo (mode, uid, mtime, pax_headers …); a `size` of one's own comes without
    data behind it.
    """
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def directory(name: str, mode: int = 0o755, **fields: Any) -> Member:
    return member(name, kind=tarfile.DIRTYPE, mode=mode, **fields)


def symlink(name: str, target: str, **fields: Any) -> Member:
    return member(name, kind=tarfile.SYMTYPE, link=target, **fields)


def tar(*members: Member, format: int = tarfile.PAX_FORMAT, compression: str = "") -> bytes:
    """An archive of these entries, in this order. compression: a key of COMPRESSORS."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if data and info.size == len(data) else None)
    return COMPRESSORS[compression](out.getvalue())


def tar_of(files: Mapping[str, bytes | str], *, compression: str = "", **fields: Any) -> bytes:
    """An archive of regular files; fields as `member` takes them."""
    entries = ((name, data.encode() if isinstance(data, str) else data) for name, data in files.items())
    return tar(*(member(name, data, **fields) for name, data in entries), compression=compression)
