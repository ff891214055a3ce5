"""Trees and copies where the reference shows nothing: layers, attributes, links, times, --parents."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import resource
import stat
import tarfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.builder.failures import MissingSource
from sampan.engine.builder.files import checksum, copy
from sampan.engine.builder.files.dirtree import DirTree
from sampan.engine.builder.files.filtered import Filtered
from sampan.engine.builder.files.layertree import Digests, LayerTree
from sampan.engine.builder.files.tartree import TarTree
from sampan.engine.builder.ops import Copy, FileOp, LocalOp, Mkdir, Owner, ScratchOp
from sampan.engine.builder.solver.layers import Work
from sampan.engine.builder.state import LayerChain
from sampan.engine.builder.trees import Tree
from sampan.errors import InvalidArgument
from sampan.linux import mounts
from tests.support.images import open_images as service
from tests.support.tars import member, tar, tar_of

pytestmark = pytest.mark.root
S = LocalOp(context="context")
T = 1_600_000_000
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep


@pytest.fixture
def source(tmp_path: Path, root: None) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


@pytest.fixture
def target(tmp_path: Path, root: None) -> Iterator[tuple[Path, int]]:
    directory = tmp_path / "target"
    directory.mkdir()
    os.utime(directory, (T, T))
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    yield directory, fd
    os.close(fd)


def write(path: Path, data: bytes = b"x", mode: int = 0o644, when: int = T) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, (when, when))


def perform(
    tree: Tree, root_fd: int, *patterns: str, epoch_s: int | None = None, dest: str = "/d/", **options: Any
) -> int:
    action = Copy(source=S, patterns=patterns, dest=dest, **options)
    return copy.execute(FileOp(base=ScratchOp(), actions=(action,), epoch_s=epoch_s), root_fd, {S: tree})


def below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_attributes_survive_chown_and_order(source: Path, target: tuple[Path, int]) -> None:
    """Capabilities and setuid bits are cleared by chown(2): they are set after it."""
    write(source / "ping", mode=0o4755)
    os.setxattr(source / "ping", "security.capability", CAPABILITY)
    os.setxattr(source / "ping", "user.note", b"n")
    root, fd = target
    tree = DirTree(str(source))
    perform(tree, fd, "ping", owner=Owner(user="12", group="34"))
    status = (root / "d/ping").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o4755, 12, 34)
    assert os.getxattr(root / "d/ping", "user.note") == b"n"
    assert os.getxattr(root / "d/ping", "security.capability") == CAPABILITY
    tree.close()


def test_links_devices_pipes_and_holes(source: Path, target: tuple[Path, int]) -> None:
    write(source / "a", b"shared")
    os.link(source / "a", source / "z")
    (source / "sub").mkdir()
    os.link(source / "a", source / "sub/m")
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(source / "pipe")
    with (source / "hole").open("wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
    root, fd = target
    tree = DirTree(str(source))
    perform(tree, fd, ".")
    assert len({(root / "d" / name).stat().st_ino for name in ("a", "z", "sub/m")}) == 1
    assert os.stat(root / "d/null").st_rdev == os.makedev(1, 3) and stat.S_ISFIFO(os.stat(root / "d/pipe").st_mode)
    hole = (root / "d/hole").stat()
    assert hole.st_size == (8 << 20) + 3 and hole.st_blocks * 512 < 1 << 20
    tree.close()


def test_nothing_is_now_and_nothing_younger_than_the_epoch(source: Path, target: tuple[Path, int]) -> None:
    write(source / "old", when=T - 100)
    write(source / "young", when=T + 100)
    root, fd = target
    tree = DirTree(str(source))
    assert perform(tree, fd, "old", dest="/new/er/") == (T - 100) * 10**9
    assert {int((root / p).stat().st_mtime) for p in ("new", "new/er", "new/er/old")} == {T - 100}
    assert perform(tree, fd, "young", dest="/new/er/", epoch_s=T) == T * 10**9
    assert int((root / "new/er/young").stat().st_mtime) == T
    assert int((root / "new/er").stat().st_mtime) == T - 100  # it only got a child
    assert int(root.stat().st_mtime) == T
    made = FileOp(base=ScratchOp(), actions=(Mkdir(path="/w/x"),))
    copy.execute(made, fd, {}, (T - 7) * 10**9)
    assert int((root / "w/x").stat().st_mtime) == int((root / "w").stat().st_mtime) == T - 7
    tree.close()


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("a/b/one",), ["a", "a/b", "a/b/one"]),
        (("a/./b/one",), ["b", "b/one"]),
        (("./a/./b/one", "c/two.txt"), ["b", "b/one", "c", "c/two.txt"]),
        (("a/b",), ["a", "a/b", "a/b/one", "a/b/three.txt"]),
        (("a/./*/one",), ["b", "b/one"]),
        (("**/*.txt",), ["a", "a/b", "a/b/three.txt", "c", "c/two.txt"]),
        (("./*/.",), ["a", "a/b", "a/b/one", "a/b/three.txt", "c", "c/two.txt"]),
    ],
)
def test_parents(source: Path, target: tuple[Path, int], patterns: tuple[str, ...], expected: list[str]) -> None:
    write(source / "a/b/one")
    write(source / "a/b/three.txt")
    write(source / "c/two.txt")
    (source / "a/b").chmod(0o711)
    root, fd = target
    tree = DirTree(str(source))
    perform(tree, fd, *patterns, parents=True)
    assert below(root / "d") == expected
    if "a/b" in expected:
        assert stat.S_IMODE((root / "d/a/b").stat().st_mode) == 0o711
    with pytest.raises(MissingSource):
        perform(tree, fd, "a/./nope", parents=True)
    perform(tree, fd, "**/*.none", parents=True, required=False)
    tree.close()


def test_a_directory_itself(source: Path, target: tuple[Path, int]) -> None:
    """Not its contents: into a destination that is there, else as the destination."""
    write(source / "dir/inner")
    (source / "dir").chmod(0o711)
    root, fd = target
    tree = DirTree(str(source))
    perform(tree, fd, "dir", dest="/new", contents_only=False)
    assert below(root) == ["new", "new/inner"] and stat.S_IMODE((root / "new").stat().st_mode) == 0o711
    perform(tree, fd, "dir", dest="/new/", contents_only=False)
    assert below(root) == ["new", "new/dir", "new/dir/inner", "new/inner"]
    tree.close()


def test_exclusions_with_parents(source: Path, target: tuple[Path, int]) -> None:
    write(source / "a/b/one")
    write(source / "a/b/two.txt")
    root, fd = target
    tree = DirTree(str(source))
    perform(tree, fd, "a", parents=True, exclude=("**/*.txt",))
    assert below(root / "d") == ["a", "a/b", "a/b/one"]
    tree.close()


def test_the_destinations_links_never_lead_out(source: Path, target: tuple[Path, int], tmp_path: Path) -> None:
    write(source / "f")
    write(source / "dir/inner")
    root, fd = target
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "abs").symlink_to(outside)
    (root / "up").symlink_to("../outside")
    (root / "file").symlink_to(outside / "stolen")
    (root / "magic").symlink_to("/proc/self/root")
    tree = DirTree(str(source))
    for dest in ("/abs/x", "/up/x", "/file", "/abs/", "/up/deeper/x", "/magic/x"):
        perform(tree, fd, "f", dest=dest)
    perform(tree, fd, "dir", dest="/up/")
    assert os.listdir(outside) == []
    assert (root / "outside/x").exists() and (root / "outside/inner").exists()
    tree.close()


def test_an_archive_never_leads_out(source: Path, target: tuple[Path, int], tmp_path: Path) -> None:
    _, fd = target
    outside = tmp_path / "outside"
    outside.mkdir()

    def add(*members: tuple[str, bytes, str]) -> None:
        write(source / "x.tar", tar(*(member(name, kind=kind, link=link) for name, kind, link in members)))
        tree = DirTree(str(source))
        try:
            perform(tree, fd, "x.tar", unpack=True)
        finally:
            tree.close()

    add(("l", tarfile.SYMTYPE, str(outside)), ("l/stolen", tarfile.REGTYPE, ""))
    add(("m", tarfile.SYMTYPE, "../../outside"), ("m/stolen", tarfile.REGTYPE, ""))
    with pytest.raises(InvalidArgument, match=r'invalid entry name "\.\./x"'):
        add(("../x", tarfile.REGTYPE, ""))
    with pytest.raises(InvalidArgument, match="invalid hardlink target"):
        add(("h", tarfile.LNKTYPE, "../../outside/x"))
    with pytest.raises(InvalidArgument, match="no such file"):
        add(("h", tarfile.LNKTYPE, "/etc/passwd"))
    assert os.listdir(outside) == []


def test_a_checksum_is_of_what_lands(source: Path) -> None:
    """Not of times; of names, modes, contents and links, whatever tree they come from."""
    write(source / "dir/a", b"1")
    (source / "dir/l").symlink_to("a")

    def sum_of(pattern: str, **options: Any) -> str:
        tree = DirTree(str(source))
        try:
            return checksum.checksum(tree, Copy(source=S, patterns=(pattern,), dest="/", **options))
        finally:
            tree.close()

    first = sum_of("dir")
    os.utime(source / "dir/a", (T + 5, T + 5))
    assert sum_of("dir") == first
    assert sum_of("dir", exclude=("a",)) != first
    archive = source.parent / "x.tar"
    assert os.system(f"tar -C {source} -cf {archive} .") == 0
    tar = TarTree.open_file(str(archive), str(source.parent))
    assert checksum.checksum(tar, Copy(source=S, patterns=("dir",), dest="/")) == first
    tar.close()
    (source / "dir/a").chmod(0o600)
    changed = {first, sum_of("dir")}
    write(source / "dir/a", b"2")
    changed.add(sum_of("dir"))
    (source / "dir/a").rename(source / "dir/b")
    changed.add(sum_of("dir"))
    assert len(changed) == 4
    assert sum_of("dir/b") == sum_of("dir/*b")


def test_a_filtered_tree_is_a_tree(source: Path) -> None:
    for name in ("keep/a", "keep/b.log", "drop/x", "drop/but/this", "top.log"):
        write(source / name)
    tree = Filtered(DirTree(str(source)), exclude=("**/*.log", "drop", "!drop/but"), scratch=str(source.parent))
    assert sorted(tree.entries()) == ["drop", "drop/but", "drop/but/this", "keep", "keep/a"]
    made = Path(tree.directory())
    assert below(made) == ["drop", "drop/but", "drop/but/this", "keep", "keep/a"]
    tree.close()
    assert not made.exists()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_layers_are_read_as_overlayfs_shows_them(tmp_path: Path, root: None) -> None:
    """A tree of three layers beside the kernel's own mount of them: whiteouts, opaque directories, replaced kinds."""
    scripts = [
        "mkdir -p a/b c d; echo 1 >a/one; echo 2 >a/b/two; echo 3 >c/three; ln -s c l; echo f >file; ln a/one hard",
        "rm -r c; mkdir c; echo new >c/new; rm a/one; echo over >a/b/two; rm file; mkdir file; echo in >file/in",
        "rm -r d; echo d >d; chmod 700 a/b; rm l; ln -s a l; rm -r file; touch -d @5 a/b/two; mknod n c 1 3; mkfifo p",
    ]

    async def body() -> None:
        async with service(tmp_path / "root") as images:
            holder = images.layers.hold("")
            state = LayerChain()
            for script in scripts:
                async with Work(images, state, holder) as work:
                    command = f"cd /proc/{os.getpid()}/fd/{work.root_fd} && {script}"
                    assert await asyncio.to_thread(os.system, command) == 0
                    state = (await work.commit()).state
            async with Work(images, state, holder) as work:
                mounted = DirTree(f"/proc/self/fd/{work.root_fd}")
                expected = dict(mounted.entries())
                digests = {p: mounted.digest(p) for p, e in expected.items() if e.kind == "f"}
                mounted.close()
                records = images.layers.records(state.chain_id)
                parts = [(r.id, f"{images.driver.path(r.snapshot)}/fs") for r in records]
                kept = Digests()
                tree = LayerTree(parts, str(tmp_path), kept)
                assert {p: (e.kind, e.mode, e.mtime_ns, e.link) for p, e in tree.entries().items()} == {
                    p: (e.kind, e.mode, e.mtime_ns, e.link) for p, e in expected.items()
                }
                assert {p: tree.digest(p) for p in digests} == digests
                assert "c/three" not in tree.entries() and "file/in" not in tree.entries()
                assert tree.entries().get("a/b/two/none") is None
                copy.execute(
                    FileOp(base=ScratchOp(), actions=(Copy(source=S, patterns=("/",), dest="/copy"),)),
                    work.root_fd,
                    {S: tree},
                )
                tree.close()
                again = DirTree(f"/proc/self/fd/{work.root_fd}")
                found = {p.removeprefix("copy/"): e for p, e in again.entries().items() if p.startswith("copy/")}
                assert {p: (e.kind, e.mode, e.mtime_ns, e.link, e.size) for p, e in found.items()} == {
                    p: (e.kind, e.mode, e.mtime_ns, e.link, e.size) for p, e in expected.items()
                }
                again.close()
            images.layers.let_go(holder)

    run(body())


