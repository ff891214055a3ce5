"""Progress messages of pull and push, in Docker's shapes, on their way to one client.

Bounded however slow the client is: of one layer's moving bar only the latest position waits, every other message stays.
Not here: who makes progress. Source: moby 28.5 as observed on the reference.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from sampan.engine.background import beside
from sampan.engine.images import archive

Message = Mapping[str, Any]
INTERVAL_S = 0.1  # between two positions of one bar


def retry_words(seconds: int) -> str:
    """What a layer says while it waits before its next attempt."""
    return f"Retrying in {seconds} second{'s' if seconds != 1 else ''}"


class Report:
    """The messages of one operation, in order. One writer side, one reader, one loop."""

    def __init__(self) -> None:
        self._waiting: list[Message] = []
        self._bars: dict[str, int] = {}  # id → index of its bar that still waits
        self._news = asyncio.Event()

    def say(self, message: Message) -> None:
        self._waiting.append(message)
        self._news.set()

    def line(self, id: str, status: str) -> None:
        """A layer's new state."""
        self._bars.pop(id, None)
        self.say({"status": status, "progressDetail": {}, "id": id})

    def bar(self, id: str, status: str, current: int, total: int) -> None:
        """A layer's position in bytes; takes the place of one that still waits."""
        message = {
            "status": status,
            "progressDetail": {"current": current, "total": total},
            "progress": archive.progress_bar(current, total),
            "id": id,
        }
        at = self._bars.get(id)
        if at is not None and self._waiting[at]["status"] == status:
            self._waiting[at] = message
            return
        self._bars[id] = len(self._waiting)
        self.say(message)

    async def during(self, work: Coroutine[Any, Any, None]) -> AsyncIterator[Message]:
        """Run `work` and yield what is said meanwhile; raises what it raises, after the last message."""
        async with beside(work, "transfer of an image", quiet=True) as task:
            task.add_done_callback(lambda _: self._news.set())
            while True:
                await self._news.wait()
                self._news.clear()
                messages, self._waiting = self._waiting, []
                self._bars.clear()
                for message in messages:
                    yield message
                if task.done() and not self._waiting:
                    break
            await task
