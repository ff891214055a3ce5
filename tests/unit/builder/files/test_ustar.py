"""Plain headers say the same here and to the reader that knows the whole format; what is not plain is left to that."""

from __future__ import annotations

import tarfile
from typing import Literal

import pytest

from sampan.engine.archives import tar
from sampan.engine.builder.files import ustar

Format = Literal[0, 1]  # tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT


class Once:
    """A source of one chunk."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self) -> bytes:
        data, self._data = self._data, b""
        return data


def block(name: str, kind: bytes = tarfile.REGTYPE, *, format: Format = 0, **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid, info.mtime = kind, 0o4751, 1000, 50, 1_600_000_001
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(format, "utf-8", "surrogateescape")[: ustar.BLOCK]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize(
    ("name", "kind", "fields"),
    [
        ("file", tarfile.REGTYPE, {"size": 12345}),
        ("a/b.c/..d", tarfile.AREGTYPE, {}),
        ("dir/", tarfile.DIRTYPE, {}),
        ("./with/dot", tarfile.REGTYPE, {}),
        ("link", tarfile.SYMTYPE, {"linkname": "../to/é"}),
        ("é", tarfile.REGTYPE, {}),
    ],
)
def test_a_plain_header_says_what_the_whole_format_says(
    name: str, kind: bytes, fields: dict[str, object], format: Format
) -> None:
    raw = block(name, kind, format=format, **fields)
    theirs = tar.Reader(tar.Input(Once(raw))).next()
    found = ustar.read(raw, True)
    assert theirs is not None and found is not None
    path, kind_, mode, uid, gid, size, mtime_ns, link = found
    assert path == theirs.name.removeprefix("./").rstrip("/")
    assert kind_ == {tar.REGULAR: "f", tar.DIRECTORY: "d", tar.SYMLINK: "l"}[theirs.type]
    assert (mode, uid, gid, size, mtime_ns, link) == (
        theirs.mode & 0o7777,
        theirs.uid,
        theirs.gid,
        theirs.stored_bytes,
        theirs.mtime_ns,
        theirs.link,
    )
    assert ustar.read(raw, False) == (path, kind_, mode, 0, 0, size, mtime_ns, link)


def test_a_long_name_has_a_prefix() -> None:
    name = "/".join(["directory"] * 15)
    found = ustar.read(block(name), False)
    assert found is not None and found[0] == name


def test_a_name_with_a_slash_at_its_end_is_a_directory() -> None:
    raw = bytearray(block("name"))
    raw[4:5] = b"/"
    raw[148:156] = b"%06o\0 " % sum(raw[:148] + b" " * 8 + raw[156:])
    found = ustar.read(bytes(raw), False)
    assert found is not None and found[:2] == ("name", "d")


@pytest.mark.parametrize("name", ["/absolute", "a//b", "a/./b", "a/../b", "..", ".", "../up", "a/..", "./"])
def test_a_path_that_is_not_clean_is_left(name: str) -> None:
    assert ustar.read(block(name), False) is None


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (148, b"000000\0 "),  # the checksum
        (257, b"other\0"),  # the magic
        (156, b"1"),  # a hard link
        (156, b"x"),  # a pax header
        (156, b"3"),  # a device
        (100, b"+000644\0"),  # a mode that is none
        (124, b"\x80" + bytes(11)),  # a size in base 256
    ],
)
def test_a_header_that_is_not_plain_is_left(at: int, data: bytes) -> None:
    raw = bytearray(block("name"))
    raw[at : at + len(data)] = data
    if at != 148 and data[:1] != b"+":
        raw[148:156] = b"%06o\0 " % sum(raw[:148] + b" " * 8 + raw[156:])
    assert ustar.read(bytes(raw), False) is None
