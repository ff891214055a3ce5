"""Restarts that a policy wants, each after its delay. What is due is decided by restart.py, done by lifecycle.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sampan.engine.background import Background
from sampan.engine.containers import restart
from sampan.engine.containers.live import LiveContainers

Due = Callable[[str], Coroutine[Any, Any, None]]


class BackOff:
    """The delays and timers of all containers that are to be restarted."""

    def __init__(self, live: LiveContainers, background: Background) -> None:
        self._background = background
        self._delays_s: dict[str, float] = live.notes({})
        self._timers: dict[str, asyncio.TimerHandle] = live.notes({})

    def begin_anew(self, id: str) -> None:
        """Forget earlier delays: the next restart is the first."""
        self._delays_s.pop(id, None)

    def lengthen(self, id: str, ran_s: float) -> None:
        """Set the delay before the next start after a run of `ran_s`."""
        self._delays_s[id] = restart.next_delay_s(self._delays_s.get(id, 0.0), ran_s)

    def schedule(self, id: str, due: Due) -> None:
        """Call `due(id)` once the delay is over."""

        def ring() -> None:
            self._timers.pop(id, None)
            self._background.spawn(due(id), f"restart of {id[:12]}")

        delay_s = self._delays_s.setdefault(id, restart.FIRST_DELAY_S)
        self._timers[id] = asyncio.get_running_loop().call_later(delay_s, ring)

    def cancel(self, id: str) -> None:
        """Call the pending restart off."""
        if (timer := self._timers.pop(id, None)) is not None:
            timer.cancel()
