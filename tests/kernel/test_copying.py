"""Copying of file data and trees between file systems of all kinds. Needs root; leaves nothing mounted."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sampan.linux import copying, mounts
from tests.support.machine import lacks, leaves_nothing

pytestmark = pytest.mark.usefixtures("root")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
T = 1_000_000_007_000_000_123  # ns, not whole seconds


# -- file systems -----------------------------------------------------------------------------------------------------


@contextmanager
def mounted(place: Path, fstype: str, data: str = "") -> Iterator[Path]:
    place.mkdir(parents=True, exist_ok=True)
    mounts.mount(fstype, str(place), fstype, 0, data)
    try:
        yield place
    finally:
        mounts.umount2(str(place), 0)


@contextmanager
def overlay(place: Path, fill: Callable[[Path], None]) -> Iterator[Path]:
    """An overlay whose lower layer `fill` has filled."""
    for name in ("lower", "upper", "work"):
        (place / name).mkdir(parents=True)
    fill(place / "lower")
    data = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    with mounted(place / "merged", "overlay", data) as merged:
        yield merged


@contextmanager
def btrfs(place: Path) -> Iterator[Path]:
    if shutil.which("mkfs.btrfs") is None:
        lacks("mkfs.btrfs is not installed")
    image, mountpoint = place / "btrfs.img", place / "btrfs"
    with image.open("wb") as file:
        file.truncate(1 << 30)
    mountpoint.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mountpoint)], check=True)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


def nothing(_: Path) -> None:
    """An empty lower layer."""


Pair = tuple[str, str]
PAIRS: list[Pair] = [
    ("disk", "disk"), ("overlay", "disk"), ("overlay", "overlay"), ("disk", "overlay"), ("tmpfs", "disk"),
    ("disk", "tmpfs"), ("btrfs", "btrfs"), ("btrfs", "disk"), ("tmpfs", "btrfs"),
]  # fmt: skip


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]} to {pair[1]}")
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """(a directory with `tree`, an empty directory) on two file systems."""
    old, new = request.param
    with leaves_nothing(cgroups=False), ExitStack() as stack:
        shared = stack.enter_context(btrfs(tmp_path)) if "btrfs" in (old, new) else tmp_path

        def place(kind: str, name: str, fill: Callable[[Path], None]) -> Path:
            at = tmp_path / name
            if kind == "overlay":
                return stack.enter_context(overlay(at, fill))
            if kind == "tmpfs":
                stack.enter_context(mounted(at, "tmpfs"))
            elif kind == "btrfs":
                at = shared / name
                at.mkdir()
            else:
                at.mkdir()
            fill(at)
            return at

        yield place(old, "source", tree), place(new, "target", nothing)


# -- what is copied ---------------------------------------------------------------------------------------------------


def tree(root: Path) -> None:
    """One of each kind, with all attributes."""
    (root / "d/below").mkdir(parents=True)
    (root / "d/small").write_bytes(b"small")
    (root / "d/empty").touch()
    (root / "d/large").write_bytes(os.urandom(3 << 20) + b"odd")
    os.link(root / "d/large", root / "d/below/hard")
    with (root / "holes").open("wb") as file:
        for at in (1 << 20, 9 << 20):
            file.seek(at)
            file.write(b"x" * 5000)
        file.truncate(20 << 20)
    (root / "link").symlink_to("/etc/passwd")
    os.link(root / "link", root / "link2", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o622)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)
    os.setxattr(root / "d/small", "trusted.note", b"file")
    os.setxattr(root / "d", "trusted.note", b"directory")
    os.setxattr(root / "link", "trusted.note", b"symlink", follow_symlinks=False)
    os.setxattr(root / "fifo", "trusted.note", b"fifo")
    for name, mode in (("d/large", 0o4751), ("d/small", 0o640), ("fifo", 0o622), ("null", 0o606), ("d", 0o2750)):
        os.chown(root / name, 12, 34)
        os.chmod(root / name, mode)
    os.chown(root / "link", 56, 78, follow_symlinks=False)
    os.setxattr(root / "d/small", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    for above, directories, files in os.walk(root, topdown=False):
        for name in files + directories:
            os.utime(os.path.join(above, name), ns=(T, T), follow_symlinks=False)
    os.chown(root, 90, 91)
    os.chmod(root, 0o1777)
    os.utime(root, ns=(T, T))


def look(root: Path) -> dict[str, object]:
    """Path → everything that a copy must have."""
    found: dict[str, object] = {}
    for above, directories, files in os.walk(root):
        for name in [*directories, *files, "."] if above == str(root) else [*directories, *files]:
            path = os.path.join(above, name)
            status = os.lstat(path)
            if stat.S_ISSOCK(status.st_mode):
                continue
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            keys = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
                if not key.startswith("trusted.overlay.")
            }
            links = status.st_nlink if not stat.S_ISDIR(status.st_mode) else 0
            found[os.path.relpath(path, root)] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns, links, content, keys,
            )  # fmt: skip
    return found


def copy_tree(source: Path, target: Path) -> None:
    old, new = os.open(source, _DIRECTORY), os.open(target, _DIRECTORY)
    try:
        copying.copy_tree(old, new)
    finally:
        os.close(old)
        os.close(new)


def copy_file(source: Path, target: Path, status: os.stat_result | None = None) -> int:
    with source.open("rb") as old, target.open("xb") as new:
        return copying.copy_file(old.fileno(), new.fileno(), status or os.fstat(old.fileno()))


def test_a_tree_is_the_same_on_every_file_system(pair: tuple[Path, Path]) -> None:
    source, target = pair
    copy_tree(source, target)
    assert look(target) == look(source)
    assert (target / "holes").stat().st_blocks * 512 < 1 << 20, "holes stay holes"
    assert (target / "d/below/hard").samefile(target / "d/large")
    assert not (target / "socket").exists()


def test_blocks_are_shared_where_the_file_system_can(tmp_path: Path) -> None:
    with leaves_nothing(cgroups=False), btrfs(tmp_path) as place:
        (place / "old").write_bytes(os.urandom(64 << 20))
        (place / "short").write_bytes(os.urandom(100_000))
        os.sync()
        before = os.statvfs(place).f_bavail
        for name in ("old", "short"):
            copy_file(place / name, place / f"{name}-copy")
            assert (place / name).read_bytes() == (place / f"{name}-copy").read_bytes()
        os.sync()
        assert (before - os.statvfs(place).f_bavail) * os.statvfs(place).f_frsize < 8 << 20


# -- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tmpfs", "disk"])
def test_five_gib_by_holes(tmp_path: Path, kind: str) -> None:
    """Offsets beyond 4 GiB, data at both ends; the copy takes what the data takes."""
    with leaves_nothing(cgroups=False), ExitStack() as stack:
        source = stack.enter_context(mounted(tmp_path / "source", "tmpfs")) if kind == "tmpfs" else tmp_path
        with (source / "old").open("wb") as file:
            file.write(b"begin" * 100_000)
            file.seek((5 << 30) - 6)
            file.write(b"the end")
        assert copy_file(source / "old", tmp_path / "new") == (5 << 30) + 1
        status = (tmp_path / "new").stat()
        assert status.st_size == (5 << 30) + 1 and status.st_blocks * 512 < 2 << 20
        with (tmp_path / "new").open("rb") as file:
            assert file.read(500_000) == b"begin" * 100_000
            file.seek(-9, os.SEEK_END)
            assert file.read() == b"\0\0the end"


def test_a_file_that_is_only_a_hole(tmp_path: Path) -> None:
    with (tmp_path / "old").open("wb") as file:
        file.truncate(3 << 30)
    assert copy_file(tmp_path / "old", tmp_path / "new") == 3 << 30
    status = (tmp_path / "new").stat()
    assert (status.st_size, status.st_blocks) == (3 << 30, 0)


@pytest.mark.parametrize(
    "name", ["/proc/self/mountinfo", "/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"]
)
def test_files_of_the_kernel_have_content_whatever_their_size_says(tmp_path: Path, name: str) -> None:
    """procfs says size 0; sysfs says 4096, and copies inside the kernel report success with nothing done."""
    if not os.path.exists(name):
        lacks(f"the kernel has no {name}")
    size = copy_file(Path(name), tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == Path(name).read_bytes() != b""
    assert size == (tmp_path / "new").stat().st_size


def test_what_is_added_meanwhile_is_left_out_and_what_is_cut_off_is_missing(tmp_path: Path) -> None:
    for dense, size in ((True, 1000), (True, 3 << 20), (False, 8 << 20)):
        old = tmp_path / "old"
        with old.open("wb") as file:
            if not dense:
                file.seek(size - 4096)
                file.write(b"x" * 4096)
                file.seek(0)
                file.write(b"y" * 4096)
            else:
                file.write(os.urandom(size))
        status, data = old.stat(), old.read_bytes()
        with old.open("ab") as file:
            file.write(b"more" * 50_000)
        assert copy_file(old, tmp_path / "grown", status) == size
        assert (tmp_path / "grown").read_bytes() == data
        for left in (size // 2, 10, 0):
            os.truncate(old, left)
            assert copy_file(old, tmp_path / f"shrunk-{left}", status) == left
            assert (tmp_path / f"shrunk-{left}").read_bytes() == data[:left]
        for path in tmp_path.iterdir():
            path.unlink()


def test_a_file_that_is_written_all_the_time_comes_to_an_end(tmp_path: Path) -> None:
    old, stop = tmp_path / "old", threading.Event()
    old.touch()
    status = old.stat()

    def write() -> None:
        with old.open("ab", buffering=0) as file:
            while not stop.is_set() and file.tell() < 1 << 30:
                file.write(b"x" * (1 << 20))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        size = copy_file(old, tmp_path / "new", status)
    finally:
        stop.set()
        writer.join()
    assert size == (tmp_path / "new").stat().st_size <= 65 << 20


def test_a_way_that_is_refused_gives_place_to_the_next(tmp_path: Path) -> None:
    """A target opened with O_APPEND takes neither copy_file_range(2) (EBADF) nor sendfile(2) (EINVAL)."""
    data = os.urandom(3 << 20)
    (tmp_path / "old").write_bytes(data)
    old = os.open(tmp_path / "old", os.O_RDONLY)
    new = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with pytest.raises(OSError) as refused:
            os.copy_file_range(old, new, 10, 0, 0)
        assert refused.value.errno == errno.EBADF
        with pytest.raises(OSError) as refused:
            os.sendfile(new, old, 0, 10)
        assert refused.value.errno == errno.EINVAL
        copying.copy_range(old, new, len(data))
        assert (tmp_path / "new").read_bytes() == data
    finally:
        os.close(old)
        os.close(new)


def test_a_range_is_copied_exactly_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(bytes(range(256)) * 4)
    with mounted(tmp_path / "other", "tmpfs") as other:
        for place in (tmp_path, other):
            (place / "new").write_bytes(b"-" * 20)
            with (tmp_path / "old").open("rb") as old, (place / "new").open("rb+") as new:
                copying.copy_range(old.fileno(), new.fileno(), 5, 100, 10)
                with pytest.raises(OSError, match="a file is shorter than it was") as short:
                    copying.copy_range(old.fileno(), new.fileno(), 5, 1020, 0)
            assert short.value.errno == errno.EIO
            assert (place / "new").read_bytes()[10:] == b"defgh-----"


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(os.urandom(4 << 20))
    with mounted(tmp_path / "small", "tmpfs", "size=1m") as small:
        with pytest.raises(OSError) as full:
            copy_file(tmp_path / "old", small / "new")
        assert full.value.errno == errno.ENOSPC


# -- trees ------------------------------------------------------------------------------------------------------------


def test_depth_costs_neither_recursion_nor_descriptors(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """3000 levels: the path of the last is longer than any call takes."""
    levels = 3000
    with mounted(tmp_path / "m", "tmpfs") as place:
        for name in ("old", "new"):
            (place / name).mkdir()
        at = os.open(place / "old", _DIRECTORY)
        (place / "old/first").write_text("same")
        first = os.open(place / "old/first", os.O_PATH)
        for level in range(levels):
            os.mkdir("d", dir_fd=at)
            below = os.open("d", _DIRECTORY, dir_fd=at)
            os.fchmod(below, 0o700 + level % 8)
            os.close(at)
            at = below
        os.link(f"/proc/self/fd/{first}", "last", dst_dir_fd=at, follow_symlinks=True)
        os.close(at)
        os.close(first)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        open_now = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 150, limits[1]))
        request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits))
        copy_tree(place / "old", place / "new")
        at = os.open(place / "new", _DIRECTORY)
        for level in range(levels):
            below = os.open("d", _DIRECTORY, dir_fd=at)
            assert stat.S_IMODE(os.fstat(below).st_mode) == 0o700 + level % 8
            os.close(at)
            at = below
        status = os.stat("last", dir_fd=at)
        os.close(at)
        assert (status.st_ino, status.st_nlink) == ((place / "new/first").stat().st_ino, 2)
        subprocess.run(["rm", "-rf", str(place / "old"), str(place / "new")], check=True)


def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    with mounted(tmp_path / "m", "tmpfs", "nr_inodes=0") as place:
        for directory in range(10):
            (place / f"old/{directory}").mkdir(parents=True)
            for number in range(10_000):
                os.close(os.open(place / f"old/{directory}/{number}", os.O_CREAT | os.O_WRONLY, 0o600))
        (place / "new").mkdir()
        copy_tree(place / "old", place / "new")
        assert [len(os.listdir(place / f"new/{directory}")) for directory in range(10)] == [10_000] * 10


def test_hard_links_hold_no_descriptors(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source, target = tmp_path / "old", tmp_path / "new"
    for name in ("a", "b"):
        (source / name).mkdir(parents=True)
    target.mkdir()
    for number in range(500):
        (source / f"a/{number}").write_text(str(number))
        os.link(source / f"a/{number}", source / f"b/{number}")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 50, limits[1]))
    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits))
    copy_tree(source, target)
    for number in range(500):
        assert (target / f"a/{number}").samefile(target / f"b/{number}")
        assert (target / f"b/{number}").read_text() == str(number)


def test_nothing_is_followed_and_nothing_replaced(tmp_path: Path) -> None:
    source, target, outside = tmp_path / "old", tmp_path / "new", tmp_path / "outside"
    for path in (source / "d", target, outside):
        path.mkdir(parents=True)
    (source / "d/f").write_text("x")
    (target / "d").symlink_to(outside)
    with pytest.raises(FileExistsError):
        copy_tree(source, target)
    assert not list(outside.iterdir())


def test_attributes_of_the_parent_are_not_inherited(tmp_path: Path) -> None:
    """A default ACL of the target's directory gives every new file one, which its source does not have."""
    acl = bytes.fromhex("02000000" + "01000700ffffffff" + "02000700e8030000" + "04000500ffffffff" + "10000700ffffffff"
                        + "20000500ffffffff")  # fmt: skip
    source, target = tmp_path / "old", tmp_path / "new"
    source.mkdir()
    target.mkdir()
    (source / "f").write_text("x")
    os.setxattr(target, "system.posix_acl_default", acl)
    copy_tree(source, target)
    assert not os.listxattr(target / "f") and not os.listxattr(target)
    os.setxattr(source / "f", "system.posix_acl_access", acl)
    (tmp_path / "kept").mkdir()
    copy_tree(source, tmp_path / "kept")
    assert os.getxattr(tmp_path / "kept/f", "system.posix_acl_access") == acl


