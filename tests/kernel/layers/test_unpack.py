"""Unpacking: what a good archive becomes, and what a hostile one does not reach."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import random
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from sampan.engine.layers import tarsplit, unpack
from sampan.errors import InvalidArgument
from tests.kernel.images.archives import archive, directory, hardlink, member, python_tar, symlink, unpack_into

pytestmark = pytest.mark.root


def replay(layer: Path) -> bytes:
    fd = os.open(layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return b"".join(bytes(chunk) for chunk in tarsplit.replay(fd))
    finally:
        os.close(fd)


def tree(root: Path) -> dict[str, str]:
    """path → type, mode and content of everything below, for comparison."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        what = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
        if path.is_symlink():
            what += f" -> {os.readlink(path)}"
        elif path.is_file():
            what += f" {path.read_bytes()[:20]!r}"
        found[str(path.relative_to(root))] = what
    return found


# -- what becomes of a good archive ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """The daemon's umask: it must not show."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_every_kind_of_entry(tmp_path: Path) -> None:
    long = "deep/" * 60 + "name"
    data = archive(
        directory("./", 0o1751, uid=5, gid=6, mtime_ns=1_600_000_000_123_456_789),
        directory("bin", 0o2775, gid=7, mtime_ns=1_500_000_000_000_000_001),
        member("bin/su", b"x" * 700, mode=0o4755, uid=0, gid=50, mtime_ns=1_700_000_000_987_654_321),
        hardlink("bin/su2", "bin/su"),
        symlink("lib", "/bin"),
        member("fifo", kind=b"6", mode=0o640),
        member("null", kind=b"3", mode=0o666, device=(1, 3)),
        member("big-ids", b"y", uid=2**31 + 5, gid=2**32 - 2),
        member("capable", b"z", xattrs={"security.capability": b"\x01\0\0\x02" + b"\0\x04" + bytes(14)}),
        member("user", b"z", xattrs={"user.note": b"hello\0there"}),
        member(long, b"far down"),
        member("lib/through-link", b"in bin"),
        member("implied/parent/file", b"q"),
        member("empty"),
        member("old", b"o", mtime_ns=-5_500_000_000),
    )
    result = unpack_into(tmp_path / "l", data)
    fs = tmp_path / "l" / "fs"
    root = fs.stat()
    assert (stat.S_IMODE(root.st_mode), root.st_uid, root.st_gid) == (0o755, 0, 0), "what is said of / is ignored"
    su = (fs / "bin/su").stat()
    assert stat.S_IMODE(su.st_mode) == 0o4755 and su.st_gid == 50 and su.st_size == 700 and su.st_nlink == 2
    assert su.st_mtime_ns == 1_700_000_000_987_654_321
    assert stat.S_IMODE((fs / "bin").stat().st_mode) == 0o2775
    assert (fs / "bin").stat().st_mtime_ns == 1_500_000_000_000_000_001, "set after what was put into it"
    assert (fs / "bin/su2").stat().st_ino == su.st_ino
    assert (fs / "bin/through-link").stat().st_gid == 0, "a set-group-id parent does not give its group"
    assert os.readlink(fs / "lib") == "/bin" and not os.path.exists("/bin/through-link")
    assert stat.S_ISFIFO((fs / "fifo").stat().st_mode)
    assert (fs / "null").stat().st_rdev == os.makedev(1, 3)
    assert ((fs / "big-ids").stat().st_uid, (fs / "big-ids").stat().st_gid) == (2**31 + 5, 2**32 - 2)
    assert os.getxattr(fs / "capable", "security.capability")[:4] == b"\x01\0\0\x02"
    assert os.getxattr(fs / "user", "user.note") == b"hello\0there"
    assert (fs / long).read_bytes() == b"far down"
    assert stat.S_IMODE((fs / "implied/parent").stat().st_mode) == 0o755
    assert (fs / "old").stat().st_mtime_ns == -5_500_000_000
    assert result.diff_id == "sha256:" + hashlib.sha256(data).hexdigest() and result.tar_bytes == len(data)
    assert (
        result.size_bytes
        == sum(p.lstat().st_size for p in fs.rglob("*") if not p.is_dir() or p.is_symlink()) - su.st_size
    ), "each inode once"
    assert replay(tmp_path / "l") == data


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_programs_come_back_byte_for_byte(tmp_path: Path, format: int) -> None:
    name = "a" * 90 if format == tarfile.USTAR_FORMAT else "ü" * 80 + "/" + "b" * 120
    data = python_tar(format=format, **{name: b"1" * 5000, "x/y": b"", "z": os.urandom(1_500_000)})
    unpack_into(tmp_path / "l", data)
    assert (tmp_path / "l/fs" / name).read_bytes() == b"1" * 5000
    assert replay(tmp_path / "l") == data


