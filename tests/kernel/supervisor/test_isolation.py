"""What must not pass between host and container, or between users, on the supervisor's side. Each test names the row of
SECURITY.md it stands for.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest
from h2.connection import H2Connection

from sampan.supervisor import wire
from tests.kernel.supervisor.bench_of_tasks import Bench, everything, process_of

pytestmark = [pytest.mark.root, pytest.mark.asyncio]
NOBODY = 65534


def _as_user(user: int, path: Path, request: bytes, kind: socket.SocketKind = socket.SOCK_STREAM) -> bytes:
    """What a user gets for `request` on a socket that the file modes let him reach."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer = b"refused at connect"
        try:
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            with socket.socket(socket.AF_UNIX, kind) as peer:
                os.chdir(path.parent)
                peer.connect(path.name)
                peer.settimeout(5)
                peer.sendall(request)
                answer = peer.recv(10)
                peer.settimeout(0.3)  # what follows comes at once or not at all
                while data := peer.recv(1000):
                    answer += data
        except TimeoutError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
        finally:
            os.write(writable, b"answer:" + answer)
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer.removeprefix(b"answer:")


def _open_up(path: Path, stop: Path) -> None:
    """Take away what the modes protect, so that only the credentials are left to protect it."""
    path.chmod(0o666)
    for directory in path.parents:
        directory.chmod(directory.stat().st_mode | 0o055)
        if directory == stop:
            break


async def test_another_user_is_refused_by_the_shim(bench: Bench) -> None:
    """CVE-2020-15257: the shim's socket asks who is there, whatever the modes say."""
    request, _ = await bench.run("sleep", "1000")
    path = bench.exec_root / "tasks" / request.id / "shim.sock"
    _open_up(path, Path("/tmp"))
    attach = wire.line({"op": "attach", "exec_id": "", "stdin": False, "stdout": True, "stderr": True})
    assert await asyncio.to_thread(_as_user, NOBODY, path, attach) == b""
    (await bench.supervisor.attach(request.id)).writer.close()  # root is let in


@pytest.mark.parametrize(("user", "status"), [(NOBODY, "7"), (0, "0")])  # PERMISSION_DENIED, OK
async def test_another_user_is_refused_by_the_supervisor(bench: Bench, user: int, status: str) -> None:
    path = bench.exec_root / "supervisor.sock"
    _open_up(path, Path("/tmp"))
    http = H2Connection()
    http.initiate_connection()
    names = {"method": "POST", "scheme": "http", "path": "/sampan.supervisor.v1.Supervisor/List", "authority": "x"}
    http.send_headers(
        1, [*((f":{k}", v) for k, v in names.items()), ("te", "trailers"), ("content-type", "application/grpc")]
    )
    http.send_data(1, bytes(5), end_stream=True)
    answer = await asyncio.to_thread(_as_user, user, path, http.data_to_send())
    headers = [h for event in http.receive_data(answer) for h in getattr(event, "headers", [])]
    assert dict(headers)[b"grpc-status"] == status.encode()


async def test_another_user_leaves_no_descriptors(bench: Bench) -> None:
    path = bench.exec_root / "deposits.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    _open_up(path, Path("/tmp"))
    assert await asyncio.to_thread(_as_user, NOBODY, path, b"t" * 32, socket.SOCK_SEQPACKET) == b""


async def test_no_descriptor_of_ours_reaches_the_container(bench: Bench) -> None:
    """CVE-2024-21626: neither init nor an exec'd process inherits anything but its stdio."""
    request, _ = await bench.run("sh", "-c", "ls /proc/self/fd; sleep 1000", stdin=True)
    _, attached = await bench.supervisor.exec_attached(
        request.id, "e", process_of("ls", "/proc/self/fd"), terminal=False, stdin=True
    )
    listing = (await everything(attached))[1].split()
    assert listing == [b"0", b"1", b"2", b"3"]  # 3 is the listing itself
    assert bench.lines(request) == ["0", "1", "2", "3"]


async def test_signals_and_umask_are_what_a_fresh_process_has(bench: Bench) -> None:
    """Python ignores SIGPIPE and our umask is 077: neither is inherited."""
    request, _ = await bench.run("cat", "/proc/self/status")
    await bench.supervisor.wait(request.id)
    status = dict(line.split(":\t", 1) for line in bench.lines(request) if ":\t" in line)
    assert status["Umask"] == "0022"
    assert int(status["SigIgn"], 16) == 0  # the C library's own two included
    assert int(status["SigBlk"], 16) == 0


async def test_our_environment_stays_with_us(bench: Bench) -> None:
    request, _ = await bench.run("sh", "-c", "cat /proc/self/environ | tr '\\0' '\\n'")
    await bench.supervisor.wait(request.id)
    assert {line.split("=")[0] for line in bench.lines(request)} <= {"PATH", "HOME", "SHLVL", "PWD", "OLDPWD"}
