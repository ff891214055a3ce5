"""Questions that the name service cannot answer go to other resolvers, one after the other.

Each goes out on a socket of its own, connected, with an id of its own, so that an answer which somebody else has made
up must guess both. An answer is handed on as it is, with the client's id. A resolver that does not answer is asked
last for a while.

Source: RFC 1035 4.2, RFC 5452; Docker Engine 28.5 for which answers make it ask the next resolver.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence

from sampan.linux.loop import READ, WRITE, Loop, Timer
from sampan.linux.namespaces import CLONE_NEWNET, setns
from sampan.supervisor.names import answers
from sampan.supervisor.names.answers import Question
from sampan.supervisor.names.rights import SIOCGIFINDEX, SIOCGSKNS

PORT = 53
TRY_S = 2.0  # for each resolver
SHUNNED_S = 15.0
MOST_SERVERS = 3  # as in libc and Docker
MOST_OF_ONE = 256  # questions on their way, of one sandbox
MOST = 2048  # of all
_NEXT_SERVER = frozenset({2, 5})  # SERVFAIL, REFUSED

Reply = Callable[[bytes], None]


class Forwarder:
    """All questions on their way; `ask` begins one."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._host = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._pending: dict[str, int] = {}
        self._shunned: dict[str, float] = {}

    def ask(
        self, owner: str, inside: socket.socket | None, servers: Sequence[str], packet: bytes, question: Question,
        reply: Reply, *, stream: bool,
    ) -> None:  # fmt: skip
        """Ask resolvers from inside the namespace of a socket, or from the host; `reply` gets one answer in any case.

        owner: for whom, who may have `MOST_OF_ONE` on their way.
        """
        mine = self._pending.get(owner, 0)
        if not servers:
            reply(answers.failure(packet, question.section))
        elif mine >= MOST_OF_ONE or sum(self._pending.values()) >= MOST:
            reply(answers.failure(packet, question.section, refused=True))
        else:
            self._pending[owner] = mine + 1

            def done(answer: bytes) -> None:
                self._pending[owner] -= 1
                if not self._pending[owner]:
                    del self._pending[owner]
                reply(answer)

            _Asking(self, inside, self._ordered(servers), packet, question, done, stream=stream).next()

    def _ordered(self, servers: Sequence[str]) -> list[str]:
        now = time.monotonic()
        return sorted(servers[:MOST_SERVERS], key=lambda server: self._shunned.get(server, 0.0) > now)

    def shun(self, server: str) -> None:
        """Ask this one last for a while."""
        if len(self._shunned) > MOST:
            self._shunned.clear()
        self._shunned[server] = time.monotonic() + SHUNNED_S

    @contextlib.contextmanager
    def within(self, inside: socket.socket | None) -> Iterator[None]:
        """Be in the network namespace of a socket. Raises: OSError."""
        if inside is None:
            yield
            return
        namespace = fcntl.ioctl(inside.fileno(), SIOCGSKNS)
        try:
            setns(namespace, CLONE_NEWNET)
            try:
                yield
            finally:
                setns(self._host, CLONE_NEWNET)
        finally:
            os.close(namespace)


class _Asking:
    """One question on its way."""

    def __init__(
        self, forwarder: Forwarder, inside: socket.socket | None, servers: list[str], packet: bytes,
        question: Question, done: Reply, *, stream: bool,
    ) -> None:  # fmt: skip
        self._forwarder, self._loop, self._inside = forwarder, forwarder.loop, inside
        self._servers, self._packet, self._question, self._done = servers, packet, question, done
        self._stream = stream
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._id = b""
        self._received = b""

    def next(self) -> None:
        """Ask the next resolver; without one the question has failed."""
        self._stop()
        while self._servers:
            server = self._servers.pop(0)
            try:
                self._begin(server)
                return
            except (OSError, ValueError):
                self._stop()
        self._done(answers.failure(self._packet, self._question.section))

    def _begin(self, server: str) -> None:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        kind = socket.SOCK_STREAM if self._stream else socket.SOCK_DGRAM
        with self._forwarder.within(self._inside):
            self._socket = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            address = server.partition("%")
            scope = (0, _interface(self._socket, address[2])) if address[2] else ()
            with contextlib.suppress(BlockingIOError):
                self._socket.connect((address[0], PORT, *scope))
        self._id, self._received = os.urandom(2), b""
        if self._stream:
            self._loop.watch(self._socket.fileno(), WRITE, self._connected)
        else:
            self._socket.send(self._id + self._packet[2:])
            self._loop.watch(self._socket.fileno(), READ, self._readable)

        def late() -> None:
            self._forwarder.shun(server)
            self.next()

        self._timer = self._loop.after(TRY_S, late)

    def _connected(self, _: int) -> None:
        assert self._socket is not None
        sent = len(self._packet).to_bytes(2, "big") + self._id + self._packet[2:]
        try:
            if self._socket.send(sent) != len(sent):  # a new connection takes a question in one piece
                raise OSError("cut")
        except OSError:
            self.next()
            return
        self._loop.forget(self._socket.fileno())
        self._loop.watch(self._socket.fileno(), READ, self._readable)

    def _readable(self, _: int) -> None:
        assert self._socket is not None
        try:
            received = self._socket.recv(answers.STREAM_BYTES + 2)
        except BlockingIOError:
            return
        except OSError:  # the port is closed there
            self.next()
            return
        if self._stream:
            self._received += received
            whole = int.from_bytes(self._received[:2], "big") + 2
            if not received:
                self.next()
            if not received or len(self._received) < max(whole, 2):
                return
            received = self._received[2:whole]
        self._judge(received)

    def _judge(self, answer: bytes) -> None:
        if answer[:2] != self._id or not answers.repeats(answer, self._question.section):
            if self._stream:
                self.next()
            return  # not to this question: the right one may still come
        if answers.code(answer) in _NEXT_SERVER:
            self.next()
            return
        self._stop()
        answer = self._packet[:2] + answer[2:]
        fits = len(answer) <= self._question.room
        self._done(answer if fits else answers.truncated(answer, self._question.section))

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None


def _interface(peer: socket.socket, name: str) -> int:
    """Return an interface's index, as a socket sees it: if_nametoindex(3) makes one that we may not. Raises: OSError"""
    request = struct.pack("16s24x", name.encode()[:15])
    return int(struct.unpack_from("i", fcntl.ioctl(peer.fileno(), SIOCGIFINDEX, request), 16)[0])
