"""The control socket of a kept process: requests of the engine, one JSON object each, with descriptors.

SOCK_SEQPACKET. A request has a number, {"n": number, …}; its answer, {"n": number, …}, says that it is done. Only our
own user may ask.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sampan.linux.loop import HANG_UP, READ, Loop
from sampan.supervisor import layout
from sampan.supervisor.kept.messages import receive
from sampan.supervisor.notes import note

MESSAGE_BYTES = 32768

Answer = Callable[[Mapping[str, Any]], None]
Handle = Callable[[Mapping[str, Any], Sequence[int], dict[str, int], Answer], None]
"""Do a request: its descriptors are the handler's. The dictionary is the connection's own: descriptors in it are closed
at its end. Answered once, now or later. Raises: ValueError, KeyError, TypeError for what is no request."""


class ControlServer:
    """Listens on `directory/name` until `close`."""

    def __init__(self, loop: Loop, directory: str, name: str, handle: Handle) -> None:
        self._loop, self._handle = loop, handle
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
        _Caller(self._loop, peer, self._handle)


class _Caller:
    """A connection of an engine."""

    def __init__(self, loop: Loop, peer: socket.socket, handle: Handle) -> None:
        self._loop, self._peer, self._handle = loop, peer, handle
        self._kept: dict[str, int] = {}
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
            self._handle(request, fds, self._kept, lambda said: self._answer({**said, "n": number}))
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            note(f"a request that is none: {error}")
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
        for fd in self._kept.values():
            os.close(fd)
        self._kept.clear()
