"""`cp`: where a copy lands, what is packed, and that no archive can make extraction leave its destination."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.cli.container import archive, copying
from sampan.cli.container.copying import CopyRefused, CopySource, Destination
from tests.support.tars import member, tar


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("web:/etc", ("web", "/etc")),
        ("/a:b", ("", "/a:b")),
        ("./a:b", ("", "./a:b")),
        ("plain", ("", "plain")),
        ("web:", ("web", "")),
        ("-", ("", "-")),
    ],
)
def test_arguments(text: str, parts: tuple[str, str]) -> None:
    assert copying.split_argument(text) == parts


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [("a//b/", "a/b/"), ("a/./b/.", "a/b/."), ("/", "/"), ("/.", "/."), (".", "./."), ("a/..", ".")],
)
def test_cleaning_keeps_what_the_end_says(path: str, cleaned: str) -> None:
    assert copying.clean(path) == cleaned


FILE, TREE, CONTENTS = (
    CopySource("/s/f", is_dir=False),
    CopySource("/s/d", is_dir=True),
    CopySource("/s/d/.", is_dir=True),
)


@pytest.mark.parametrize(
    ("source", "destination", "placed"),
    [
        (FILE, Destination("/t", exists=True, is_dir=True), ("/t", "", "")),
        (FILE, Destination("/t/g", exists=True), ("/t", "f", "g")),
        (FILE, Destination("/t/g"), ("/t", "f", "g")),
        (TREE, Destination("/t", exists=True, is_dir=True), ("/t", "", "")),
        (TREE, Destination("/t/new"), ("/t", "d", "new")),
        (TREE, Destination("/t/new/"), ("/t", "d", "new")),
        (CONTENTS, Destination("/t", exists=True, is_dir=True), ("/t", "", "")),
        (CONTENTS, Destination("/t/new"), ("/t", ".", "new")),
    ],
)
def test_places(source: CopySource, destination: Destination, placed: tuple[str, str, str]) -> None:
    assert copying.place(source, destination) == placed


def test_refusals() -> None:
    with pytest.raises(CopyRefused, match="cannot copy directory"):
        copying.place(TREE, Destination("/t/f", exists=True))
    with pytest.raises(CopyRefused, match="no such directory"):
        copying.place(FILE, Destination("/t/new/"))


@pytest.mark.parametrize(
    ("entry", "old", "new", "name"),
    [("d/x", "d", "n", "n/x"), ("d", "d", "n", "n"), ("dx", "d", "n", "dx"), (".", ".", "n", "n"),
     ("./x", ".", "n", "n/x"), ("x", "", "", "x")],
)  # fmt: skip
def test_renaming(entry: str, old: str, new: str, name: str) -> None:
    assert copying.renamed(entry, old, new) == name


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_bytes(b"x" * 70_000)
    (tree / "script").write_text("#!/bin/sh\n")
    (tree / "script").chmod(0o4755)
    (tree / "link").symlink_to("sub/file")
    os.link(tree / "script", tree / "zhard")
    os.mkfifo(tree / "pipe", 0o600)
    (tree / "sub").chmod(0o500)
    os.utime(tree / "sub", (1000, 1000))
    out = tmp_path / "out"
    out.mkdir()
    count = archive.extract(archive.pack(str(tree), "tree"), str(out), old="tree", new="copy")
    copy = out / "copy"
    assert count > 70_000 and (copy / "sub" / "file").read_bytes() == b"x" * 70_000
    assert stat.S_IMODE((copy / "script").stat().st_mode) == 0o4755
    assert os.readlink(copy / "link") == "sub/file"
    assert (copy / "zhard").stat().st_ino == (copy / "script").stat().st_ino
    assert stat.S_ISFIFO((copy / "pipe").stat().st_mode)
    assert stat.S_IMODE((copy / "sub").stat().st_mode) == 0o500 and (copy / "sub").stat().st_mtime == 1000


def test_a_file_that_shrinks_while_it_is_packed_keeps_the_archive_whole(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * 1000)
    pieces = archive.pack(str(file), "f")
    head = next(pieces)
    file.write_bytes(b"short")
    data = head + b"".join(pieces)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmembers()[0].size == 1000


# -- hostile archives ------------------------------------------------------------------------------------------------


def _tar(*members: tuple[str, bytes, str, bytes]) -> bytes:
    """(name, type, link target, contents) → archive."""
    return tar(*(member(name, data, kind=kind, link=link, mode=0o755) for name, kind, link, data in members))


REG, DIR, SYM, LNK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    "make",
    [
        lambda out: [("../escape", REG, "", b"x")],
        lambda out: [("d/../../escape", REG, "", b"x")],
        lambda out: [("link", SYM, str(out), b""), ("link/escape", REG, "", b"x")],
        lambda out: [("link", SYM, "..", b""), ("link/escape", REG, "", b"x")],
        lambda out: [("d", DIR, "", b""), ("d/link", SYM, "../..", b""), ("d/link/escape", DIR, "", b"")],
        lambda out: [("hard", LNK, "../secret", b"")],
        lambda out: [("link", SYM, str(out), b""), ("hard", LNK, "link/secret", b"")],
        lambda out: [("link", SYM, str(out), b""), ("link", DIR, "", b""), ("link/escape", REG, "", b"x")],
    ],
)
def test_cve_2018_15664_no_archive_leaves_the_destination(
    tmp_path: Path, make: Callable[[Path], list[tuple[str, bytes, str, bytes]]]
) -> None:
    (tmp_path / "secret").write_text("secret")
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(archive.UnsafeArchive):
        archive.extract([_tar(*make(tmp_path))], str(inside))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inside", "secret"]
    assert (tmp_path / "secret").read_text() == "secret"


def test_an_absolute_name_lands_inside(tmp_path: Path) -> None:
    archive.extract([_tar(("/etc/x", REG, "", b"1"))], str(tmp_path))
    assert (tmp_path / "etc" / "x").read_text() == "1"


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("old")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "f").symlink_to(tmp_path / "victim")
    archive.extract([_tar(("f", REG, "", b"new"))], str(inside))
    assert (tmp_path / "victim").read_text() == "old" and (inside / "f").read_text() == "new"


def test_directories_and_others_do_not_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("x")
    with pytest.raises(archive.UnsafeArchive, match='cannot overwrite directory "d" with non-directory'):
        archive.extract([_tar(("d", REG, "", b"x"))], str(tmp_path))
    with pytest.raises(archive.UnsafeArchive, match='cannot overwrite non-directory "f" with directory'):
        archive.extract([_tar(("f", DIR, "", b""))], str(tmp_path))


def test_a_truncated_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(archive.TarError):
        archive.extract([_tar(("f", REG, "", b"x" * 5000))[:1500]], str(tmp_path))