def test_gnu_tar_sparse_files_of_every_format(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    with open(source / "holes", "wb") as file:
        file.truncate(40 * 1024 * 1024)
        for at in (0, 5_000_000, 39_000_000):
            file.seek(at)
            file.write(os.urandom(3000))
    for number, options in enumerate(
        (["--format=gnu"], *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")))
    ):
        data = subprocess.run(
            ["tar", "-C", source, "-c", "--sparse", *options, "."], capture_output=True, check=True
        ).stdout
        assert len(data) < 1_000_000
        layer = tmp_path / f"l{number}"
        unpack_into(layer, data)
        copy = layer / "fs/holes"
        assert copy.read_bytes() == (source / "holes").read_bytes(), options
        assert copy.stat().st_blocks * 512 < 1_000_000, "holes stay holes"
        assert replay(layer) == data


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        zstandard.ZstdCompressor().compress,
        lambda data: gzip.compress(data[:3000]) + gzip.compress(data[3000:]) + bytes(512),
        lambda data: (
            zstandard.compress(data[:3000]) + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstandard.compress(data[3000:])
        ),
    ],
    ids=["gzip", "bzip2", "xz", "zstd", "gzip-members", "zstd-frames"],
)
@pytest.mark.parametrize("step", [1, 100_000])
def test_compressions(tmp_path: Path, compress: object, step: int) -> None:
    data = archive(member("f", random.Random(1).randbytes(9_000)))
    result = unpack_into(tmp_path / "l", compress(data), step=step)  # type: ignore[operator]
    assert result.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert replay(tmp_path / "l") == data


