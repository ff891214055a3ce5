"""The disk of the test machine: an ext4 image with Python, this checkout, the programs its tests call, and nothing
more.

Made without root and without mounting: a staging tree of hard links (copies where the file system differs) handed to
mke2fs. What a program needs besides itself is asked of ldd. 9p would spare the image, but Python over 9p takes ten
times as long, and overlay refuses it as an upper directory.

Source: mke2fs(8) -d.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SIZE = "2G"  # sparse

PROGRAMS = ("busybox", "ip", "nft", "ldconfig", "sh", "ps", "runc", "tini")
#: Found by dlopen(3), so ldd does not know them.
LIBRARIES = ("libnftables.so.1", "libseccomp.so.2", "libgcc_s.so.1", "libnss_files.so.2")
#: Large, and of no use in the machine.
LEFT_OUT = ("mypy", "mypyc", "ruff", "grpc", "grpc_tools", "pip", "setuptools", "docker", "test", "idlelib")
MODULES = (
    *("drivers/block/loop.ko", "drivers/net/dummy.ko", "drivers/net/ipvlan", "drivers/net/macvlan.ko"),
    *("drivers/net/veth.ko", "fs/overlayfs", "lib", "net"),
)
EMPTY = ("dev", "proc", "sys", "tmp", "run", "root", "sys/fs/cgroup", "mnt")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"


def build(image: Path, kernel_root: Path, scratch: Path) -> None:
    """Write `image`, a bootable root for the kernel package unpacked at `kernel_root`; scratch is made and removed.

    Raises: CalledProcessError when ldd, depmod or mke2fs fails.
    """
    root = scratch / "root"
    for name in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", *EMPTY):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    binaries = [*_programs(root), *_python(root)]
    _libraries(root, binaries)
    _modules(root, kernel_root)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/hostname").write_text("machine\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost machine\n")
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    (root / "etc/os-release").write_bytes(Path("/etc/os-release").read_bytes())
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(root), str(image), SIZE]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": _PATH})
    shutil.rmtree(scratch)


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def which(program: str) -> Path | None:
    """Find a program, those for the administrator included."""
    found = shutil.which(program, path=_PATH)
    return Path(found) if found else None


def _programs(root: Path) -> list[Path]:
    """Stage the programs and busybox's applets for everything else; return the binaries."""
    found = [path for path in map(which, PROGRAMS) if path is not None]
    for path in found:
        _link(path.resolve(), root / "usr/bin" / path.name)
    applets = subprocess.run([str(which("busybox")), "--list"], capture_output=True, text=True, check=True).stdout
    for applet in applets.split():
        directory = root / "usr" / ("sbin" if applet in ("modprobe", "depmod", "insmod") else "bin")
        if not (directory / applet).exists():
            (directory / applet).symlink_to("/usr/bin/busybox")
    return [path.resolve() for path in found]


def _python(root: Path) -> list[Path]:
    """Stage the interpreter, its library, the venv and the checkout at their own places; return what has libraries."""
    interpreter = Path(sys.executable).resolve()
    _link(interpreter, root / str(interpreter)[1:])
    trees = [Path(sysconfig.get_path("stdlib")), Path(sys.prefix), REPOSITORY / "src", REPOSITORY / "tests"]
    for tree in trees:
        _link_tree(tree, root / str(tree)[1:])
    step = Path(sys.executable)
    while step.is_symlink():  # the venv's link leads through the distribution's to the binary
        step = step.parent / step.readlink()
        _link(step, root / str(step)[1:])
    _link(REPOSITORY / "pyproject.toml", root / str(REPOSITORY / "pyproject.toml")[1:])
    sources = [Path(path) for path in site.getsitepackages()] + [trees[0]]
    left_out = set(LEFT_OUT)
    return [
        interpreter,
        *(path for source in sources for path in source.rglob("*.so") if not left_out.intersection(path.parts)),
    ]


def _libraries(root: Path, binaries: list[Path]) -> None:
    """Stage what the dynamic linker will look for."""
    named = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    loaded = [line.split(" => ")[1] for line in named.splitlines() if line.split(" ")[0].strip() in LIBRARIES]
    command = ["ldd", *map(str, binaries), *loaded]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    wanted = {part for line in lines for part in line.split() if part.startswith("/") and not part.endswith(":")}
    for path in sorted(wanted | set(loaded)):
        # /lib is a link to /usr/lib on both sides, so one place serves both names.
        place = root / ("usr" + path if path.startswith("/lib") else path[1:])
        if not place.exists():
            _link(Path(path).resolve(), place)


def _modules(root: Path, kernel_root: Path) -> None:
    """Stage the kernel's modules with their index, so that the kernel loads by itself what a program asks for."""
    (modules,) = (kernel_root / "lib/modules").iterdir()
    for name in MODULES:
        source, place = modules / "kernel" / name, root / "usr/lib/modules" / modules.name / "kernel" / name
        if source.is_dir():
            _link_tree(source, place)
        else:
            _link(source, place)
    subprocess.run([str(which("busybox")), "depmod", "-b", str(root), modules.name], check=True)


def _link_tree(source: Path, place: Path) -> None:
    """Stage a tree; its symlinks stay symlinks."""
    skip = shutil.ignore_patterns(*LEFT_OUT, "*.dist-info/RECORD")
    shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True, ignore=skip, copy_function=_link)


def _link(source: str | Path, place: str | Path) -> None:
    place = Path(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(place):
        return
    try:
        os.link(source, place, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, place, follow_symlinks=False)
