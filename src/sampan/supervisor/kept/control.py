"""The control socket of a kept process: requests of the engine, one JSON object each, with descriptors.

SOCK_SEQPACKET. A request has a number, {"n": number, …}; its answer, {"n": number, …}, says that it is done. Only our
own user may ask.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from sampan.linux.loop import HANG_UP, READ, Loop
from sampan.supervisor import layout
from sampan.supervisor.kept.messages import receive
from sampan.supervisor.notes import note

MESSAGE_BYTES = 32768


class Caller:
    """A connection of an engine. kept: descriptors that it has brought for a later request; closed at its end."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}


Answer = Callable[[Mapping[str, Any]], None]
Handle = Callable[[Mapping[str, Any], list[int], Caller, Answer], None]
"""Do a request, and answer it once, now or later. Descriptors that are left in the list are closed.

Raises: ValueError, LookupError, TypeError, AttributeError for what is no request."""


class ControlServer:
    """Listens on `directory/name` until `close`. left: hears of callers that have gone."""

    def __init__(
        self, loop: Loop, directory: str, name: str, handle: Handle, left: Callable[[Caller], None] | None = None
    ) -> None:
        self._loop, self._handle, self._left = loop, handle, left
        self._listener = layout.listen(directory, name, kind=socket.SOCK_SEQPACKET)
        loop.watch(self._listener.fileno(), READ, self._accept)

    def close(self) -> None:
        """Take no more connections."""
        self._loop.forget(self._listener.fileno())
        self._listener.close()

    def _accept(self, _: int) -> None:
        try:
            peer, _address = self._listener.accept()
        except OSError:
            return
        if layout.peer_uid(peer) != os.geteuid():
            peer.close()
            return
        _Connection(self._loop, peer, self._handle, self._left)


class _Connection:
    def __init__(self, loop: Loop, peer: socket.socket, handle: Handle, left: Callable[[Caller], None] | None) -> None:
        self._loop, self._peer, self._handle, self._left = loop, peer, handle, left
        self._caller = Caller()
        peer.setblocking(False)
        loop.watch(peer.fileno(), READ, self._ready)

    def _ready(self, mask: int) -> None:
        try:
            message, fds = receive(self._peer, MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message, fds = b"", []
        if not message:
            self._close()
            return
        try:
            request = json.loads(message)
            number = request["n"]
            self._handle(request, fds, self._caller, lambda said: self._answer({**said, "n": number}))
        except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError) as error:
            note(f"a request that is none: {error}")
        finally:
            for fd in fds:
                os.close(fd)
        if mask & HANG_UP and self._peer.fileno() >= 0:
            self._ready(READ)

    def _answer(self, said: Mapping[str, Any]) -> None:
        if self._peer.fileno() >= 0:
            try:
                self._peer.send(json.dumps(said).encode())
            except OSError:
                pass  # nobody reads the answer: the files say it all

    def _close(self) -> None:
        self._loop.forget(self._peer.fileno())
        self._peer.close()
        for fd in self._caller.kept.values():
            os.close(fd)
        if self._left is not None:
            self._left(self._caller)