def test_directories_below_keep_their_times_on_overlayfs(source: Path, tmp_path: Path) -> None:
    """What a lower layer has is copied up by the kernel; its time must not become now."""
    write(source / "f", when=T + 50)
    tree = DirTree(str(source))

    async def body() -> None:
        async with service(tmp_path / "root") as images:
            holder = images.layers.hold("")
            async with Work(images, LayerChain(), holder) as work:
                os.makedirs(f"/proc/self/fd/{work.root_fd}/have/dir")
                for name in ("have/dir", "have"):
                    os.utime(name, (T, T), dir_fd=work.root_fd)
                state = (await work.commit()).state
            async with Work(images, state, holder) as work:
                perform(tree, work.root_fd, "f", dest="/have/dir/new/")
                times = {p: int(os.stat(p, dir_fd=work.root_fd).st_mtime) for p in ("have", "have/dir", "have/dir/new")}
            assert times == {"have": T, "have/dir": T, "have/dir/new": T + 50}
            images.layers.let_go(holder)

    run(body())
    tree.close()


def test_a_thousand_directories_cost_no_descriptors(
    source: Path, target: tuple[Path, int], request: pytest.FixtureRequest
) -> None:
    """Neither copying nor unpacking holds one a directory."""
    write(source / "x.tar", tar_of({f"d{number}/implied/f": b"" for number in range(1000)}, mtime=T))
    root, fd = target
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits))
    tree = DirTree(str(source))
    perform(tree, fd, "x.tar", unpack=True)
    tree.close()
    assert len(os.listdir(root / "d")) == 1000
    assert {int(os.stat(root / f"d/d{number}").st_mtime) for number in range(1000)} == {T}
    copied = DirTree(str(root / "d"))
    perform(copied, fd, ".", dest="/again/")
    assert len(os.listdir(root / "again")) == 1000
    copied.close()


