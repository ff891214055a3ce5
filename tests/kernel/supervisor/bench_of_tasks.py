"""A supervisor of the tests' own with busybox tasks: what every test here stands on. It proves at its end that nothing
is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sampan.linux.cgroups import groups
from sampan.spec.oci_runtime import Mount
from sampan.supervisor.client import Attachment, Supervisor, TaskEvent, TaskInfo, TaskRequest
from tests.support.machine import processes

APPLETS = [
    "sh",
    "true",
    "false",
    "cat",
    "echo",
    "sleep",
    "yes",
    "head",
    "dd",
    "kill",
    "ps",
    "id",
    "ls",
    "seq",
    "tr",
    "stty",
    "tty",
    "printf",
    "mkfifo",
    "wc",
]
NAMESPACES = ("pid", "mount", "uts", "ipc", "network")


def make_root(root: Path) -> Path:
    """Lay out a busybox root file system in `root`."""
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy2("/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return root


class Bench:
    """`supervisor` with helpers that make tasks from an argv."""

    def __init__(self, directory: Path, supervisor: Supervisor) -> None:
        self.directory = directory
        self.exec_root = directory / "run"
        self.supervisor = supervisor
        self.cgroup_parent = f"/sampan-test-{os.getpid()}"

    def request(self, *argv: str, namespaces: Sequence[str] = NAMESPACES, **options: Any) -> TaskRequest:
        """A task request; `resources`, `process` and `hooks` go into the spec, everything else into the request."""
        id = secrets.token_hex(32)
        resources = options.pop("resources", {})
        process = process_of(*argv, terminal=options.get("terminal", False), **options.pop("process", {}))
        layer = self.directory / "layers" / id
        for name in ("upper", "work"):
            (layer / name).mkdir(parents=True)
        spec = {
            "ociVersion": "1.2.0",
            "process": process,
            "root": {"path": "rootfs"},
            "hostname": "task",
            "hooks": options.pop("hooks", {}),
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {
                    "destination": "/dev/pts",
                    "type": "devpts",
                    "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
                },
            ],
            "linux": {
                "cgroupsPath": f"{self.cgroup_parent}/{id}",
                "resources": resources,
                "namespaces": [{"type": kind} for kind in namespaces],
            },
        }
        overlay = [f"lowerdir={self.directory / 'root'}", f"upperdir={layer / 'upper'}", f"workdir={layer / 'work'}"]
        return TaskRequest(
            id=id,
            spec=json.dumps(spec).encode(),
            rootfs=(Mount("overlay", "overlay", "/", tuple(overlay)),),
            log_path=str(self.directory / f"{id}-json.log"),
            **options,
        )

    async def run(self, *argv: str, **options: Any) -> tuple[TaskRequest, TaskInfo]:
        request = self.request(*argv, **options)
        return request, await self.supervisor.create(request, start=True)

    def supervisor_pid(self) -> int:
        return int((self.exec_root / "supervisor.pid").read_text())

    def zygote_pids(self) -> list[int]:
        return [p for p, line in processes(str(self.exec_root)).items() if line.startswith("sampan-zygote")]

    def zygote_pid(self) -> int:
        # It titles itself once it has booted, and a fork of it bears the title for a moment.
        while len(found := self.zygote_pids()) != 1:
            time.sleep(0.01)
        return found[0]

    def lines(self, request: TaskRequest) -> list[str]:
        """The task's json-file log, decoded."""
        with open(request.log_path, encoding="utf-8") as file:
            return [json.loads(line)["log"].rstrip("\n") for line in file]


def process_of(*argv: str, terminal: bool = False, **more: Any) -> dict[str, Any]:
    """An OCI process."""
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(argv),
        "env": ["PATH=/bin"],
        "cwd": "/",
        **more,
    }


@asynccontextmanager
async def bench(directory: Path) -> AsyncIterator[Bench]:
    """A bench whose end deletes every task and asserts that no process, cgroup, mount or directory remains."""
    make_root(directory / "root")
    mounts = Path("/proc/self/mountinfo").read_text()
    supervisor = await Supervisor.connect(str(directory / "run"))
    self = Bench(directory, supervisor)
    try:
        yield self
    finally:
        for task in await self.supervisor.list():
            await self.supervisor.delete(task.id)
        left = groups.load(self.cgroup_parent).pids()
        groups.load(self.cgroup_parent).delete()
        assert await self.supervisor.shutdown_if_idle()
        await self.supervisor.close()
        await gone(str(self.exec_root))
    assert left == []
    assert os.listdir(self.exec_root / "tasks") == []
    assert Path("/proc/self/mountinfo").read_text().count(str(directory)) == mounts.count(str(directory))


async def gone(mark: str) -> None:
    """Wait until no process has `mark` in its command line; the test's timeout is the limit."""
    async with asyncio.timeout(10):
        while processes(mark):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)


async def until(stream: AsyncIterator[TaskEvent], kind: str, id: str = "") -> TaskEvent:
    """The next event of that kind (and task)."""
    async for event in stream:
        if event.kind == kind and id in ("", event.id):
            return event
    raise AssertionError


def demultiplexed(data: bytes) -> dict[int, bytes]:
    """stdcopy frames → {1: stdout, 2: stderr}."""
    out = {1: b"", 2: b""}
    while data:
        length = int.from_bytes(data[4:8], "big")
        out[data[0]] += data[8 : 8 + length]
        data = data[8 + length :]
    return out


async def everything(attachment: Attachment) -> dict[int, bytes]:
    """Read an attachment to its end."""
    data = await attachment.reader.read()
    attachment.writer.close()
    return demultiplexed(data)
