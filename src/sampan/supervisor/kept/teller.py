"""How the engine asks a kept process: one connection, requests with descriptors, answers by number.

The process is started when it is not there (`supply` says how); whoever asks decides what it means when nobody answers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from sampan.supervisor import layout
from sampan.supervisor.kept.processes import KeptProcess

_MESSAGE_BYTES = 65536


class Teller:
    """The connection to one process of an exec root. answer_s: how long an answer may take."""

    def __init__(self, exec_root: str, process: KeptProcess, answer_s: float) -> None:
        self._process, self._answer_s = process, answer_s
        self._directory = f"{exec_root}/{process.directory}"
        self._start: Callable[[], Awaitable[None]] | None = None
        self._peer: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._connecting = asyncio.Lock()

    def supply(self, start: Callable[[], Awaitable[None]]) -> None:
        """Say how the process is started; `start` returns when it serves."""
        self._start = start

    def close(self) -> None:
        """Close the connection; the process goes on."""
        self._lost()

    async def tell(
        self, request: Mapping[str, Any], descriptors: Sequence[int] = (), *, start: bool = True
    ) -> dict[str, Any]:
        """Ask, and return the answer. start: start the process when it is not there.

        Raises: OSError, SampanError when there is no answer.
        """
        peer = await self._connected(start=start)
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._answer_s):
                socket.send_fds(peer, [json.dumps({**request, "n": number}).encode()], descriptors)
                said: dict[str, Any] = await answer
                return said
        finally:
            self._waiting.pop(number, None)

    async def _connected(self, *, start: bool) -> socket.socket:
        async with self._connecting:
            if self._peer is None:
                peer = await self._connect(start=start)
                asyncio.get_running_loop().add_reader(peer, self._readable)
                self._peer = peer
            return self._peer

    async def _connect(self, *, start: bool) -> socket.socket:
        try:
            return layout.connect(self._directory, self._process.socket, socket.SOCK_SEQPACKET)
        except (FileNotFoundError, ConnectionRefusedError):
            if self._start is None or not start:
                raise
        await self._start()
        return layout.connect(self._directory, self._process.socket, socket.SOCK_SEQPACKET)

    def _readable(self) -> None:
        assert self._peer is not None
        try:
            message = self._peer.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._lost()
            return
        said = json.loads(message)
        answer = self._waiting.get(said["n"])
        if answer is not None and not answer.done():
            answer.set_result(said)

    def _lost(self) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            asyncio.get_running_loop().remove_reader(peer)
            peer.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError(f"{self._process.what} has ended"))
