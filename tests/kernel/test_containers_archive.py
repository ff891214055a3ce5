"""`docker cp` against hostile containers: whatever a container does with its names, no byte outside of its root is read
or written.

The rows of SECURITY.md: CVE-2018-15664 and GHSA-rg2x-37c3-w2rh (symlink exchange), CVE-2019-14271 (code loaded from
the container while copying), zip slip.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tarfile
from pathlib import Path

import pytest

from sampan.engine.containers import archive
from sampan.engine.containers.extract import ExtractOptions, extract, owner_of
from sampan.engine.tasks import procfs
from sampan.errors import InvalidArgument
from tests.support import tars
from tests.support.races import exchanging
from tests.support.tars import Member

SECRET = b"the host's secret"

pytestmark = pytest.mark.usefixtures("root")


class Bytes:
    """A source of bytes for `extract`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self) -> bytes:
        data, self._data = self._data, b""
        return data


def tar(*members: Member) -> Bytes:
    return Bytes(tars.tar(*members))


def member(name: str, data: bytes = b"", type_: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    return tars.member(name, data, kind=type_, link=link)


def root_at(path: Path, inside: str) -> archive.Root:
    return archive.Root(os.open(path, os.O_PATH | os.O_DIRECTORY), inside)


def packed(path: Path, inside: str) -> bytes:
    """Return the whole archive of what is inside; raises what `pack` raises, with nothing left open."""
    root = root_at(path, inside)
    try:
        chunks = archive.pack(root)
    except BaseException:
        os.close(root.fd)
        raise
    return b"".join(chunks)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A container's root with a directory and a symlink to the host's directory beside it, to be exchanged."""
    host, root = tmp_path / "host", tmp_path / "root"
    host.mkdir()
    (host / "file").write_bytes(SECRET)
    (root / "w" / "dir").mkdir(parents=True)
    (root / "w" / "dir" / "file").write_bytes(b"harmless")
    (root / "w" / "link").symlink_to(host)
    return root


def test_cve_2018_15664_symlink_exchange_while_reading(hostile: Path) -> None:
    naive = 0
    with exchanging(hostile / "w" / "dir", hostile / "w" / "link"):
        for _ in range(1500):
            with contextlib.suppress(OSError):
                naive += (hostile / "w" / "dir" / "file").read_bytes() == SECRET
            with contextlib.suppress(OSError):
                data = packed(hostile, "/w/dir/file")
                assert SECRET not in data
            with contextlib.suppress(OSError):
                assert SECRET not in packed(hostile, "/w/dir/")
    assert naive, "the exchange never hit: this test proves nothing"


def test_cve_2018_15664_symlink_exchange_while_writing(hostile: Path) -> None:
    host = hostile.parent / "host"
    with exchanging(hostile / "w" / "dir", hostile / "w" / "link"):
        for _ in range(800):
            target = os.open(hostile, os.O_PATH | os.O_DIRECTORY)
            try:
                with contextlib.suppress(OSError):
                    extract(tar(member("w/dir/planted", b"x")), target, ExtractOptions())
            finally:
                os.close(target)
    assert sorted(p.name for p in host.iterdir()) == ["file"]
    assert (host / "file").read_bytes() == SECRET


def test_a_symlink_leads_to_the_same_name_inside_the_root(hostile: Path) -> None:
    (hostile / "abs").symlink_to("/w/dir/file")
    (hostile / "out").symlink_to("../../../../host/file")
    with root_at(hostile, "/abs") as root:
        assert archive.describe(root)["linkTarget"] == "/w/dir/file"
    with root_at(hostile, "/out/") as root, pytest.raises(OSError, match="No such file"):
        archive.describe(root)


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/../escaped"])
def test_zip_slip(hostile: Path, name: str) -> None:
    target = os.open(hostile / "w" / "dir", os.O_PATH | os.O_DIRECTORY)
    try:
        with contextlib.suppress(InvalidArgument):
            extract(tar(member(name, b"x")), target, ExtractOptions())
    finally:
        os.close(target)
    found = {p.name for p in hostile.parent.rglob("escaped")}
    assert not found or (hostile / "w" / "dir" / "escaped").exists()
    assert not (hostile / "w" / "escaped").exists() and not (hostile / "escaped").exists()


def test_a_link_in_the_archive_does_not_carry_later_members_outside(hostile: Path) -> None:
    host = hostile.parent / "host"
    target = os.open(hostile, os.O_PATH | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError, InvalidArgument):
            extract(
                tar(member("l", type_=tarfile.SYMTYPE, link=str(host)), member("l/file", b"changed")),
                target,
                ExtractOptions(),
            )
        with contextlib.suppress(OSError, InvalidArgument):
            extract(
                tar(member("h", type_=tarfile.LNKTYPE, link="../host/file"), member("h", b"changed")),
                target,
                ExtractOptions(),
            )
    finally:
        os.close(target)
    assert (host / "file").read_bytes() == SECRET


def test_cve_2019_14271_nothing_is_imported_while_copying(hostile: Path) -> None:
    target = os.open(hostile, os.O_PATH | os.O_DIRECTORY)
    before = set(sys.modules)
    try:
        extract(tar(member("n", b"x")), target, ExtractOptions())
        packed(hostile, "/w")
        with root_at(hostile, "/n") as root:
            archive.describe(root)
    finally:
        os.close(target)
    assert set(sys.modules) == before


def test_what_may_replace_what(hostile: Path) -> None:
    (hostile / "d").mkdir()
    (hostile / "f").write_text("old")
    target = os.open(hostile, os.O_PATH | os.O_DIRECTORY)
    strict = ExtractOptions(no_overwrite_dir_non_dir=True, target="/w")
    try:
        with pytest.raises(InvalidArgument, match='cannot overwrite directory "d" with non-directory "/w"'):
            extract(tar(member("d", b"x")), target, strict)
        with pytest.raises(InvalidArgument, match='cannot overwrite non-directory "f" with directory "/w"'):
            extract(tar(member("f", type_=tarfile.DIRTYPE)), target, strict)
        extract(tar(member("d", b"now a file"), member("f", b"new")), target, ExtractOptions())
    finally:
        os.close(target)
    assert ((hostile / "d").read_bytes(), (hostile / "f").read_bytes()) == (b"now a file", b"new")


def test_round_trip_keeps_modes_times_links_and_owners(hostile: Path) -> None:
    source = hostile / "src"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "tool").write_bytes(b"#!/bin/sh\n")
    (source / "sub" / "tool").chmod(0o4755)
    os.link(source / "sub" / "tool", source / "same")
    (source / "rel").symlink_to("sub/tool")
    os.chown(source / "sub", 12, 34)
    os.utime(source / "sub", ns=(10**18, 10**18))
    data = packed(hostile, "/src")
    (hostile / "dst").mkdir()
    target = os.open(hostile / "dst", os.O_PATH | os.O_DIRECTORY)
    try:
        extract(Bytes(data), target, ExtractOptions())
    finally:
        os.close(target)
    copy = hostile / "dst" / "src"
    st = (copy / "sub").stat()
    assert (st.st_uid, st.st_gid, st.st_mtime_ns) == (12, 34, 10**18)
    assert (copy / "sub" / "tool").stat().st_mode & 0o7777 == 0o4755
    assert (copy / "same").stat().st_ino == (copy / "sub" / "tool").stat().st_ino
    assert os.readlink(copy / "rel") == "sub/tool"


def test_the_root_of_a_process_that_is_not_the_containers_is_refused() -> None:
    """A pid that the kernel has given to a process of the host since: `cp` must not read the host."""
    with pytest.raises(ProcessLookupError, match="is not of task"):
        procfs.open_root(os.getpid(), "f" * 64)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("1000", (1000, 0)), ("1000:2000", (1000, 2000)), ("daemon", (77, 78)), ("daemon:bin", (77, 99)), ("0", (0, 0)),
        ("77", (77, 78)), ("nosuch", 'user "nosuch" in container: no matching entries in passwd file'),
        ("daemon:nosuch", "no matching entries in group file"), ("4294967295", "uids and gids end at"),
    ],
)  # fmt: skip
def test_copy_uid_gid_is_the_containers_user(hostile: Path, user: str, expected: tuple[int, int] | str) -> None:
    """As Docker Engine 28.5.2 answered for the same passwd and group."""
    (hostile / "etc").mkdir(exist_ok=True)
    (hostile / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\ndaemon:x:77:78::/:/bin/sh\n")
    (hostile / "etc/group").write_text("root:x:0:\nbin:x:99:\n")
    root = os.open(hostile, os.O_PATH | os.O_DIRECTORY)
    try:
        if isinstance(expected, str):
            with pytest.raises(InvalidArgument, match=expected):
                owner_of(root, user)
            return
        assert owner_of(root, user) == expected
        (hostile / "into").mkdir()
        into = os.open(hostile / "into", os.O_PATH | os.O_DIRECTORY)
        try:
            extract(tar(member("owned", b"x")), into, ExtractOptions(owner=expected))
        finally:
            os.close(into)
        st = (hostile / "into/owned").stat()
        assert (st.st_uid, st.st_gid) == expected
    finally:
        os.close(root)


@pytest.mark.parametrize("name", ["", ".", "./", "/"])
def test_an_entry_of_the_target_itself_says_nothing(hostile: Path, name: str) -> None:
    before = (hostile / "w").stat()
    target = os.open(hostile / "w", os.O_PATH | os.O_DIRECTORY)
    try:
        payload = b"" if name.endswith("/") else b"xy"
        members = [member(name, type_=tarfile.DIRTYPE), member(name, payload), member("f", b"1")]
        extract(tar(*members), target, ExtractOptions())
    finally:
        os.close(target)
    after = (hostile / "w").stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert (hostile / "w/f").read_bytes() == b"1"
