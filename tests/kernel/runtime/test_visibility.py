"""A process that enters a container shows it nothing of the host: the attack from inside, with CAP_SYS_PTRACE.

Each test lets `tests/support/hunter.py` look at every process of its pid namespace while processes enter that. CI hunts
for a few seconds; `SAMPAN_ATTACK_S=60` hunts for a minute.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sampan.linux import mounts, syscalls
from sampan.runtime.container import Container, RuntimeFailure
from sampan.runtime.steps import procfs
from tests.kernel.runtime.harness import CAPS, CGROUP, Bench, Spec, default_spec, drain, reap
from tests.support import hunter

ATTACK_S = float(os.environ.get("SAMPAN_ATTACK_S", "3"))
NAMESPACES = ("mnt", "pid", "ipc", "uts", "net")
HIDDEN = "what only the host has"


def with_python(spec: Spec) -> Spec:
    """Let a container execute the interpreter that runs these tests, and add CAP_SYS_PTRACE."""
    for path in ("/usr", "/lib", "/lib64"):
        if os.path.isdir(path):
            spec["mounts"].append(
                {
                    "destination": path,
                    "type": "bind",
                    "source": os.path.realpath(path),
                    "options": ["bind", "ro"],
                }
            )
    capabilities = [*CAPS, "CAP_SYS_PTRACE"]
    spec["process"]["capabilities"] = {
        "bounding": capabilities,
        "effective": capabilities,
        "permitted": capabilities,
    }
    return spec


def python(*args: str) -> list[str]:
    return [os.path.realpath(f"/proc/{os.getpid()}/exe"), "-I", *args]


class Hunt:
    """A container in which the hunter runs, and what it has printed."""

    def __init__(self, container: Container, out: int) -> None:
        self.container = container
        self._out = out

    def result(self) -> dict[str, Any]:
        """Wait for the end of the hunt."""
        text = drain(self._out)
        assert reap(self.container) == 0, text
        found: dict[str, Any] = json.loads(text.splitlines()[-1])
        print(found)
        return found


@contextmanager
def marked_host(directory: Path) -> Iterator[dict[str, Any]]:
    """What the hunter knows of the host: a file, a mount and the namespaces that no container has."""
    secret = directory / "secret"
    secret.write_text(HIDDEN)
    marker = directory / "marker"
    marker.mkdir()
    mounts.mount(str(marker), str(marker), None, mounts.MS_BIND)
    try:
        yield {
            "secret": str(secret),
            "mount": str(marker),
            "namespaces": {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in NAMESPACES},
            "cgroup": CGROUP,
            "programs": False,  # the tests' own interpreter lies on the host; a shim's is a sealed copy
        }
    finally:
        mounts.umount2(str(marker), mounts.MNT_DETACH)


def hunt(bench: Bench, host: dict[str, Any], seconds: float = ATTACK_S) -> Hunt:
    spec = with_python(default_spec(python("/hunter.py", str(seconds), json.dumps(host))))
    reader, writer = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        made = bench.create(spec, files={"hunter.py": Path(hunter.__file__).read_text()}, stdio=(null, writer, writer))
        made.start()
    finally:
        os.close(writer)
        os.close(null)
    assert os.read(reader, 6) == b"ready\n"
    return Hunt(made, reader)


@pytest.mark.timeout(ATTACK_S * 3 + 30)
def test_exec_shows_nothing_of_the_host(bench: Bench, tmp_path: Path) -> None:
    with marked_host(tmp_path) as host:
        hunting = hunt(bench, host)
        end = time.monotonic() + ATTACK_S - 0.5
        execs = 0
        while time.monotonic() < end:
            assert bench.exec(hunting.container, ["true"]).status == 0
            execs += 1
        found = hunting.result()
    assert found["hits"] == {}, found
    assert found["seen"] >= execs / 4  # it has looked at them


def in_pid_namespace_of(owner: Container, spec: Spec) -> Spec:
    for namespace in spec["linux"]["namespaces"]:
        if namespace["type"] == "pid":
            namespace["path"] = f"/proc/{owner.pid}/ns/pid"
    return spec


@pytest.fixture(params=["kernel", "child"])
def procfs_made_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two ways to a procfs of another pid namespace: Linux 6.17's, and the one before that."""
    made_by: str = request.param
    if made_by == "child":
        monkeypatch.setattr(procfs, "context", procfs.context_from_inside)
    return made_by


@pytest.mark.timeout(ATTACK_S * 3 + 30)
@pytest.mark.usefixtures("procfs_made_by")
def test_a_container_in_the_pid_namespace_of_another_shows_nothing_of_the_host(bench: Bench, tmp_path: Path) -> None:
    with marked_host(tmp_path) as host:
        hunting = hunt(bench, host)
        end = time.monotonic() + ATTACK_S - 0.5
        made = 0
        while time.monotonic() < end:
            assert bench.run(in_pid_namespace_of(hunting.container, default_spec(["true"]))).status == 0
            made += 1
        found = hunting.result()
    assert found["hits"] == {}, found
    assert found["seen"] >= made / 4