def test_whiteouts_and_opaque_directories_as_overlayfs_wants_them(tmp_path: Path) -> None:
    data = archive(
        directory("d"),
        member("d/.wh.gone"),
        directory("o"),
        member("o/.wh..wh..opq"),
        member("o/new", b"n"),
        member(".wh.replaced"),
        directory("replaced"),
        member("replaced/inside", b"i"),
        member(".wh.later-a-file"),
        member("later-a-file", b"f"),
        member("kept", b"k"),
        member(".wh.kept"),
        member(".wh..wh.plnk", b"aufs"),
    )
    unpack_into(tmp_path / "l", data)
    fs = tmp_path / "l/fs"
    gone = (fs / "d/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    assert os.getxattr(fs / "o", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(fs / "replaced", "trusted.overlay.opaque") == b"y", "a directory in place of a removed one"
    assert (fs / "later-a-file").read_bytes() == b"f"
    assert (fs / "kept").read_bytes() == b"k", "a whiteout speaks of lower layers only"
    assert not list(fs.rglob(".wh.*"))
    assert replay(tmp_path / "l") == data


def test_replaced_entries_can_still_be_replayed(tmp_path: Path) -> None:
    data = archive(
        directory("d"),
        member("d/a", b"first version"),
        member("d/a", b"second, longer version"),
        member("d/b", b"below a tree that goes"),
        directory("d/sub"),
        member("d/sub/c", b"deeper"),
        symlink("s", "d"),
        member("s/through", b"via the link"),
        member("s", b"the link became a file"),
        member("d", b"the tree became a file"),
        directory("d"),
        member("d/a", b"and a tree again"),
    )
    result = unpack_into(tmp_path / "l", data)
    assert tree(tmp_path / "l/fs").keys() == {"d", "d/a", "s"}
    assert result.size_bytes == len(b"and a tree again") + len(b"the link became a file")
    assert replay(tmp_path / "l") == data


def test_random_archives_replay_and_match_gnu_tar(tmp_path: Path) -> None:
    for seed in range(6):
        dice = random.Random(seed)
        members, names = [], ["."]
        for n in range(60):
            parent = dice.choice(names)
            name = f"{parent}/n{n}"
            match dice.randrange(5):
                case 0 | 1:
                    members.append(directory(name, 0o700 + dice.randrange(64)))
                    names.append(name)
                case 2 | 3:
                    members.append(member(name, dice.randbytes(dice.choice([0, 1, 511, 512, 513, 70_000]))))
                case 4:
                    members.append(symlink(name, "../" * dice.randrange(4) + "etc/passwd"))
        data = archive(*members)
        layer, other = tmp_path / f"l{seed}", tmp_path / f"g{seed}"
        unpack_into(layer, data)
        other.mkdir()
        subprocess.run(["tar", "-C", other, "-xp", "--numeric-owner"], input=data, check=True)
        assert tree(layer / "fs") == tree(other)
        assert replay(layer) == data


def test_a_layer_with_other_bytes_is_found_by_its_digest(tmp_path: Path) -> None:
    data = archive(member("f", b"content"))
    unpack_into(tmp_path / "l", data)
    (tmp_path / "l/fs/f").write_bytes(b"CONTENT")
    assert replay(tmp_path / "l") != data


# -- hostile archives: one test a row of SECURITY.md, "layers that write outside their root" ------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory next to the layer whose content must not change."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "victim").write_text("untouched")
    return place


def untouched(outside: Path) -> bool:
    return tree(outside) == {"victim": f"{stat.filemode((outside / 'victim').stat().st_mode)} 0:0 b'untouched'"}


def refused(tmp_path: Path, message: str, *members: bytes) -> None:
    with pytest.raises(InvalidArgument, match=message):
        unpack_into(tmp_path / "l", archive(*members))


@pytest.mark.parametrize("name", ["../outside/victim", "a/../../../outside/victim", "..", "./../outside/victim"])
def test_cve_2014_6407_dot_dot_in_a_name_is_refused(tmp_path: Path, outside: Path, name: str) -> None:
    refused(tmp_path, "invalid entry name", member(name, b"evil"))
    assert untouched(outside)


def test_absolute_names_stay_inside(tmp_path: Path, outside: Path) -> None:
    unpack_into(tmp_path / "l", archive(member(f"{outside}/victim", b"evil"), member("//x", b"1")))
    assert (tmp_path / "l/fs" / str(outside)[1:] / "victim").read_bytes() == b"evil"
    assert untouched(outside)


@pytest.mark.parametrize("target", ["ABS", "../../outside", "../" * 30 + "ABS"])
def test_cve_2014_9356_writing_through_a_symlink_stays_inside(tmp_path: Path, outside: Path, target: str) -> None:
    target = target.replace("ABS", str(outside))
    data = archive(
        symlink("link", target), member("link/victim", b"evil"), directory("link/d"), member("link/d/f", b"e")
    )
    unpack_into(tmp_path / "l", data)
    assert untouched(outside)
    assert os.readlink(tmp_path / "l/fs/link") == target
    assert replay(tmp_path / "l") == data


def test_a_symlink_chain_and_a_loop_stay_inside(tmp_path: Path, outside: Path) -> None:
    unpack_into(tmp_path / "l", archive(symlink("a", "b"), symlink("b", str(outside)), member("a/victim", b"evil")))
    assert untouched(outside)
    refused(tmp_path / "2", "too many levels of symbolic links", symlink("x", "x"), member("x/f", b"evil"))


def test_a_file_over_a_symlink_replaces_it_and_never_follows(tmp_path: Path, outside: Path) -> None:
    unpack_into(
        tmp_path / "l", archive(symlink("f", str(outside / "victim")), member("f", b"mine", mode=0o4777, uid=9))
    )
    assert (tmp_path / "l/fs/f").read_bytes() == b"mine" and not (tmp_path / "l/fs/f").is_symlink()
    assert untouched(outside)


def test_times_modes_and_owners_never_follow_a_symlink(tmp_path: Path, outside: Path) -> None:
    before = (outside / "victim").stat(), outside.stat()
    data = archive(
        directory("d", 0o777, uid=3, mtime_ns=10**18),
        directory("d/sub", 0o2777, uid=3, mtime_ns=10**18),
        member("d/sub", b"a file instead"),
        symlink("d", str(outside)),  # the deferred mode and times of d and d/sub would land outside
        member("s", kind=b"2", link=str(outside / "victim").encode(), uid=7, mtime_ns=10**18),
    )
    unpack_into(tmp_path / "l", data)
    assert ((outside / "victim").stat(), outside.stat()) == before
    assert untouched(outside)
    assert (tmp_path / "l/fs/s").lstat().st_uid == 7


@pytest.mark.parametrize("target", ["../../outside/victim", "../outside/victim", "d/../../../etc/passwd"])
def test_hardlinks_out_of_the_root_are_refused(tmp_path: Path, outside: Path, target: str) -> None:
    refused(tmp_path, "invalid hardlink target", hardlink("h", target))
    assert (outside / "victim").stat().st_nlink == 1


def test_hardlinks_through_a_symlink_stay_inside(tmp_path: Path, outside: Path) -> None:
    refused(tmp_path, "no such file or directory", symlink("s", str(outside)), hardlink("h", "s/victim"))
    unpack_into(tmp_path / "2", archive(symlink("s", str(outside / "victim")), hardlink("h", "s")))
    assert (tmp_path / "2/fs/h").is_symlink(), "the link itself, not what it names"
    assert (outside / "victim").stat().st_nlink == 1


def test_a_hardlink_to_an_absolute_path_means_the_root(tmp_path: Path) -> None:
    unpack_into(tmp_path / "l", archive(member("etc/passwd", b"own"), hardlink("h", "/etc/passwd")))
    assert (tmp_path / "l/fs/h").read_bytes() == b"own"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh...", "d/.wh.."])
def test_hostile_whiteout_names_are_refused(tmp_path: Path, name: str) -> None:
    refused(tmp_path, "invalid whiteout entry", directory("d"), member(name))


def test_a_whiteout_through_a_symlink_stays_inside(tmp_path: Path, outside: Path) -> None:
    unpack_into(
        tmp_path / "l",
        archive(symlink("s", str(outside)), member("s/.wh.victim"), member("s/.wh..wh..opq")),
    )
    assert untouched(outside)
    assert "trusted.overlay.opaque" not in os.listxattr(outside)


def test_overlay_attributes_of_an_archive_are_not_taken(tmp_path: Path) -> None:
    hostile = {"trusted.overlay.redirect": b"/etc", "trusted.overlay.opaque": b"y", "user.overlay.metacopy": b""}
    unpack_into(tmp_path / "l", archive(directory("d", xattrs=hostile), member("f", b"1", xattrs=hostile)))
    assert os.listxattr(tmp_path / "l/fs/d") == [] and os.listxattr(tmp_path / "l/fs/f") == []


def test_a_device_that_would_be_a_whiteout_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "invalid device 0:0", member("d", kind=b"3", device=(0, 0)))