def test_an_entry_that_changes_kind_meanwhile_is_what_it_then_is(tmp_path: Path) -> None:
    """The directory said `regular file`; by the time it is opened it is a symlink, a FIFO, a directory, or gone."""
    source, target = tmp_path / "old", tmp_path / "new"
    source.mkdir()
    target.mkdir()
    names = ["first", "link", "fifo", "directory", "gone"]
    for name in names:
        (source / name).write_text("x")

    def exchange(fd: int, name: str, status: os.stat_result) -> bool:
        if (source / "link").is_symlink():
            return True
        for other in ("link", "fifo", "directory", "gone"):
            if other != name:
                (source / other).unlink()
        if name != "link":
            (source / "link").symlink_to("/etc/passwd")
        if name != "fifo":
            os.mkfifo(source / "fifo")
        if name != "directory":
            (source / "directory").mkdir()
            (source / "directory/f").write_text("y")
        return True

    old, new = os.open(source, _DIRECTORY), os.open(target, _DIRECTORY)
    try:
        copying.copy_tree(old, new, admit=exchange)
    finally:
        os.close(old)
        os.close(new)
    kinds = {name: stat.S_IFMT((target / name).lstat().st_mode) for name in os.listdir(target)}
    now = {name: stat.S_IFMT((source / name).lstat().st_mode) for name in os.listdir(source)}
    assert kinds == now
