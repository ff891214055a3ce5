"""A context's archive: what it means, and what is refused in the reference's words."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sampan.engine.archives import streams, tar, tar_writer
from sampan.engine.builder.files.tartree import TarTree, _Index
from sampan.errors import Internal, InvalidArgument, NotFound
from tests.support import tars

KINDS = {
    "f": tarfile.REGTYPE,
    "d": tarfile.DIRTYPE,
    "l": tarfile.SYMTYPE,
    "h": tarfile.LNKTYPE,
    "c": tarfile.CHRTYPE,
    "p": tarfile.FIFOTYPE,
}


def archive(*members: tuple[Any, ...], format: int = tarfile.PAX_FORMAT) -> bytes:
    """(name, kind, content or target, attributes…)."""
    made = (
        tars.member(
            name,
            content.encode() if kind == "f" else b"",
            kind=KINDS[kind],
            link=content if kind in "lh" else "",
            **{"mtime": 1_600_000_000, **(rest[0] if rest else {})},
        )
        for name, kind, content, *rest in members
    )
    return tars.tar(*made, format=format)


class Chunks:
    """A source that gives so many bytes at a time."""

    def __init__(self, data: bytes, size: int = 1 << 20) -> None:
        self._file, self._size = io.BytesIO(data), size

    def read(self) -> bytes:
        return self._file.read(self._size)


def read(directory: Path, data: bytes, size: int = 1 << 20, **options: Any) -> TarTree:
    return TarTree.read(Chunks(data, size), str(directory), **options)


def contents(tree: TarTree) -> dict[str, str]:
    found = {}
    for path, entry in tree.entries().items():
        if entry.kind == "f":
            with tree.open(path) as file:
                found[path] = file.read().decode()
    return found


def test_entries_contents_and_digests(tmp_path: Path) -> None:
    tree = read(tmp_path, archive(("d", "d", ""), ("d/a", "f", "hello", {"mode": 0o4755, "uid": 5}), ("l", "l", "d/a")))
    assert list(tree.entries()) == ["d", "d/a", "l"]
    entry = tree.entries()["d/a"]
    assert (entry.mode, entry.uid, entry.size, entry.mtime_ns) == (0o4755, 0, 5, 1_600_000_000 * 10**9)
    assert tree.digest("d/a") == "sha256:" + hashlib.sha256(b"hello").hexdigest()
    assert tree.entries()["l"].link == "d/a"
    with pytest.raises(NotFound):
        tree.open("l")
    tree.close()
    assert os.listdir(tmp_path) == []


def test_owners_are_kept_when_asked_for(tmp_path: Path) -> None:
    tree = read(tmp_path, archive(("a", "f", "x", {"uid": 5, "gid": 6})), keep_owner=True)
    assert (tree.entries()["a"].uid, tree.entries()["a"].gid) == (5, 6)
    tree.close()


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 4096, 1 << 20])
def test_chunks_of_any_size_give_the_same(tmp_path: Path, size: int) -> None:
    members = [("d", "d", "")] + [(f"d/{i}" + "n" * (i % 150), "f", str(i) * (i % 1500)) for i in range(40)]
    tree = read(tmp_path, archive(*members), size)
    assert contents(tree) == {m[0]: m[2] for m in members if m[1] == "f"}
    for path, text in contents(tree).items():
        assert tree.digest(path) == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    tree.close()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_formats_and_dotted_names(tmp_path: Path, format: int) -> None:
    long = "p" * 80 + "/" + "n" * 90
    tree = read(
        tmp_path, archive(("./", "d", ""), ("./a", "f", "1"), ("./.hidden", "f", "2"), (long, "f", "3"), format=format)
    )
    assert contents(tree) == {"a": "1", ".hidden": "2", long: "3"}
    assert tree.entries()["p" * 80].kind == "d"
    tree.close()


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, lambda data: zstandard.ZstdCompressor().compress(data)],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
def test_compressed(tmp_path: Path, compress: Any) -> None:
    tree = read(tmp_path, compress(archive(("a", "f", "x" * 100_000))), 1000)
    assert contents(tree) == {"a": "x" * 100_000}
    tree.close()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_both_ways_of_reading_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: int) -> None:
    """The fast reading of plain headers beside the whole format's."""
    long = "p" * 60 + "/" + "q" * 60
    data = archive(
        ("d", "d", "", {"mode": 0o1755}),
        ("d/a", "f", "x" * 1234, {"mode": 0o644, "uid": 7, "gid": 8}),
        ("d/l", "l", "../a"),
        (long[:60], "d", ""),
        (long, "f", "long"),
        ("./dotted", "f", "y"),
        ("d/ä", "f", ""),
        ("d/.hidden", "f", "z"),
        format=format,
    )
    fast = read(tmp_path, data, keep_owner=True)
    monkeypatch.setattr(_Index, "plain", lambda self: True)
    slow = read(tmp_path, data, keep_owner=True)
    assert dict(fast.entries()) == dict(slow.entries()) and list(fast.entries()) == list(slow.entries())
    assert contents(fast) == contents(slow)
    assert all(fast.digest(path) == slow.digest(path) for path in contents(fast))
    fast.close()
    slow.close()


