"""Real containers from a busybox root, and the proof that nothing of them stays."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from sampan.linux.cgroups.hierarchy import layout
from sampan.runtime import container
from sampan.runtime.container import Container
from tests.support import busybox

Spec = dict[str, Any]

CAPS = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
]
SAFE = ["nosuid", "noexec", "nodev"]
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": SAFE},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*SAFE, "ro"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", *SAFE]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": SAFE},
    {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": [*SAFE, "mode=1777", "size=67108864"],
    },
]
CGROUP = f"/sampan-rt-{os.getpid()}"


def default_spec(args: list[str], **process: Any) -> Spec:
    """A spec like the one an engine makes for `run busybox ARGS`."""
    return {
        "ociVersion": "1.2.0",
        "process": {
            "args": args,
            "cwd": "/",
            "env": ["PATH=/bin:/usr/bin", "TERM=xterm"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": CAPS, "effective": CAPS, "permitted": CAPS},
            **process,
        },
        "root": {"path": "rootfs"},
        "hostname": "tester",
        "mounts": [dict(mount) for mount in MOUNTS],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts", "network")],
            "maskedPaths": ["/proc/keys", "/proc/acpi", "/proc/nosuchthing", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/bus"],
        },
    }


class Result:
    """What a container left: exit status (128 + n for signal n), stdout and stderr as text."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def __repr__(self) -> str:
        return f"Result({self.status}, out={self.out!r}, err={self.err!r})"


class Bench:
    """Makes containers in a scratch directory. `lower` is a busybox root that no test changes."""

    def __init__(self, directory: Path, lower: Path) -> None:
        self.directory = directory
        self.lower = lower
        self.count = 0
        self.containers: list[Container] = []

    def bundle(self) -> tuple[str, list[Spec]]:
        """Make a bundle; return its path and the rootfs mounts of an overlay of its own."""
        self.count += 1
        path = self.directory / f"bundle{self.count}"
        for name in ("rootfs", "upper", "work"):
            (path / name).mkdir(parents=True)
        options = [f"lowerdir={self.lower}", f"upperdir={path}/upper", f"workdir={path}/work"]
        return str(path), [{"type": "overlay", "source": "overlay", "destination": "/", "options": options}]

    @property
    def upper(self) -> Path:
        """What the last container wrote."""
        return self.directory / f"bundle{self.count}" / "upper"

    def create(self, spec: Spec, *, files: dict[str, str] | None = None, **options: Any) -> Container:
        """Create a container; `files` are put into the writable layer first: a text, or "-> target" for a symlink."""
        bundle, rootfs = self.bundle()
        for name, text in (files or {}).items():
            path = self.upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text.startswith("-> "):
                path.symlink_to(text[3:])
            else:
                path.write_text(text)
                path.chmod(0o755)
        spec["linux"].setdefault("cgroupsPath", f"{CGROUP}/{self.count}")
        mounts = options.pop("rootfs", rootfs)
        made = container.create(
            spec,
            id=f"test{self.count}",
            bundle=bundle,
            rootfs=mounts,
            options=container.CreateOptions(**options),
        )
        self.containers.append(made)
        return made

    def run(self, spec: Spec, **options: Any) -> Result:
        """Run a container to its end."""
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            made = self.create(spec, stdio=(null, out_write, err_write), **options)
            made.start()
        except BaseException:
            os.close(out_read)
            os.close(err_read)
            raise
        finally:
            for fd in (out_write, err_write, null):
                os.close(fd)
        out, err = drain(out_read), drain(err_read)
        return Result(reap(made), out, err)

    def shell(self, script: str, change: Callable[[Spec], None] | None = None, **options: Any) -> Result:
        """Run `sh -c script` in a default container, after `change` has had its way with the spec."""
        spec = default_spec(["sh", "-c", script])
        if change is not None:
            change(spec)
        return self.run(spec, **options)

    def exec(self, made: Container, args: list[str], **process: Any) -> Result:
        """Run another process in a running container to its end."""
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        spec = {"args": args, "cwd": "/", "env": ["PATH=/bin"], **process}
        try:
            child = made.exec(spec, stdio=(out_write, out_write, err_write))
        except BaseException:
            os.close(out_read)
            os.close(err_read)
            raise
        finally:
            os.close(out_write)
            os.close(err_write)
        out, err = drain(out_read), drain(err_read)
        _, status = os.waitpid(child.pid, 0)
        os.close(child.pidfd)
        return Result(_code(status), out, err)

    def close(self) -> None:
        """Delete every container that a test has left."""
        for made in self.containers:
            if made.pidfd >= 0:
                made.cgroup.kill()
                try:
                    os.waitpid(made.pid, 0)
                except ChildProcessError:
                    pass
                made.delete()


def drain(fd: int) -> str:
    chunks = []
    while chunk := os.read(fd, 65536):
        chunks.append(chunk)
    os.close(fd)
    return b"".join(chunks).decode("utf-8", "replace")


def reap(made: Container) -> int:
    """Wait for init and delete the container; return the exit status."""
    _, status = os.waitpid(made.pid, 0)
    made.delete()
    return _code(status)


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def unpack_root(directory: Path) -> None:
    with tarfile.open(fileobj=BytesIO(busybox.root_tar())) as tar:
        tar.extractall(directory)


class Snapshot:
    """What the host has: mounts, cgroups below ours, children and descriptors of this process."""

    def __init__(self, scratch: Path) -> None:
        self.mounts = [
            line for line in Path("/proc/self/mountinfo").read_text().splitlines() if _is_ours(line, scratch)
        ]
        self.cgroups = [str(path) for top in cgroup_tops() if top.exists() for path in top.iterdir() if path.is_dir()]
        self.children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        self.descriptors = sorted(
            (int(name), os.readlink(f"/proc/self/fd/{name}"))
            for name in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{name}")
        )
        self.namespaces = {
            name: os.readlink(f"/proc/self/ns/{name}")
            for name in ("mnt", "pid_for_children", "time_for_children", "net")
        }


def _is_ours(line: str, scratch: Path) -> bool:
    """Leave out what other tests mount meanwhile in temporary directories of theirs."""
    point = line.split()[4]
    return point.startswith(str(scratch)) or not point.startswith(tempfile.gettempdir())


def cgroup_tops() -> list[Path]:
    machine = layout()
    roots = [*machine.roots, machine.v2_root] if machine.v2_root else list(machine.roots)
    return [Path(root + CGROUP) for root in roots]
