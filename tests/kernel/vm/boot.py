"""Boot a Debian kernel in qemu, with this machine's files as its root (read-only, by 9p), and run a command in it.

For what the machine's own kernel lacks: cgroup v2 with its controllers, mainly. Software emulation, so slow: a boot takes
some ten seconds, Python runs at a tenth of its speed.

    python -m tests.kernel.vm.boot pytest -q tests/kernel/test_cgroups.py

The kernel is `linux-image-amd64` (the cloud flavour has no 9p): SAMPAN_VM_KERNEL names a directory that the package was
unpacked to (`dpkg-deb -x`); without it the package is fetched by apt-get into the cache directory. /tmp and /run are tmpfs.
"""

from __future__ import annotations

import gzip
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "/var/cache")) / "sampan-vm"
TIMEOUT_S = 600

#: In the order in which they need each other.
MODULES = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "fs/netfs/netfs",
    "fs/fscache/fscache",
    "net/9p/9pnet",
    "net/9p/9pnet_virtio",
    "fs/9p/9p",
)

INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in {modules}; do /bin/busybox insmod /modules/$module.ko; done
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro host /root
cd /root
for dir in proc sys dev tmp run; do
  case $dir in proc) type=proc;; sys) type=sysfs;; dev) type=devtmpfs;; *) type=tmpfs;; esac
  /bin/busybox mount -t $type $type /root/$dir
done
/bin/busybox mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
/bin/busybox ip link set lo up
/bin/busybox chroot /root /bin/sh -c {command} </dev/null
echo "vm-status: $?"
/bin/busybox reboot -f
"""


def boot(command: str, *, timeout_s: int = TIMEOUT_S) -> tuple[int, str]:
    """Run a shell command in a fresh machine; return (its exit status, everything on the console).

    Raises: RuntimeError when the machine did not get to the end of the command.
    """
    kernel_root = find_kernel()
    (kernel,) = (kernel_root / "boot").glob("vmlinuz-*")
    with tempfile.TemporaryDirectory(prefix="sampan-vm-") as directory:
        image = Path(directory) / "initramfs"
        image.write_bytes(gzip.compress(initramfs(kernel_root, command), 1))
        arguments = [
            *("qemu-system-x86_64", "-nographic", "-no-reboot", "-m", "1024", "-smp", "1", "-cpu", "max"),
            *("-kernel", str(kernel), "-initrd", str(image), "-append", "console=ttyS0 quiet panic=-1"),
            *("-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"),
        ]
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    before, found, status = done.stdout.rpartition("vm-status: ")
    if not found:
        raise RuntimeError(f"the machine ended early: {done.stdout[-4000:]}{done.stderr[-1000:]}")
    return int(status.split()[0]), before


def missing() -> str:
    """Say what this machine lacks for a boot; "" when nothing."""
    for program in ("qemu-system-x86_64", "busybox"):
        if shutil.which(program) is None:
            return program
    return "" if _unpacked() else "an unpacked linux-image-amd64 in SAMPAN_VM_KERNEL"


def _unpacked() -> Path | None:
    for place in (os.environ.get("SAMPAN_VM_KERNEL"), CACHE / "kernel"):
        if place and any((Path(place) / "boot").glob("vmlinuz-*")):
            return Path(place)
    return None


def find_kernel() -> Path:
    """Return the unpacked package, fetching it when it is nowhere."""
    found = _unpacked()
    if found is not None:
        return found
    CACHE.mkdir(parents=True, exist_ok=True)
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=True
    ).stdout
    (package, *_) = (line.split()[1] for line in depends.splitlines() if "Depends: linux-image" in line)
    subprocess.run(["apt-get", "download", package], cwd=CACHE, check=True, stdout=subprocess.DEVNULL)
    (archive, *_) = CACHE.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", str(archive), str(CACHE / "kernel")], check=True)
    archive.unlink()
    return CACHE / "kernel"


def initramfs(kernel_root: Path, command: str) -> bytes:
    """Build a cpio archive: busybox, the modules, and the script that does the rest."""
    (modules,) = (kernel_root / "lib/modules").iterdir()
    files: dict[str, bytes | None] = dict.fromkeys(("bin", "dev", "proc", "root", "modules"))
    files["bin/busybox"] = Path(str(shutil.which("busybox"))).read_bytes()
    for name in MODULES:
        files[f"modules/{Path(name).name}.ko"] = (modules / "kernel" / f"{name}.ko").read_bytes()
    names = " ".join(Path(name).name for name in MODULES)
    script = (
        f"cd {REPOSITORY}; export HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PATH=/usr/sbin:/usr/bin:/sbin:/bin; {command}"
    )
    files["init"] = INIT.format(modules=names, command=shlex.quote(script)).encode()
    return b"".join(cpio_entry(name, data) for name, data in files.items()) + cpio_entry("TRAILER!!!", b"")


def cpio_entry(name: str, data: bytes | None) -> bytes:
    """One entry in the "newc" format; None makes a directory."""
    mode, content = (0o040755, b"") if data is None else (0o100755, data)
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


if __name__ == "__main__":
    words = sys.argv[1:]
    if words and words[0] == "pytest":
        words = [sys.executable, "-m", *words]
    code, text = boot(shlex.join(words))
    sys.stdout.write(text)
    sys.exit(code)
