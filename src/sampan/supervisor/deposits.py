"""Descriptors on their way from a caller to the supervisor. gRPC carries bytes only, so they go beside it:

    caller ──▶ <exec_root>/deposits.sock   packets of token + descriptors (SCM_RIGHTS), as many as it takes
    caller ──▶ supervisor.sock             Create {deposit: token, sources: [place in the spec, …]}

A connection is one deposit and its owner: what has not been taken when it ends is closed. The caller sends first and
calls then, so what a request names lies in the socket already: `Deposits.take` reads it there and never waits.

Only the supervisor's own uid may leave something: the socket is 0600 in a 0700 directory, and SO_PEERCRED is checked.
A deposit is taken once. A connection that breaks the rules or passes a limit is closed with all that it has left.

Source: unix(7) SCM_RIGHTS, SCM_MAX_FD.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Iterator, Sequence

from sampan.supervisor import layout, wire

NAME = "deposits.sock"
MAX_DEPOSITS = 1024
MAX_DESCRIPTORS = 1024  # of one deposit
_TOKEN_BYTES = 32
_BACKLOG = 4096


class UnknownDeposit(LookupError):
    """No deposit has this token; its owner has gone, or it was left at another supervisor."""


class Descriptors:
    """Open descriptors and their one owner. `close` is idempotent."""

    __slots__ = ("fds",)

    def __init__(self, fds: Sequence[int] = ()) -> None:
        self.fds = list(fds)

    def close(self) -> None:
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)


@contextlib.contextmanager
def left(exec_root: str, fds: Sequence[int]) -> Iterator[str]:
    """Leave copies of descriptors for a request made inside the block; yield the token, "" for none.

    Raises: OSError, FileNotFoundError or ConnectionError when no supervisor listens.
    """
    if not fds:
        yield ""
        return
    token = secrets.token_hex(_TOKEN_BYTES // 2)
    with layout.connect(exec_root, NAME, socket.SOCK_SEQPACKET) as peer:
        for at in range(0, len(fds), wire.MAX_RIGHTS):
            socket.send_fds(peer, [token.encode()], fds[at : at + wire.MAX_RIGHTS])
        yield token


class Deposits:
    """The supervisor's side. Use on the event loop's thread."""

    def __init__(self, exec_root: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = layout.listen(exec_root, NAME, backlog=_BACKLOG, kind=socket.SOCK_SEQPACKET)
        self._deposits: dict[int, _Deposit] = {}  # by the connection's descriptor
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def __len__(self) -> int:
        return len(self._deposits)

    def take(self, token: str) -> Descriptors:
        """Return what was left under `token`; the caller owns it. Raises: UnknownDeposit."""
        self._accept()
        for deposit in list(self._deposits.values()):
            self._read(deposit)
        found = next((d for d in self._deposits.values() if d.token == token), None)
        if found is None or not token:
            raise UnknownDeposit(token)
        taken, found.held = found.held, Descriptors()
        self._drop(found)
        return taken

    def close(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for deposit in list(self._deposits.values()):
            self._drop(deposit)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:  # none waits; or no descriptor is left: then the request that names it fails
                return
            if layout.peer_uid(peer) != os.geteuid() or len(self._deposits) >= MAX_DEPOSITS:
                peer.close()
                continue
            peer.setblocking(False)
            deposit = self._deposits[peer.fileno()] = _Deposit(peer)
            self._loop.add_reader(peer.fileno(), self._read, deposit)

    def _read(self, deposit: _Deposit) -> None:
        """Take in what the connection has; at its end, and when it breaks the rules, drop it."""
        while True:
            try:
                data, fds = wire.receive(deposit.peer, _TOKEN_BYTES + 1)
            except BlockingIOError:
                return
            except OSError:
                self._drop(deposit)
                return
            deposit.held.fds += fds
            token = data.decode("ascii", "replace")
            known = deposit.token in ("", token) and len(data) == _TOKEN_BYTES
            if not known or len(deposit.held.fds) > MAX_DESCRIPTORS:
                self._drop(deposit)
                return
            deposit.token = token

    def _drop(self, deposit: _Deposit) -> None:
        self._loop.remove_reader(deposit.peer.fileno())
        del self._deposits[deposit.peer.fileno()]
        deposit.peer.close()
        deposit.held.close()


class _Deposit:
    """One connection and what it has left so far."""

    __slots__ = ("held", "peer", "token")

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.token = ""
        self.held = Descriptors()