@pytest.mark.parametrize("ids", [{"uid": 2**32 - 1}, {"gid": 2**32}, {"uid": 2**62}])
def test_cve_2024_40635_ids_that_would_become_roots_are_refused(tmp_path: Path, ids: dict[str, int]) -> None:
    refused(tmp_path, "ids must be between 0 and 4294967294", member("f", b"1", **ids))


def test_names_with_a_nul_or_too_long_are_refused(tmp_path: Path) -> None:
    record = b"path=a\0b\n"
    pax = member("x", b"%d " % (len(record) + 3) + record, kind=b"x")
    refused(tmp_path, "NUL in a pax record", pax, member("f"))
    refused(tmp_path / "2", "file name too long", member("n" * 300, b"1"))


def test_numbers_beyond_the_kernels_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "a time out of range", member("f", b"1", mtime_ns=9 * 10**27))
    refused(tmp_path / "2", "device number out of range", member("f", kind=b"4", device=(4096, 1)))
    record = b"SCHILY.xattr.user.a\0b=c\n"
    pax = member("x", b"%d " % (len(record) + 3) + record, kind=b"x")
    refused(tmp_path / "3", "NUL in a pax record", pax, member("f"))


def test_cve_2017_14992_header_bombs_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "extended header of 1048577 bytes", member("x", kind=b"x", size_bytes=1024 * 1024 + 1))
    refused(tmp_path / "2", "extended header of 8000000000 bytes", member("x", kind=b"L", size_bytes=8_000_000_000))
    sparse = b"30 GNU.sparse.map=" + b"0," * 2_000_00 + b"0"
    refused(tmp_path / "3", "malformed|too many", member("x", sparse, kind=b"x"), member("f"))