@pytest.mark.usefixtures("procfs_made_by")
def test_a_container_in_the_pid_namespace_of_another_sees_that_one(bench: Bench) -> None:
    owner = bench.create(default_spec(["sleep", "1234"]))
    owner.start()
    spec = in_pid_namespace_of(
        owner, default_spec(["sh", "-c", "cat /proc/1/cmdline; echo; echo $$; ls /proc/self/fd"])
    )
    lines = bench.run(spec).out.split()
    assert lines[0].replace("\0", " ").strip() == "sleep 1234"
    assert int(lines[1]) > 1
    assert lines[2:] == ["0", "1", "2", "3"]  # 3 is ls's own


MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


@pytest.mark.usefixtures("procfs_made_by")
def test_a_user_and_a_pid_namespace_of_another(bench: Bench) -> None:
    """What `--pid container:X` is with user namespaces: who shares the processes shares the ids."""
    spec = default_spec(["sleep", "1234"])
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"].update(uidMappings=MAPS, gidMappings=MAPS)
    owner = bench.create(spec)
    owner.start()
    spec = in_pid_namespace_of(owner, default_spec(["sh", "-c", "cat /proc/1/cmdline; echo; cat /proc/self/uid_map"]))
    spec["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{owner.pid}/ns/user"})
    spec["linux"].update(uidMappings=MAPS, gidMappings=MAPS)
    lines = bench.run(spec).out.replace("\0", " ").splitlines()
    assert lines[0].strip() == "sleep 1234"
    assert lines[1].split() == ["0", "100000", "65536"]


def test_a_new_user_namespace_in_the_pid_namespace_of_another(bench: Bench) -> None:
    """Its procfs belongs to another user namespace, and is not its to mount; without one it can be joined."""
    owner = bench.create(default_spec(["sleep", "1234"]))
    owner.start()
    spec = in_pid_namespace_of(owner, default_spec(["sh", "-c", "echo $$; id -u"]))
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] == "tmpfs"]
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"].update(uidMappings=MAPS, gidMappings=MAPS, maskedPaths=[], readonlyPaths=[])
    pid, uid = bench.run(spec).out.split()
    assert int(pid) > 1
    assert uid == "0"


def test_a_terminal_in_the_pid_namespace_of_another(bench: Bench) -> None:
    owner = bench.create(default_spec(["sleep", "1234"]))
    owner.start()
    made = bench.create(
        in_pid_namespace_of(owner, default_spec(["sh", "-c", "tty; echo $$ $(ps -o sid= | tail -1)"], terminal=True))
    )
    made.start()
    assert made.console_fd is not None
    text = b""
    try:
        while b"\n" not in text:
            text += os.read(made.console_fd, 4096)
    except OSError:  # EIO: the other side has gone
        pass
    assert text.startswith(b"/dev/pts/0")
    assert reap(made) == 0


def test_a_failure_in_the_pid_namespace_of_another_leaves_nothing(bench: Bench) -> None:
    owner = bench.create(default_spec(["sleep", "1234"]))
    owner.start()
    with pytest.raises(RuntimeFailure, match="no such file"):
        bench.create(in_pid_namespace_of(owner, default_spec(["/nowhere"])))
    with pytest.raises(RuntimeFailure, match="no such file"):
        bench.exec(owner, ["/nowhere"])


# The keys that a process possesses by its session keyring: search for one there, and read it.
KEY_READER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
key = libc.syscall(KEYCTL, 10, -3, b"user", sys.argv[1].encode(), 0)
data = ctypes.create_string_buffer(64)
size = libc.syscall(KEYCTL, 11, key, data, 64) if key >= 0 else -1
print(data.raw[:size].decode() if size >= 0 else "none")
"""


def test_no_key_of_the_hosts_session_keyring_is_seen_inside(bench: Bench) -> None:
    syscalls.keyctl_join_session_keyring(None)
    name, payload = f"sampan-test-{os.getpid()}", "a key of the host"
    syscalls.add_key("user", name, payload.encode(), syscalls.KEY_SPEC_SESSION_KEYRING)
    reader = KEY_READER.replace("KEYCTL", str(syscalls.number("keyctl")))
    init = bench.run(with_python(default_spec(python("-c", reader, name))))
    assert (init.out.strip(), init.err) == ("none", "")
    made = bench.create(with_python(default_spec(["sleep", "100"])))
    made.start()
    assert bench.exec(made, python("-c", reader, name)).out.strip() == "none"


def test_exec_joins_the_containers_session_keyring(bench: Bench) -> None:
    """As with the reference, what one process of the container adds, the next one finds."""
    made = bench.create(with_python(default_spec(["sleep", "100"])))
    made.start()
    reader = KEY_READER.replace("KEYCTL", str(syscalls.number("keyctl")))
    adder = (
        "import ctypes; libc = ctypes.CDLL(None);"
        f'print(libc.syscall({syscalls.number("add_key")}, b"user", b"ours", b"shared", 6, -3) > 0)'
    )
    assert bench.exec(made, python("-c", adder)).out.strip() == "True"
    assert bench.exec(made, python("-c", reader, "ours")).out.strip() == "shared"
