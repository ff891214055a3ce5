"""The tar format in memory: we and others read each other's, and rubbish is an error, never a crash."""

from __future__ import annotations

import io
import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine.archives import tar, tar_writer
from sampan.errors import InvalidArgument
from sampan.spec import ustar


class Source:
    def __init__(self, data: bytes, step: int = 700) -> None:
        self._chunks = [data[i : i + step] for i in range(0, len(data), step)]

    def read(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


def entries(data: bytes, step: int = 700) -> list[tuple[tar.Entry, bytes]]:
    """Every entry with its stored data."""
    reader = tar.Reader(tar.Input(Source(data, step)))
    found = []
    while (entry := reader.next()) is not None:
        content = b""
        while len(content) < entry.stored_bytes:
            content += bytes(reader.input.piece(entry.stored_bytes - len(content)))
        reader.skip_padding(entry.stored_bytes)
        found.append((entry, content))
    return found


@settings(max_examples=60, deadline=None)
@given(
    name=st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=140),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**40),
    mtime_ns=st.integers(-(10**19), 10**20),
    data=st.binary(max_size=2000),
    value=st.binary(max_size=300),
    step=st.integers(1, 3000),
)
def test_written_headers_read_back(
    name: str, mode: int, uid: int, mtime_ns: int, data: bytes, value: bytes, step: int
) -> None:
    raw = tar_writer.header(
        name.encode(), mode=mode, uid=uid, gid=uid // 2, mtime_ns=mtime_ns, size_bytes=len(data),
        xattrs={"user.x": value},
    )  # fmt: skip
    archive = raw + data + bytes(-len(data) % 512) + ustar.END
    [(entry, content)] = entries(archive, step)
    assert (entry.name, entry.mode, entry.uid, entry.gid, content) == (name, mode, uid, uid // 2, data)
    assert entry.xattrs == {"user.x": value}
    assert abs(entry.mtime_ns - mtime_ns) <= (10**9 if mtime_ns < 0 else 0), "exact from 1970 on"
    with tarfile.open(fileobj=io.BytesIO(archive)) as other:
        member = other.getmembers()[0]
        assert (member.uid, member.size, member.mode) == (uid, len(data), mode)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_other_programs_headers(format: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for number, kind in enumerate(
            (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)
        ):
            entry = tarfile.TarInfo("p" * 60 + "/" + "n" * 90 + str(number))
            entry.type, entry.linkname, entry.uid, entry.mtime = kind, "target", 1000 + number, 12345
            archive.addfile(entry)
        device = tarfile.TarInfo("null")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        archive.addfile(device)
    found = [entry for entry, _ in entries(out.getvalue())]
    assert [e.type for e in found] == [b"0", b"5", b"2", b"1", b"6", b"3"]
    assert found[2].link == "target" and found[4].uid == 1004 and found[0].mtime_ns == 12345 * 10**9
    assert found[0].name == "p" * 60 + "/" + "n" * 90 + "0" and found[5].device == (1, 3)


def test_numbers() -> None:
    assert tar.number(b"0000644\0") == 0o644 and tar.number(b"   17 \0\0") == 0o17 and tar.number(bytes(8)) == 0
    assert tar.number(b"\x80" + bytes(6) + b"\x05") == 5
    assert tar.number(b"\xff" * 8) == -1
    for field in (b"9999999\0", b"abc\0\0\0\0\0", b"\x80" + b"\xff" * 11):
        with pytest.raises(InvalidArgument, match="invalid tar header"):
            tar.number(field)


def test_rubbish_is_an_error_and_never_a_crash() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a" * 150, "b/c", "é" * 70):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.pax_headers = 600, 1.5, {"SCHILY.xattr.user.x": "y"}
            archive.addfile(entry, io.BytesIO(b"d" * 600))
    good = out.getvalue()
    dice = random.Random(7)
    refused = 0
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(dice.randrange(1, 6)):
            at = dice.randrange(len(bad))
            bad[at] = dice.randrange(256)
            if dice.random() < 0.5:  # a valid checksum lets the damage in
                start = at - at % 512
                block = bytes(bad[start : start + 148]) + b" " * 8 + bytes(bad[start + 156 : start + 512])
                bad[start + 148 : start + 156] = b"%06o\0 " % sum(block)
        try:
            entries(bytes(bad[: dice.randrange(1, len(bad))]))
        except InvalidArgument:
            refused += 1
    assert refused > 100