def test_cve_2017_14992_decompression_bombs_are_stopped(tmp_path: Path) -> None:
    huge = zstandard.ZstdCompressor(level=3).compress(bytes(64 * 1024 * 1024))
    data = zstandard.compress(archive(member("f", b"1"))[:-1024]) + huge
    with pytest.raises(InvalidArgument, match=r"exceeds 33554432 bytes|too much data"):
        unpack_into(tmp_path / "l", data, limit_bytes=32 * 1024 * 1024)


def test_rubbish_after_the_end_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="too much data after the end"):
        unpack_into(tmp_path / "l", archive(member("f", b"1")) + bytes(100 * 1024 * 1024), step=1 << 20)


@pytest.mark.parametrize(
    ("mangle", "message"),
    [
        (lambda d: d[:700], "unexpected EOF"),
        (lambda d: d[:300], "unexpected EOF"),
        (lambda d: d[:148] + b"0000000\0" + d[156:], "invalid tar header"),
        (lambda d: b"garbage\n", "unexpected EOF"),
        (lambda d: b"garbage " * 200, "invalid tar header"),
        (lambda d: gzip.compress(d)[:-20], "unexpected EOF"),
        (lambda d: gzip.compress(d)[:40] + b"\xff" * 200, "gzip: invalid data"),
        (lambda d: b"\xfd7zXZ\x00" + b"junk" * 50, "xz: invalid data"),
        (lambda d: b"\x28\xb5\x2f\xfd" + b"junk" * 50, "zstd: invalid data"),
    ],
)
def test_broken_archives_are_named(tmp_path: Path, mangle: object, message: str) -> None:
    data = archive(member("f", random.Random(3).randbytes(900)))
    with pytest.raises(InvalidArgument, match=message):
        unpack_into(tmp_path / "l", mangle(data))  # type: ignore[operator]


def test_nothing_is_left_open_or_mounted(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for number, data in enumerate((archive(member("a/b", b"1")), archive(member("../x", b"1")), b"junk" * 400)):
        try:
            unpack_into(tmp_path / str(number), data)
        except InvalidArgument:
            pass
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert os.umask(0o077) == 0o077, "the threads' umask is their own"


def test_clean_is_the_one_way_to_a_path() -> None:
    assert [unpack.clean(n) for n in ("a/b", "./a/", "/a//b/./c/../d", "", "/", ".", "a/..", ".hidden", "..a/b")] == [
        "a/b", "a", "a/b/d", "", "", "", "", ".hidden", "..a/b",
    ]  # fmt: skip


@pytest.mark.parametrize("entry", [
    directory("./", 0o1700, uid=5, gid=6), directory("/", 0o700), directory("", 0o700, uid=5), member("", mode=0o700),
    member(".", b"payload", mode=0o700), directory("a/..", 0o700),
])  # fmt: skip
def test_an_entry_of_the_root_says_nothing(tmp_path: Path, entry: bytes) -> None:
    data = archive(entry, member("f", b"1"))
    result = unpack_into(tmp_path / "l", data)
    root = (tmp_path / "l/fs").stat()
    assert (stat.S_IMODE(root.st_mode), root.st_uid, root.st_gid) == (0o755, 0, 0)
    assert [p.name for p in (tmp_path / "l/fs").iterdir()] == ["f"]
    assert result.diff_id == "sha256:" + hashlib.sha256(data).hexdigest() and replay(tmp_path / "l") == data