def test_large_contents_are_hashed_in_pieces(tmp_path: Path) -> None:
    text = "0123456789abcdef" * 300_000
    tree = read(tmp_path, archive(("big", "f", text), ("after", "f", "y")))
    assert tree.digest("big") == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert contents(tree)["after"] == "y"
    tree.close()


def test_later_entries_replace_earlier_ones(tmp_path: Path) -> None:
    tree = read(
        tmp_path,
        archive(("a", "f", "1"), ("a", "f", "22"), ("b/c", "f", "x"), ("b", "f", "y"), ("d", "f", "z"), ("d", "d", "")),
    )
    assert contents(tree) == {"a": "22", "b": "y"}
    assert tree.entries()["d"].kind == "d"
    tree.close()


def test_missing_parents_are_as_old_as_what_they_hold(tmp_path: Path) -> None:
    tree = read(tmp_path, archive(("a/b/c", "f", "1", {"mtime": 100}), ("a/d", "f", "1", {"mtime": 50})))
    entries = tree.entries()
    assert (entries["a"].mode, entries["a"].mtime_ns, entries["a/b"].mtime_ns) == (0o755, 100 * 10**9, 100 * 10**9)
    tree.close()


def test_hard_links_share_a_content(tmp_path: Path) -> None:
    tree = read(
        tmp_path, archive(("a", "f", "one"), ("b", "h", "a"), ("c", "h", "b"), ("a", "f", "two"), ("d", "h", "c"))
    )
    assert contents(tree) == {"a": "two", "b": "one", "c": "one", "d": "one"}
    links = {path: entry.hardlink for path, entry in tree.entries().items()}
    assert links == {"a": "", "b": "", "c": "b", "d": "b"}
    tree.close()


def test_names_through_links_land_inside(tmp_path: Path) -> None:
    tree = read(
        tmp_path,
        archive(("real", "d", ""), ("l", "l", "/real"), ("l/x", "f", "1"), ("e", "l", "/etc"), ("e/y", "f", "2")),
    )
    assert contents(tree) == {"real/x": "1", "etc/y": "2"}
    tree.close()


def test_absolute_names_are_the_contexts(tmp_path: Path) -> None:
    tree = read(tmp_path, archive(("/etc/x", "f", "1"), ("a/../b", "f", "2")))
    assert contents(tree) == {"etc/x": "1", "b": "2"}
    tree.close()


