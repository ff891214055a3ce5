"""Tar headers that are plain ustar blocks without any extension, read in a few operations. Pure.

Most entries of a client's archive have such a header. Everything else is left to archives/tar.py, which knows the whole
format; what is read here is read there to the same values.

Source: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar's variant of the magic.
"""

from __future__ import annotations

from zlib import adler32

from sampan.engine.archives import tar

BLOCK = 512
KINDS = {
    tar.REGULAR: "f",
    tar.DIRECTORY: "d",
    tar.SYMLINK: "l",
    tar.CHARACTER: "c",
    tar.BLOCK_DEVICE: "b",
    tar.FIFO: "p",
}
"""What the types of tar's entries are in a tree. A hard link is none of its own."""
_POSIX, _GNU = b"ustar\0", b"ustar "  # they agree as long as there is no prefix
_PLAIN_KINDS = {ord("0"): "f", 0: "f", ord("5"): "d", ord("2"): "l"}

Header = tuple[str, str, int, int, int, int, int, str]
"""(path, kind as in a tree: f d l, mode, uid, gid, size, time in ns, target of a link)"""


def read(block: bytes, keep_owner: bool) -> Header | None:
    """Return what one block of 512 bytes says; None when it is no plain header, or its path is not clean.

    keep_owner: uid and gid are wanted; else they are 0, whatever the block says.
    """
    kind = _PLAIN_KINDS.get(block[156])
    magic = block[257:263]
    if kind is None or (magic != _POSIX and (magic != _GNU or block[345])):
        return None
    try:
        mode, size = int(block[100:107], 8), int(block[124:135], 8)
        mtime, total = int(block[136:147], 8), int(block[148:154], 8)
        uid = int(block[108:115], 8) if keep_owner else 0
        gid = int(block[116:123], 8) if keep_owner else 0
    except ValueError:
        return None
    # adler32's lower half is one more than the sum of all bytes, modulo 65521
    if (total - 256 + sum(block[148:156]) - (adler32(block) & 0xFFFF) + 1) % 65521 or size < 0 or mtime < 0:
        return None
    path = block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    if block[345]:
        path = block[345:500].partition(b"\0")[0].decode("utf-8", "surrogateescape") + "/" + path
    if path[-1:] == "/":  # of a file it makes a directory
        path, kind = path[:-1], "d" if kind == "f" else kind
    if path[:2] == "./":
        path = path[2:]
    framed = f"/{path}/"
    if "//" in framed or "/./" in framed or "/../" in framed:
        return None
    link = block[157:257].partition(b"\0")[0].decode("utf-8", "surrogateescape") if kind == "l" else ""
    return path, kind, mode & 0o7777, uid, gid, size, mtime * 1_000_000_000, link
