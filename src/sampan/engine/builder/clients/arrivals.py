"""Waiting for what a client is about to announce on another connection: a session, a build."""

from __future__ import annotations

import asyncio


class Arrivals:
    """Who waits for which key."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    async def wait(self, key: str, timeout_s: float) -> None:
        """Return when the key is announced, or when time is up."""
        future = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(future)
        try:
            await asyncio.wait([future], timeout=timeout_s)
        finally:
            waiting.discard(future)
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]

    def announce(self, key: str) -> None:
        for future in self._waiting.pop(key, ()):
            if not future.done():
                future.set_result(None)
