"""Waiting for the end of a container's process, or of the container: `docker wait`, `stop`, `logs -f`.

A waiter is a future, registered at once: what happens right after the call is not missed. Who records an end wakes them
before it lets go of the container's lock.

Source: Engine API 1.51, ContainerWait.
"""

from __future__ import annotations

import asyncio

from sampan.engine.containers.table import ContainerTable
from sampan.errors import InvalidArgument
from sampan.spec import go_values

CONDITIONS = ("", "not-running", "next-exit", "removed")

ExitResult = tuple[int, str]  # exit status, error text
Futures = dict[str, list[asyncio.Future[ExitResult]]]


class ExitWaiters:
    """Who waits for which container."""

    def __init__(self, table: ContainerTable) -> None:
        self._table = table
        self._for_exit: Futures = {}
        self._for_removal: Futures = {}

    def wait(self, ref: str, condition: str = "") -> asyncio.Future[ExitResult]:
        """Return a future of the exit status. condition: one of CONDITIONS.

        Raises: InvalidArgument, NotFound.
        """
        if condition not in CONDITIONS:
            raise InvalidArgument(f"invalid condition: {go_values.quote(condition)}")
        c = self._table.get(ref)
        if condition == "removed":
            return _register(self._for_removal, c.id)
        if condition == "next-exit" or c.active:
            return self.next_exit(c.id)
        future: asyncio.Future[ExitResult] = asyncio.get_running_loop().create_future()
        future.set_result((c.status.exit_status, ""))
        return future

    def next_exit(self, id: str) -> asyncio.Future[ExitResult]:
        """Return a future of the next exit, whatever the state is now."""
        return _register(self._for_exit, id)

    async def end(self, id: str) -> None:
        """Return when the container does not run and no restart is pending, or when it is removed."""
        while (now := self._table.find(id)) is not None and now.active:
            await self.next_exit(id)

    def exited(self, id: str, result: ExitResult) -> None:
        """Wake those who wait for an exit."""
        _wake(self._for_exit, id, result)

    def removed(self, id: str, result: ExitResult) -> None:
        """Wake those who wait for the end of the container itself, and with them all others."""
        _wake(self._for_exit, id, result)
        _wake(self._for_removal, id, result)


def _register(waiters: Futures, id: str) -> asyncio.Future[ExitResult]:
    """Add a waiter that leaves the list again when it is done or cancelled."""
    future: asyncio.Future[ExitResult] = asyncio.get_running_loop().create_future()
    waiters.setdefault(id, []).append(future)

    def leave(done: asyncio.Future[ExitResult]) -> None:
        others = waiters.get(id)
        if others is not None and done in others:
            others.remove(done)
            if not others:
                del waiters[id]

    future.add_done_callback(leave)
    return future


def _wake(waiters: Futures, id: str, result: ExitResult) -> None:
    for future in waiters.pop(id, ()):
        if not future.done():
            future.set_result(result)
