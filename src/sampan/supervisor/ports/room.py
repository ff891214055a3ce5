"""Room for what all ports have together: who finds none is called when there is some again."""

from __future__ import annotations

from collections.abc import Callable


class Room:
    """Counts up to `most`."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._waiting: list[Callable[[], None]] = []

    def enter(self, later: Callable[[], None]) -> bool:
        """Take a place; without one `later` is called when one is free, once."""
        if self.used >= self.most:
            if later not in self._waiting:
                self._waiting.append(later)
            return False
        self.used += 1
        return True

    def leave(self) -> None:
        """Give a place back."""
        self.used -= 1
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def forget(self, later: Callable[[], None]) -> None:
        """Do not call somebody any more."""
        if later in self._waiting:
            self._waiting.remove(later)
