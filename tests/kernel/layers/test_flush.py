"""A layer on the disk: its own files and nobody else's, wherever the file system puts them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.engine.layers import flush, places
from sampan.linux import filesystems
from sampan.linux.filesystems import FS_TOPDIR_FL, get_inode_flags
from tests.conftest import lacks
from tests.kernel.images.archives import archive, directory, member, unpack_into

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture(params=["journal", "no journal"])
def ext4(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, bool]]:
    """An empty ext4 on a loop device, and whether it has a journal."""
    if not shutil.which("mkfs.ext4"):
        lacks("mkfs.ext4 is missing")
    journal = request.param == "journal"
    image, root = tmp_path / "image", tmp_path / "root"
    with image.open("wb") as file:
        file.truncate(512 * MIB)
    options = ["-O", "has_journal" if journal else "^has_journal"]
    subprocess.run(["mkfs.ext4", "-q", "-F", *options, str(image)], check=True)
    root.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(root)], check=True)
    yield root, journal
    subprocess.run(["umount", str(root)], check=True)


def written_bytes(root: Path) -> int:
    """How much the device below `root` has been given to write since it is there."""
    device = root.stat().st_dev
    return 512 * int(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()[6])


def unwritten_bytes(path: Path) -> int:
    """How much of a file has no place on the disk yet."""
    shown = subprocess.run(["filefrag", "-v", str(path)], check=True, capture_output=True, text=True).stdout
    blocks = sum(
        int(line.split(":")[3]) for line in shown.splitlines() if re.match(r" +\d+:", line) and "delalloc" not in line
    )
    return path.stat().st_size - blocks * 4096


def test_only_a_journal_commits_in_order(ext4: tuple[Path, bool], tmp_path: Path) -> None:
    root, journal = ext4
    fd = os.open(root, os.O_RDONLY)
    try:
        assert flush.commits_in_order(fd) == journal
    finally:
        os.close(fd)
    fd = os.open("/dev/shm", os.O_RDONLY)
    try:
        assert not flush.commits_in_order(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("files", [3, 200])
def test_a_layer_is_written_and_what_others_wrote_is_not(ext4: tuple[Path, bool], files: int) -> None:
    root, journal = ext4
    subprocess.run(["sync", "-f", str(root)], check=True)
    with (root / "foreign").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(MIB))
    before = written_bytes(root)
    unpack_into(root / "l", archive(directory("d"), *(member(f"d/{i}", os.urandom(20_000)) for i in range(files))))
    written = written_bytes(root) - before
    assert written >= files * 20_000
    for path in [*(root / "l" / "fs" / "d").iterdir(), root / "l" / "tar-split"]:
        assert unwritten_bytes(path) <= 0, path
    if journal:
        assert written < 32 * MIB, "the foreign file went along"


def test_a_file_that_cannot_be_written_fails_the_layer(
    ext4: tuple[Path, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, journal = ext4

    def fails(*_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(filesystems, "sync_file_range" if journal else "syncfs", fails)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Input/output error"):
        unpack_into(root / "l", archive(*(member(str(i), b"x") for i in range(100))))
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_made_elsewhere_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive(
        directory("d", mode=0o2755, gid=7),
        *(member(f"d/{i}", b"%d" % i, mode=0o4711, uid=3) for i in range(100)),
        member("d/99", b"again"),
    )
    monkeypatch.setattr(places, "SLOW_S", 1e9)
    plain = unpack_into(tmp_path / "plain", data)
    assert not get_flags(tmp_path / "plain") & FS_TOPDIR_FL
    monkeypatch.setattr(places, "SLOW_S", -1.0)
    moved = unpack_into(tmp_path / "moved", data)
    assert get_flags(tmp_path / "moved") & FS_TOPDIR_FL, "never went elsewhere"
    assert moved == plain
    assert sorted(os.listdir(tmp_path / "moved")) == sorted(os.listdir(tmp_path / "plain"))
    for path in (tmp_path / "plain").rglob("*"):
        other = tmp_path / "moved" / path.relative_to(tmp_path / "plain")
        here, there = path.lstat(), other.lstat()
        assert [here.st_mode, here.st_uid, here.st_gid, here.st_nlink] == [
            there.st_mode, there.st_uid, there.st_gid, there.st_nlink,
        ], path  # fmt: skip
        if path.is_file():
            assert path.read_bytes() == other.read_bytes()


def get_flags(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return get_inode_flags(fd)
    finally:
        os.close(fd)