def test_large_files_go_into_an_overlay(source: Path, tmp_path: Path) -> None:
    """From another kind of file system, where copy_file_range(2) refuses; holes stay holes."""
    data = os.urandom(3 << 20)
    write(source / "large", data)
    with (source / "hole").open("wb") as file:
        file.seek(64 << 20)
        file.write(data)
    archive = tmp_path / "x.tar"
    assert os.system(f"tar -C {source} -Scf {archive} .") == 0

    async def body() -> None:
        async with service(tmp_path / "root") as images:
            holder = images.layers.hold("")
            for tree in (DirTree(str(source)), TarTree.open_file(str(archive), str(tmp_path))):
                async with Work(images, LayerChain(), holder) as work:
                    os.mkdir("base", dir_fd=work.root_fd)
                    state = (await work.commit()).state
                async with Work(images, state, holder) as work:
                    perform(tree, work.root_fd, ".")
                    at = Path(f"/proc/self/fd/{work.root_fd}/d")
                    assert (at / "large").read_bytes() == data
                    with (at / "hole").open("rb") as file:
                        assert file.read(1 << 20) == bytes(1 << 20)
                        file.seek(64 << 20)
                        assert file.read() == data
                    assert (at / "hole").stat().st_blocks * 512 < 8 << 20
                tree.close()
            images.layers.let_go(holder)

    run(body())