def test_attributes_devices_and_sparse_files(tmp_path: Path) -> None:
    header = tar_writer.header
    data = header(b"cap", xattrs={"security.capability": b"\x01\x02"}, size_bytes=1) + b"x" + bytes(511)
    data += header(b"null", kind=b"3", device=(1, 3)) + header(b"pipe", kind=b"6")
    sparse = tarfile.TarInfo("hole")
    sparse.pax_headers = {
        "GNU.sparse.map": "4096,3,10000,2",
        "GNU.sparse.size": "20000",
        "GNU.sparse.name": "hole",
        "GNU.sparse.numblocks": "2",
    }
    sparse.size = 5
    data += sparse.tobuf(tarfile.PAX_FORMAT) + b"abcde" + bytes(507) + bytes(1024)
    tree = read(tmp_path, data)
    entries = tree.entries()
    assert entries["cap"].xattrs == {"security.capability": b"\x01\x02"}
    assert (entries["null"].kind, entries["null"].device, entries["pipe"].kind) == ("c", (1, 3), "p")
    whole = bytes(4096) + b"abc" + bytes(10000 - 4099) + b"de" + bytes(20000 - 10002)
    assert tree.digest("hole") == "sha256:" + hashlib.sha256(whole).hexdigest()
    with tree.open("hole") as file:
        assert file.read() == whole
        file.seek(4097)
        assert file.read(3) == b"bc\0"
    target = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
    tree.copy_to("hole", target)
    os.close(target)
    assert (tmp_path / "copy").read_bytes() == whole
    tree.close()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a name that leads out": (archive(("../x", "f", "1")), 'invalid entry name "../x"'),
    "a name that leads out on the way": (archive(("a/../../x", "f", "1")), 'invalid entry name "a/../../x"'),
    "links in a circle": (
        archive(("a", "l", "b"), ("b", "l", "a"), ("a/x", "f", "1")),
        "statat a: too many levels of symbolic links",
    ),
    "a link that climbs out": (
        archive(("l", "l", "../../.."), ("l/x", "f", "1")),
        "statat l: path escapes from parent",
    ),
    "a hard link to outside": (
        archive(("h", "h", "../../etc/passwd")),
        'invalid hardlink target "../../etc/passwd"',
    ),
    "a hard link to the host": (archive(("h", "h", "/etc/passwd")), "linkat etc/passwd h: no such file or directory"),
    "a hard link to nothing": (archive(("h", "h", "nope")), "linkat nope h: no such file or directory"),
    "a hard link to a directory": (archive(("d", "d", ""), ("h", "h", "d")), "linkat d h: operation not permitted"),
    "a file as directory": (archive(("a", "f", "1"), ("a/b", "f", "2")), "openat a/b: not a directory"),
    "a name of 300 bytes": (archive(("n" * 300, "f", "1")), f"openat {'n' * 300}: file name too long"),
    "an archive that ends early": (archive(("a", "f", "1" * 3000))[:1800], "unexpected EOF"),
    "a size that is a lie": (archive(("a", "f", "", {"size": 1 << 40})), "unexpected EOF"),
    "no archive": (b"not a tar at all" * 100, "archive/tar: invalid tar header"),
    "a header that was changed": (b"X" + archive(("a", "f", "1"))[1:], "archive/tar: invalid tar header"),
    "gzip that ends early": (gzip.compress(archive(("a", "f", "1")))[:80], "unexpected EOF"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_is_refused_as_the_reference_does(tmp_path: Path, name: str) -> None:
    data, words = HOSTILE[name]
    with pytest.raises(InvalidArgument) as caught:
        read(tmp_path, data)
    assert caught.value.message == words or isinstance(caught.value, tar.InvalidHeader)
    assert os.listdir(tmp_path) == []


def test_a_path_of_a_million_levels_is_refused_at_once(tmp_path: Path) -> None:
    """Without a million entries on the way there."""
    path = b"a/" * 500_000 + b"x"
    record = b"path=" + path + b"\n"
    length = len(record) + 1 + len(str(len(record) + 8))
    body = b"%d %s" % (length, record)
    extended = tar_writer.header(b"pax", kind=b"x", size_bytes=len(body))
    data = extended + body + bytes(-len(body) % 512) + tar_writer.header(b"short") + bytes(1024)
    with pytest.raises(InvalidArgument, match="file name too long"):
        read(tmp_path, data)


def test_a_sparse_file_larger_than_the_disk_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("hole")
    huge = 1 << 60
    member.pax_headers = {"GNU.sparse.map": f"{huge - 1},1", "GNU.sparse.size": str(huge), "GNU.sparse.name": "hole"}
    member.size = 1
    with pytest.raises(InvalidArgument, match="sparse"):
        read(tmp_path, member.tobuf(tarfile.PAX_FORMAT) + b"x" + bytes(511) + bytes(1024))


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen gigabytes of zeros in half a megabyte of zstd; the ratio counts early here."""
    monkeypatch.setattr(streams, "RATIO_FROM_BYTES", 1 << 24)
    block = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 24))
    head = zstandard.ZstdCompressor().compress(tar_writer.header(b"zeros", size_bytes=1 << 34))
    with pytest.raises(InvalidArgument, match="decompression bomb"):
        read(tmp_path, head + block * 1024, 1000)
    assert os.listdir(tmp_path) == []


def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield archive(("a", "f", "x" * 10_000))[:4096]
        raise ConnectionResetError("gone")

    async def body() -> None:
        with pytest.raises(ConnectionResetError):
            await TarTree.receive(broken(), str(tmp_path))

    asyncio.run(body())
    assert os.listdir(tmp_path) == []


def test_a_request_is_answered_with_500(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"not a tar at all" * 100

    async def body() -> None:
        with pytest.raises(Internal, match=r"invalid tar header$"):
            await TarTree.receive(chunks(), str(tmp_path))

    asyncio.run(body())


def test_slow_clients_take_no_thread_from_others(tmp_path: Path) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield archive(("a", "f", "x"))[:600]
        await asyncio.Event().wait()

    async def body() -> None:
        waiting = [asyncio.create_task(TarTree.receive(slow(), str(tmp_path))) for _ in range(40)]
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 20) == "free"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(body())


def test_a_cancelled_request_leaves_nothing(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield archive(("a", "f", "x"))[:600]
        started.set()
        await asyncio.Event().wait()

    started = asyncio.Event()

    async def body() -> None:
        work = asyncio.create_task(TarTree.receive(endless(), str(tmp_path)))
        await started.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(body())
    assert os.listdir(tmp_path) == []
