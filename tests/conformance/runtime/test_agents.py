"""What is handed out through sockets: pidfds, and the listeners of seccomp filters (SCMP_ACT_NOTIFY)."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime.driver import LIMIT_S, Runtime, Spec, until

_NOTIF_RECV = 0xC0502100
_NOTIF_SEND = 0xC0182101
_CONTINUE = 1


@contextlib.contextmanager
def receiving(path: Path, count: int = 1) -> Iterator[list[tuple[bytes, int]]]:
    """Take `count` messages with a descriptor each; the list is filled as they come."""
    got: list[tuple[bytes, int]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(4)
        listener.settimeout(LIMIT_S)

        def take() -> None:
            for _ in range(count):
                connection, _ = listener.accept()
                with connection:
                    message, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
                    fds = array.array("i", ancillary[0][2][:4])
                    got.append((message, fds[0]))

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield got
        finally:
            thread.join(LIMIT_S)
            for _, fd in got:
                os.close(fd)


@pytest.fixture
def modern(runtime: Runtime) -> Runtime:
    if runtime.is_old_runc:
        pytest.skip("--pidfd-socket came with runc 1.2")
    return runtime


def test_a_pidfd_is_sent_for_run_and_exec(modern: Runtime, tmp_path: Path) -> None:
    id, bundle = modern.bundle(modern.spec())
    with receiving(tmp_path / "a.sock") as got:
        command = ["create", "--pidfd-socket", str(tmp_path / "a.sock"), "--bundle", str(bundle), id]
        assert _quiet(modern, *command) == 0
        until(lambda: bool(got))
        assert f"Pid:\t{modern.state(id)['pid']}\n" in Path(f"/proc/self/fdinfo/{got[0][1]}").read_text()
    assert got[0][0] == b"standard"
    modern.ok("start", id)
    with receiving(tmp_path / "b.sock") as got:
        assert modern.ok("exec", "--pidfd-socket", str(tmp_path / "b.sock"), id, "echo", "hi") == "hi\n"
    assert got[0][0] == b"setns"
    assert "no such file or directory" in modern.fails("exec", "--pidfd-socket", "/nonesuch/s", id, "true", status=255)


def _quiet(runtime: Runtime, *arguments: str) -> int:
    """Run a command whose container holds no pipe of ours."""
    command = [*runtime.command, "--root", str(runtime.root), *arguments]
    null = subprocess.DEVNULL
    return subprocess.run(command, stdin=null, stdout=null, stderr=null, timeout=LIMIT_S, check=False).returncode


def _notifying(spec: Spec, path: Path) -> Spec:
    spec["annotations"] = {"org.example": "kept"}
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "listenerMetadata": "for the agent",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    }
    return spec


def _answer(listener: int, error: int, *, go_on: bool = False) -> int:
    """Answer one system call; return the pid that made it."""
    request = bytearray(80)  # struct seccomp_notif
    fcntl.ioctl(listener, _NOTIF_RECV, request, True)
    id, pid = struct.unpack_from("<QI", request)
    response = struct.pack("<QqiI", id, 0, -error, _CONTINUE if go_on else 0)
    fcntl.ioctl(listener, _NOTIF_SEND, response)
    return int(pid)


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_an_agent_answers_system_calls(runtime: Runtime, tmp_path: Path, no_new_privileges: bool) -> None:
    spec = _notifying(runtime.spec("sh", "-c", "mkdir /tmp/a; mkdir /tmp/b && echo made"), tmp_path / "agent")
    spec["process"]["noNewPrivileges"] = no_new_privileges
    with receiving(tmp_path / "agent") as got:
        id = runtime.create(spec)
        until(lambda: bool(got))
        listener = os.dup(got[0][1])
    state = json.loads(got[0][0])
    pid = runtime.state(id)["pid"]
    assert state["fds"] == ["seccompFd"] and state["metadata"] == "for the agent" and state["pid"] == pid
    container = state["state"]
    assert (container["id"], container["status"], container["pid"]) == (id, "creating", pid)
    assert container["annotations"] == {"org.example": "kept"}
    runtime.ok("start", id)
    assert _answer(listener, errno.EDQUOT) > 0
    assert _answer(listener, 0, go_on=True) > 0
    runtime.wait_for(id, "stopped")
    os.close(listener)
    assert runtime.output.read_text() == "made\n"


def test_an_agent_answers_for_exec(runtime: Runtime, tmp_path: Path) -> None:
    with receiving(tmp_path / "agent", 2) as got:
        id = runtime.start(_notifying(runtime.spec(), tmp_path / "agent"))
        assert runtime.ok("exec", id, "echo", "hi") == "hi\n"
    first, second = (json.loads(message) for message, _ in got)
    assert first["pid"] != second["pid"]
    assert second["state"]["status"] == "running" and second["state"]["pid"] == first["pid"]


def test_an_agent_that_is_not_there_fails_the_start(runtime: Runtime, tmp_path: Path) -> None:
    message = runtime.create(_notifying(runtime.spec(), tmp_path / "nobody"), status=1)
    assert f"dial unix {tmp_path}/nobody: connect: no such file or directory" in message
