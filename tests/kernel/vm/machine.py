"""A machine of the tests' own: Debian's cloud kernel in qemu, cgroup v2 alone, this checkout on its disk.

For what the kernel at hand cannot show: control groups v2 with their controllers (the host may have v1), and the loss
of power. Software emulation, so it runs everywhere and slowly: a boot takes some four seconds, Python a tenth of its
speed.

    python -m tests.kernel.vm.machine .venv/bin/python -m pytest -q tests/kernel/test_cgroups.py

The kernel package is downloaded and unpacked into a cache directory, never installed; SAMPAN_VM_KERNEL names a
directory where that has been done (`dpkg-deb -x`). The machine's disk is thrown away, unless `data` names an image to
keep: that is its second disk, mounted at /mnt.
"""

from __future__ import annotations

import gzip
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kernel.vm import disk

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "/var/cache")) / "sampan-vm"
TIMEOUT_S = 300
MEMORY_MIB = 1024

#: What the kernel needs to find its root, in the order in which they need each other.
BOOT_MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")

#: PID 1 until the disk is there.
INITRAMFS = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in {modules}; do /bin/busybox insmod /modules/$module.ko; done
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /root
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /bin/sh -c {script}
"""

#: PID 1 after that. The root cgroup keeps init and its command; it is mounted as systemd does.
SCRIPT = """
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /run
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
[ -b /dev/vdb ] && mount -t ext4 /dev/vdb /mnt
ip link set lo up
hostname machine
export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
cd {repository}
setsid sh -c {command} </dev/null
echo "{mark} $?"
sync
busybox poweroff -f
"""


class Machine:
    """A machine that runs one command. `output` grows as the console speaks."""

    def __init__(self, process: subprocess.Popen[bytes], console: Path, mark: str) -> None:
        self._process = process
        self._console = console
        self._mark = mark

    @property
    def output(self) -> str:
        return self._console.read_text(errors="replace").replace("\r\n", "\n")

    def until(self, text: str, timeout_s: float) -> None:
        """Wait until the console has shown `text`. Raises: RuntimeError when it does not."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the machine never said {text!r}: {self.output[-4000:]}")
            time.sleep(0.1)

    def finish(self, timeout_s: float) -> tuple[int, str]:
        """Wait for the command's end; return (its exit status, what it wrote).

        Raises: RuntimeError when the machine did not get to the end of the command.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the machine was still busy after {timeout_s} s: {self.output[-4000:]}") from None
        before, found, status = self.output.rpartition(self._mark)
        if not found:
            raise RuntimeError(f"the machine ended early: {self.output[-4000:]}")
        return int(status.split()[0]), before

    def cut_power(self) -> None:
        """End it as a power cut does: nothing that only its memory knew is left."""
        self._process.kill()
        self._process.wait()


class Bed:
    """What every boot needs: the unpacked kernel and the image of the disk, in a scratch directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kernel_root = find_kernel()
        self.image = directory / "disk"
        disk.build(self.image, self.kernel_root, directory / "staging")

    def close(self) -> None:
        """Remove the images; the kernel stays in its cache."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def make_data(self) -> Path:
        """Make an empty ext4 image to be the second disk of several boots."""
        path = self.directory / "data"
        command = [str(disk.which("mke2fs")), "-q", "-F", "-t", "ext4", str(path), "1G"]
        subprocess.run(command, check=True, capture_output=True)
        return path

    @contextmanager
    def start(self, command: str, *, data: Path | None = None) -> Iterator[Machine]:
        """Boot, and run a shell command in the checkout. At the end of the block the machine is off, in any case."""
        mark = f"machine-{secrets.token_hex(8)}:"
        (kernel,) = (self.kernel_root / "boot").glob("vmlinuz-*")
        initramfs, console = self.directory / "initramfs", self.directory / "console"
        initramfs.write_bytes(gzip.compress(_initramfs(self.kernel_root, command, mark), 1))
        console.write_bytes(b"")
        arguments = [
            *("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none", "-serial", f"file:{console}"),
            *("-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "2", "-m", str(MEMORY_MIB), "-nic", "none"),
            *("-kernel", str(kernel), "-initrd", str(initramfs)),
            *(
                "-append",
                "console=ttyS0 quiet loglevel=1 panic=-1 cgroup_no_v1=all mitigations=off random.trust_cpu=on",
            ),
            *("-drive", f"file={self.image},format=raw,if=virtio,snapshot=on"),
            *(("-drive", f"file={data},format=raw,if=virtio,cache=writethrough") if data else ()),
        ]
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
        machine = Machine(process, console, mark)
        try:
            yield machine
        finally:
            machine.cut_power()

    def boot(self, command: str, *, timeout_s: float = TIMEOUT_S, data: Path | None = None) -> tuple[int, str]:
        """Run a shell command in a fresh machine; return (its exit status, what it wrote). Raises: RuntimeError."""
        with self.start(command, data=data) as machine:
            return machine.finish(timeout_s)


def missing() -> str:
    """Say what this machine lacks for a boot; "" when nothing. The kernel is fetched when it is not here."""
    if os.uname().machine != "x86_64":
        return "an x86_64 machine"
    for program in ("qemu-system-x86_64", "busybox", "mke2fs", "ldd"):
        if disk.which(program) is None:
            return program
    try:
        find_kernel()
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        return f"Debian's package linux-image-cloud-amd64 ({error})"
    return ""


def find_kernel() -> Path:
    """Return the directory that the kernel package is unpacked to; fetch it when it is nowhere.

    Raises: CalledProcessError or ValueError when there is no such package to be had, OSError without apt.
    """
    for place in (os.environ.get("SAMPAN_VM_KERNEL"), CACHE / "kernel"):
        if place and any((Path(place) / "boot").glob("vmlinuz-*")):
            return Path(place)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        if not _package():
            subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
        command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", _package()]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
        (archive,) = Path(directory).glob("linux-image-*.deb")
        subprocess.run(["dpkg-deb", "-x", str(archive), f"{directory}/kernel"], check=True)
        os.rename(f"{directory}/kernel", CACHE / "kernel")  # whole, or not at all
    return CACHE / "kernel"


def _package() -> str:
    """Return the package behind Debian's name for its newest cloud kernel; "" when apt does not know any."""
    command = ["apt-cache", "depends", "linux-image-cloud-amd64"]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return next((line.split()[1] for line in text.splitlines() if "Depends: linux-image-" in line), "")


