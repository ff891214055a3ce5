"""Messages on their way to one client, bounded: whoever makes many waits until the client has read.

Where nobody can wait (progress as data, of steps that several builds share) what is too much is left out, and said.
"""

from __future__ import annotations

import asyncio
from collections import deque

from sampan.engine.builder.classic.output import Message

ROOM_BYTES = 1024 * 1024
"""With more than this in it, `room` waits."""
_SMALL_BYTES = 200  # a message without its text


class Outbox:
    """One client's messages. On the loop's thread."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def send(self, message: Message) -> None:
        self._messages.append(message)
        self._bytes += _size(message)
        if self._bytes > ROOM_BYTES:
            self._room.clear()
        self._changed.set()

    async def room(self) -> None:
        """Wait until the client has read most of what was said."""
        await self._room.wait()

    def close(self) -> None:
        """No more messages come."""
        self._closed = True
        self._changed.set()

    async def get(self) -> Message | None:
        """Return the next message, None after the last."""
        while not self._messages:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        message = self._messages.popleft()
        self._bytes -= _size(message)
        if self._bytes <= ROOM_BYTES:
            self._room.set()
        return message


def _size(message: Message) -> int:
    """About what a message takes: its text."""
    return _SMALL_BYTES + len(message.get("stream") or ())
