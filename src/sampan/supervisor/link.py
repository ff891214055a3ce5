"""The supervisor's end of one shim's control connection (see wire.py): calls with answers, events, and the news of its
end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sampan.errors import Unavailable
from sampan.supervisor import layout, wire

OnReport = Callable[[wire.TaskReport], None]
OnEvent = Callable[[wire.Event], None]


class ShimLost(Unavailable):
    """The shim ended before it answered."""


class ShimLink(asyncio.Protocol):
    def __init__(
        self,
        peer: socket.socket,
        on_report: OnReport,
        on_event: OnEvent,
        on_lost: Callable[[], None],
    ) -> None:
        self.bind(on_report, on_event, on_lost)
        self._peer = peer  # the transport's, which passes on no descriptors
        self._unframer = wire.Unframer()
        self._transport: asyncio.WriteTransport | None = None
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._seq = 0
        self.hello: asyncio.Future[wire.TaskReport | None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls,
        peer: socket.socket,
        *,
        on_report: OnReport,
        on_event: OnEvent,
        on_lost: Callable[[], None],
    ) -> ShimLink:
        """Take over `peer`. Reports and events are handed on in the order of their arrival, before the caller of a call
        wakes up.

        `on_lost` is called once, when the shim has closed or died.
        """
        peer.setblocking(False)
        _, link = await asyncio.get_running_loop().create_connection(
            lambda: cls(peer, on_report, on_event, on_lost), sock=peer
        )
        return link

    def bind(self, on_report: OnReport, on_event: OnEvent, on_lost: Callable[[], None]) -> None:
        """Say who listens from now on."""
        self._on_report = on_report
        self._on_event = on_event
        self._on_lost = on_lost

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    # ── questions: each raises what the shim raised, or ShimLost ─────────────────────────────────────────────────────

    async def create(self, request: wire.TaskCreateRequest, fds: Sequence[int]) -> None:
        """fds: go with the question, and are sent at the first `await` inside; it must be the first question."""
        await self._ask("create", request, fds)

    async def start(self) -> None:
        await self._ask("start")

    async def delete(self) -> wire.DeleteAnswer:
        answer: wire.DeleteAnswer = await self._ask("delete")
        return answer

    async def exec(self, request: wire.ExecRequest) -> wire.PidAnswer:
        answer: wire.PidAnswer = await self._ask("exec", request)
        return answer

    async def exec_start(self, request: wire.ExecStartRequest) -> wire.PidAnswer:
        answer: wire.PidAnswer = await self._ask("exec_start", request)
        return answer

    async def kill(self, request: wire.KillRequest) -> None:
        await self._ask("kill", request)

    async def pause(self) -> None:
        await self._ask("pause")

    async def resume(self) -> None:
        await self._ask("resume")

    async def update(self, request: wire.UpdateRequest) -> None:
        await self._ask("update", request)

    async def resize(self, request: wire.ResizeRequest) -> None:
        await self._ask("resize", request)

    async def stats(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self._ask("stats")
        return answer

    async def pids(self) -> list[int]:
        answer: list[int] = await self._ask("pids")
        return answer

    async def report(self) -> wire.TaskReport:
        answer: wire.TaskReport = await self._ask("report")
        return answer

    async def _ask(self, op: str, request: Mapping[str, Any] | None = None, fds: Sequence[int] = ()) -> Any:
        if self._transport is None:
            raise ShimLost(f"{op}: the shim is gone")
        self._seq += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[self._seq] = answer
        data = wire.frame({**(request or {}), "seq": self._seq, "op": op})
        self._transport.write(data[self._send_rights(data, fds) :] if fds else data)
        return await answer

    def _send_rights(self, data: bytes, fds: Sequence[int]) -> int:
        """Send descriptors past the transport, whose queue is still empty; return how many bytes went with them."""
        assert self._transport is not None and self._transport.get_write_buffer_size() == 0
        try:
            return wire.send(self._peer, data, fds)
        except (BrokenPipeError, ConnectionResetError) as e:
            raise ShimLost("the shim has ended") from e

    @property
    def shim_pid(self) -> int:
        """The pid of whoever made the shim's end, by the kernel's word."""
        return layout.peer_pid(self._peer)

    def told(self, exec_id: str) -> None:
        """Tell the shim that the end of an exec'd process is known here; it need not remember it any longer."""
        if self._transport:
            self._transport.write(wire.frame({"seq": -1, "op": "told", "exec_id": exec_id}))

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._unframer.feed(data):
            if "report" in message:
                self._on_report(message["report"])
            if "event" in message:
                self._on_event(message["event"])
            elif "hello" in message:
                if not self.hello.done():
                    self.hello.set_result(message.get("report"))
            else:
                answer = self._calls.pop(message["seq"], None)
                if answer is None or answer.done():
                    continue
                if "error" in message:
                    answer.set_exception(wire.error_from_wire(message["error"]))
                else:
                    answer.set_result(message["ok"])

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for answer in (*self._calls.values(), self.hello):
            if not answer.done():
                answer.set_exception(ShimLost("the shim has ended"))
                answer.exception()  # somebody may have stopped waiting
        self._calls.clear()
        self._on_lost()