def _initramfs(kernel_root: Path, command: str, mark: str) -> bytes:
    """Build a cpio archive: busybox, the modules, and the script that does the rest."""
    (modules,) = (kernel_root / "lib/modules").iterdir()
    files: dict[str, bytes | None] = dict.fromkeys(("bin", "dev", "root", "modules"))
    files["bin/busybox"] = Path(str(disk.which("busybox"))).read_bytes()
    for name in BOOT_MODULES:
        (path,) = modules.rglob(f"{name}.ko")
        files[f"modules/{name}.ko"] = path.read_bytes()
    repository = shlex.quote(str(disk.REPOSITORY))
    script = SCRIPT.format(repository=repository, command=shlex.quote(command), mark=mark)
    files["init"] = INITRAMFS.format(modules=" ".join(BOOT_MODULES), script=shlex.quote(script)).encode()
    return b"".join(_entry(name, data) for name, data in files.items()) + _entry("TRAILER!!!", b"")


def _entry(name: str, data: bytes | None) -> bytes:
    """One entry of a cpio archive in the "newc" format; None makes a directory. Source: cpio(5)."""
    mode, content = (0o040755, b"") if data is None else (0o100755, data)
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sampan-vm-") as directory:
        words = sys.argv[1:]
        status, text = Bed(Path(directory)).boot(words[0] if len(words) == 1 else shlex.join(words))
    sys.stdout.write(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
