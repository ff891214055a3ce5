"""Drive an OCI runtime by its command line, with bundles made for one test each.

Nothing here knows whose runtime it is: the same tests run on runc, which proves the tests, and on sampan-runc.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Spec = dict[str, Any]

APPLETS = [
    "cat",
    "chmod",
    "echo",
    "env",
    "false",
    "grep",
    "head",
    "id",
    "ls",
    "mkdir",
    "mount",
    "nc",
    "pwd",
    "readlink",
    "sh",
    "sleep",
    "stat",
    "stty",
    "test",
    "touch",
    "tr",
    "true",
    "umask",
    "uname",
    "wc",
]
CAPS = ["CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
LIMIT_S = 30


def make_rootfs(path: Path) -> Path:
    """A root with busybox and the directories that specs mount on."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "the tests need busybox-static"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "mnt", "data"):
        (path / name).mkdir(parents=True)
    shutil.copy(busybox, path / "bin/busybox")
    for applet in APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (path / "etc/secret").write_text("hidden\n")
    (path / "etc/noexec").write_text("#!/bin/sh\n")
    (path / "data/file").write_text("from the root\n")
    (path / "mnt/escape").symlink_to("/etc")
    return path


def base_spec(rootfs: Path, *args: str) -> Spec:
    """A small container that every runtime must be able to run."""
    flags = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(args) or ["sleep", "1000"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {name: list(CAPS) for name in ("bounding", "effective", "permitted")},
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs), "readonly": True},
        "hostname": "conformance",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": flags},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
        ],
        "linux": {
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        },
    }


class Runtime:
    """One runtime with a root of its own for the states."""

    def __init__(self, name: str, command: list[str], directory: Path, rootfs: Path) -> None:
        self.name = name
        self.command = command
        self.directory = directory
        self.root = directory / "state"
        self.rootfs = rootfs
        self.prefix = f"conf-{os.getpid()}"
        self._count = 0
        self.output = directory / "output"

    @property
    def poststart_too_early(self) -> bool:
        """runc, also 1.3.6, runs poststart hooks at the end of create, which the specification does not allow."""
        return self.name == "runc"

    @property
    def is_old_runc(self) -> bool:
        """A runc before 1.3, whose habits sampan-runc follows."""
        version = self.ok("--version").split()[2]
        return self.name == "runc" and tuple(map(int, version.split("+")[0].split(".")[:2])) < (1, 3)

    def __call__(self, *arguments: str, stdin: str | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command that leaves nobody behind who holds its output."""
        command = [*self.command, "--root", str(self.root), *arguments]
        return subprocess.run(
            command, input=stdin or "", capture_output=True, text=True, timeout=LIMIT_S, check=False, **more
        )

    def ok(self, *arguments: str, **more: Any) -> str:
        done = self(*arguments, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments: str, status: int = 1) -> str:
        """Run a command that must fail; return the last error it logged."""
        done = self(*arguments)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return logged(done.stderr)

    def spec(self, *args: str) -> Spec:
        return base_spec(self.rootfs, *args)

    def bundle(self, spec: Spec) -> tuple[str, Path]:
        """Write a bundle; return a new id and its path."""
        self._count += 1
        id = f"{self.prefix}-{self._count}"
        path = self.directory / id
        path.mkdir()
        spec = copy.deepcopy(spec)
        spec["linux"].setdefault("cgroupsPath", f"/{self.prefix}/{id}")
        (path / "config.json").write_text(json.dumps(spec))
        return id, path

    def run(self, spec: Spec, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run a container to its end in the foreground."""
        id, path = self.bundle(spec)
        return self("run", *flags, "--bundle", str(path), id)

    def says(self, spec: Spec, *args: str) -> str:
        """Run a container with a command and return what it printed; it must succeed."""
        if args:
            spec["process"]["args"] = list(args)
        done = self.run(spec)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def shell(self, spec: Spec, script: str) -> str:
        return self.says(spec, "sh", "-c", script)

    def create(self, spec: Spec, *flags: str, status: int = 0) -> str:
        """Create a container; its output goes to a file. With `status`, it must fail so: return the error."""
        id, path = self.bundle(spec)
        with self.output.open("w") as out, (self.directory / "errors").open("w") as errors:
            command = [*self.command, "--root", str(self.root), "create", "--bundle", str(path), *flags, id]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, timeout=LIMIT_S, check=False
            )
        text = (self.directory / "errors").read_text()
        assert done.returncode == status, text
        return logged(text) if status else id

    def start(self, spec: Spec, *flags: str) -> str:
        id = self.create(spec, *flags)
        self.ok("start", id)
        return id

    def state(self, id: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.ok("state", id))
        return value

    def wait_for(self, id: str, status: str) -> None:
        until(lambda: self.state(id)["status"] == status)

    def clean(self) -> None:
        """Delete what a test left; nothing of it may stay."""
        if self.root.is_dir():
            for id in os.listdir(self.root):
                self("delete", "--force", id)
        assert not self.root.is_dir() or not os.listdir(self.root)
        left = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{self.prefix}/*") if path.is_dir()]
        assert not left, f"cgroups left: {left}"
        for path in Path("/sys/fs/cgroup").glob(f"*/{self.prefix}"):
            path.rmdir()
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.directory) in line]
        assert not mounts, f"mounts left: {mounts}"


def logged(text: str) -> str:
    """Return the message of the last error line."""
    lines = [line for line in text.splitlines() if "level=error" in line]
    assert lines, text
    message = lines[-1].partition(" msg=")[2]
    return str(json.loads(message)) if message.startswith('"') else message


def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait for a condition that the kernel, not a message, makes true."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@contextlib.contextmanager
def console_socket(directory: Path) -> Iterator[Any]:
    """Listen for one terminal master; yields (path, receive)."""
    import array
    import socket

    path = directory / "console.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(LIMIT_S)

        def receive() -> int:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(LIMIT_S)
                _, ancillary, _, _ = connection.recvmsg(256, socket.CMSG_SPACE(4))
            fds = array.array("i")
            fds.frombytes(ancillary[0][2][:4])
            return fds[0]

        yield str(path), receive
    path.unlink(missing_ok=True)


def read_terminal(fd: int, wanted: str) -> str:
    """Read from a master until `wanted` has come, or the other side is gone."""
    text = ""
    while wanted not in text:
        try:
            chunk = os.read(fd, 4096)
        except OSError:
            break
        if not chunk:
            break
        text += chunk.decode()
    return text
