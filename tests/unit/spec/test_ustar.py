"""Blocks of the tar format, read back by Python's tarfile and looked at byte by byte where the standard fixes
the byte.
"""

from __future__ import annotations

import stat
import tarfile

import pytest

from sampan.spec import ustar


def test_a_block_has_the_fields_of_ustar() -> None:
    block = ustar.block(
        b"dir/name",
        kind=b"3",
        mode=0o4755,
        uid=1000,
        gid=ustar.SHORT_LIMIT - 1,
        size_bytes=ustar.LONG_LIMIT - 1,
        mtime_s=1_700_000_000,
        link=b"target",
        device=(1, 3),
        prefix=b"above",
    )
    assert len(block) == ustar.BLOCK and block[257:265] == b"ustar\x0000"
    member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    assert (member.name, member.mode, member.uid, member.gid) == ("above/dir/name", 0o4755, 1000, ustar.SHORT_LIMIT - 1)
    assert (member.size, member.mtime, member.linkname) == (ustar.LONG_LIMIT - 1, 1_700_000_000, "target")
    assert (member.type, member.devmajor, member.devminor) == (tarfile.CHRTYPE, 1, 3)


def test_a_name_may_fill_its_field() -> None:
    full = b"n" * ustar.NAME_BYTES
    member = tarfile.TarInfo.frombuf(ustar.block(full, kind=b"0", mode=0o644), "utf-8", "strict")
    assert member.name == full.decode()


@pytest.mark.parametrize("length", [1, 2, 89, 90, 91, 92, 988, 989, 990, 991, 992])
def test_a_record_counts_itself(length: int) -> None:
    record = ustar.pax_record(b"path", b"v" * length)
    size, _, rest = record.partition(b" ")
    assert int(size) == len(record) and rest == b"path=" + b"v" * length + b"\n"


def test_contents_are_padded_to_a_block() -> None:
    assert [len(ustar.padding(size)) for size in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]


def test_every_kind_but_a_socket_has_a_flag() -> None:
    assert stat.S_IFSOCK not in ustar.KINDS and len(set(ustar.KINDS.values())) == 6
