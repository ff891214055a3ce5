"""Two ends joined: neither way stops the other, and no more than a piece of each way is held."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from sampan.cli.builder import session
from sampan.client.joining import PIECE_BYTES, SocketEnd, StandardStreams, join
from tests.api import certificates

MUCH = 8 * 1024 * 1024
BUFFERS = 1024 * 1024  # the kernel's, of the sockets of one way
SOON_S = 20.0


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pair(opened: ExitStack, *, tls: Path | None = None) -> tuple[socket.socket, socket.socket]:
    """Two ends of one connection, the first for who joins."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.settimeout(SOON_S)
    if tls is None:
        return opened.enter_context(ours), opened.enter_context(theirs)
    certificates.make(tls)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tls / "server.pem", tls / "server-key.pem")
    client = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    shaken: list[socket.socket] = []
    with threaded(lambda: shaken.append(server.wrap_socket(theirs, server_side=True))):
        secured = client.wrap_socket(ours, server_hostname="127.0.0.1")
    return opened.enter_context(secured), opened.enter_context(shaken[0])


class threaded(ExitStack):
    """Work beside the test, which is over at the end of the block."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()
        self.callback(self._over)

    def _over(self) -> None:
        self.thread.join(SOON_S)
        assert not self.thread.is_alive(), "it hangs"


def fill(end: socket.socket) -> int:
    """Write until nothing is taken any more; how much was."""
    taken = 0
    end.settimeout(0.3)
    with suppress(TimeoutError):
        while taken < MUCH:
            taken += end.send(bytes(32 * 1024))
    end.settimeout(SOON_S)
    return taken


def read_all(end: socket.socket, size: int) -> int:
    got = 0
    while got < size and (data := end.recv(1 << 16)):
        got += len(data)
    return got


@pytest.mark.parametrize("secured", [False, True])
def test_an_end_that_takes_nothing_stops_only_what_goes_to_it(opened: ExitStack, tmp_path: Path, secured: bool) -> None:
    near, client = pair(opened)
    far, engine = pair(opened, tls=tmp_path if secured else None)
    with threaded(lambda: join(SocketEnd(near), SocketEnd(far), either=True)):
        taken = fill(client)
        assert taken < BUFFERS + 2 * PIECE_BYTES, "what nobody takes is not heaped up"
        with threaded(lambda: engine.sendall(bytes(MUCH))):
            assert read_all(client, MUCH) == MUCH
        held = fill(engine) if not secured else 0  # a TLS record that was begun has to be sent to its end
        assert held < BUFFERS + 2 * PIECE_BYTES
        assert read_all(engine, taken) == taken and read_all(client, held) == held
        client.close()


def test_the_session_of_a_build_over_tls_goes_on_while_its_engine_reads_nothing(
    opened: ExitStack, tmp_path: Path
) -> None:
    far, engine = pair(opened, tls=tmp_path)
    client = opened.enter_context(session._plain(far))
    client.setblocking(True)
    taken = fill(client)
    with threaded(lambda: engine.sendall(bytes(MUCH))):
        assert read_all(client, MUCH) == MUCH
    assert read_all(engine, taken) == taken
    client.close()
    assert engine.recv(1) == b"", "the session is over for the engine too"
    for thread in threading.enumerate():
        if thread.name == "session-tls":
            thread.join(SOON_S)
            assert not thread.is_alive()


def test_a_half_closed_side_is_handed_on(opened: ExitStack) -> None:
    near, client = pair(opened)
    far, engine = pair(opened)
    with threaded(lambda: join(SocketEnd(near), SocketEnd(far))):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert read_all(engine, 100) == 8
        engine.sendall(b"answer")
        engine.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"answer"


def test_it_ends_when_nobody_is_left_behind_the_near_side(opened: ExitStack) -> None:
    far, _engine = pair(opened)
    reads, writes = os.pipe()
    stdin = os.pipe()
    os.close(reads)
    ours = StandardStreams()
    ours.input, ours.output = stdin[0], writes
    with threaded(lambda: join(ours, SocketEnd(far))):
        pass
    for fd in (writes, *stdin):
        os.close(fd)


def test_dial_stdio_takes_input_while_nobody_reads_its_output(tmp_path: Path) -> None:
    """As ssh has it when the client at its other end sends a large body before it reads."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(SOON_S)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        command = [sys.executable, "-m", "sampan.cli.main", "-H", f"unix://{tmp_path}/s", "system", "dial-stdio"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dialled:
            assert dialled.stdin is not None and dialled.stdout is not None
            engine, _ = listener.accept()
            with engine:
                engine.settimeout(SOON_S)
                said = fill(engine)
                assert said < BUFFERS + 2 * PIECE_BYTES
                stdin = dialled.stdin
                with threaded(lambda: (stdin.write(bytes(MUCH)), stdin.flush())):
                    assert read_all(engine, MUCH) == MUCH
                engine.shutdown(socket.SHUT_WR)
                assert len(dialled.stdout.read()) == said
            assert dialled.wait(SOON_S) == 0
