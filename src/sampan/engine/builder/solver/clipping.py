"""How much a RUN step may say: what BuildKit lets through of each of its two streams, and no more.

So a build's log is bounded while it runs, for who joins late, and in its history. The command is not slowed down, and
what a failure shows of the end of its output is not clipped (run.py, Tail). The classic builder's steps are not
clipped, as in Docker: there the command waits for a client that reads slowly.

Source: BuildKit's BUILDKIT_STEP_LOG_MAX_SIZE and _SPEED; limits and words as observed on Docker Engine 28.5.2.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

STREAM_BYTES = 2 * 1024 * 1024
STREAM_BYTES_PER_S = 200 * 1024
_SIZE, _SPEED = "2MiB", "200KiB/s"

Output = Callable[[int, bytes], None]


class Clipped:
    """Passes output on up to the limits; says once for each gap that something is missing."""

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._began = clock()
        self._said: dict[int, int] = {}
        self._clipping: set[int] = set()

    def __call__(self, stream: int, data: bytes) -> None:
        before = self._said.get(stream, 0)
        self._said[stream] = before + len(data)
        by_speed = math.ceil(self._clock() - self._began) * STREAM_BYTES_PER_S
        limit = min(by_speed, STREAM_BYTES)
        passed = data[: max(0, limit - before)]
        if len(passed) == len(data):
            self._clipping.discard(stream)
        elif stream not in self._clipping:
            self._clipping.add(stream)
            reached = _SPEED if by_speed <= STREAM_BYTES else _SIZE
            passed += f"\n[output clipped, log limit {reached} reached]\n".encode()
        if passed:
            self._output(stream, passed)