@pytest.fixture
def small(tmp_path: Path, root: None) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mounts.mount("small", str(place), "tmpfs", 0, "size=1m")
    yield place
    mounts.umount2(str(place), 0)


def test_a_full_disk_leaves_nothing_of_a_context(small: Path) -> None:
    data = io.BytesIO(tar_of({"large": os.urandom(4 << 20)}))

    class Chunks:
        def read(self) -> bytes:
            return data.read(1 << 16)

    with pytest.raises(OSError, match="No space left") as caught:
        TarTree.read(Chunks(), str(small))
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(small) == [] and os.statvfs(small).f_bfree == os.statvfs(small).f_blocks


def test_a_full_disk_under_a_copy_is_said(source: Path, small: Path) -> None:
    """As what it is, so that a door can tell it from a fault of the Dockerfile."""
    write(source / "large", os.urandom(4 << 20))
    write(source / "x.tar", b"")
    assert os.system(f"tar -C {source} -cf {source}/x.tar large") == 0
    tree = DirTree(str(source))
    fd = os.open(small, os.O_PATH | os.O_DIRECTORY)
    for unpack in (False, True):
        with pytest.raises(OSError, match="No space left"):
            perform(tree, fd, "x.tar", unpack=unpack)
    os.close(fd)
    tree.close()
