"""What the daemon keeps in memory for each container: its lock, and what the parts of the service note beside it.

All of it can be lost with the daemon. Each part owns its own notes, a dict by container id that it registers here so
that they are forgotten together with the record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class LiveContainers:
    """The locks of all containers, and the notes of the parts of the service."""

    def __init__(self) -> None:
        self._forget: list[Callable[[str], object]] = []
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def notes(self, notes: dict[str, T]) -> dict[str, T]:
        """Register the notes of one part, by container id, and return them: an entry goes with the record."""
        self._forget.append(lambda id: notes.pop(id, None))
        return notes

    def lock(self, id: str) -> asyncio.Lock:
        """Return the container's lock. Who changes its state holds it until that is saved.

        It is there as long as somebody holds it or waits for it, so none is left of a container that is no more.
        """
        found = self._locks.get(id)
        if found is None:
            found = self._locks[id] = asyncio.Lock()
        return found

    def forget(self, id: str) -> None:
        """Drop everything about a container whose record is deleted."""
        for forget in self._forget:
            forget(id)
