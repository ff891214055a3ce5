"""The tar format as it is written: ustar header blocks and pax records. Pure; what goes into an archive is the
caller's.

The command line's build contexts and the engine's archives are made of these.

Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block".
"""

from __future__ import annotations

import stat

BLOCK = 512
END = bytes(2 * BLOCK)
NAME_BYTES = 100
"""Room for a name, and for the target of a link."""
SHORT_LIMIT, LONG_LIMIT = 8**7, 8**11
"""The first number too large for mode, owner and group; for size and time."""
KINDS = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
"""The type flag of a file's kind (S_IFMT of its mode). A socket has none."""


def block(
    name: bytes,
    *,
    kind: bytes,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    size_bytes: int = 0,
    mtime_s: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
) -> bytes:
    """Return one ustar header block. Everything must fit its field: see `NAME_BYTES` and the limits."""
    fields = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %s%s" % (
        name.ljust(NAME_BYTES, b"\0"),
        mode,
        uid,
        gid,
        size_bytes,
        mtime_s,
        kind,
        link.ljust(NAME_BYTES, b"\0"),
    )
    tail = b"ustar\x0000%s%07o\0%07o\0%s" % (bytes(64), *device, prefix.ljust(155, b"\0"))
    whole = (fields + tail).ljust(BLOCK, b"\0")
    return whole[:148] + b"%06o\0 " % sum(whole) + whole[156:]


def pax_record(key: bytes, value: bytes) -> bytes:
    """Return `<length> key=value\\n`, where the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def padding(size_bytes: int) -> bytes:
    """Return what follows contents of this size, up to the next block."""
    return bytes(-size_bytes % BLOCK)
