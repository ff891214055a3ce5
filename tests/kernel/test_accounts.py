"""Users and groups of a root, read below its descriptor."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.linux import accounts

pytestmark = pytest.mark.root


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def test_a_file_is_read_inside_the_root_and_nothing_else_is(root_fd: int, tmp_path: Path) -> None:
    etc = tmp_path / "root" / "etc"
    assert accounts.read_file(root_fd, "/etc/passwd") == ""
    (etc / "passwd").symlink_to("/etc/real")
    (etc / "real").write_bytes(b"caf\xe9:x:5:6::/home:\n")
    assert accounts.read_file(root_fd, "/etc/passwd") == "caf\xe9:x:5:6::/home:\n"
    (tmp_path / "outside").write_text("evil:x:0:0:::\n")
    for number, target in enumerate(("../../outside", str(tmp_path / "outside"), "/proc/self/status")):
        (etc / f"out{number}").symlink_to(target)
        assert accounts.read_file(root_fd, f"/etc/out{number}") == ""
    os.mkfifo(etc / "fifo")
    (etc / "directory").mkdir()
    for name in ("fifo", "directory", "real/below"):
        assert accounts.read_file(root_fd, f"/etc/{name}") == ""


def test_a_file_that_is_too_large_is_refused(root_fd: int, tmp_path: Path) -> None:
    with (tmp_path / "root" / "etc" / "group").open("wb") as file:
        file.truncate(accounts.FILE_LIMIT_BYTES + 1)
    with pytest.raises(OSError, match="File too large") as refused:
        accounts.read_file(root_fd, "/etc/group")
    assert (refused.value.errno, refused.value.filename) == (errno.EFBIG, "/etc/group")


def test_numbers_are_read_as_go_reads_them() -> None:
    text = "none::x:y\nshort\n# a:x:1:1\n:x:2:2\nlong:x:99999999999999999999:9223372036854775808\nplain:x:7:8:::"
    found = [(one.name, one.uid, one.gid) for one in accounts.parse_passwd(text)]
    top = 2**63 - 1
    assert found == [("none", 0, 0), ("short", 0, 0), ("long", top, top), ("plain", 7, 8)]
    groups = [(one.name, one.gid, one.members) for one in accounts.parse_group("a:x:5:b,c\nd\n")]
    assert groups == [("a", 5, ["b", "c"]), ("d", 0, [""])]
