"""Steps of a build that are no vertices: reading the Dockerfile, looking at images, exporting.

Shown as BuildKit shows them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sampan.engine.builder.progress import Progress, Step, StepStatus
from sampan.errors import SampanError


@dataclass(frozen=True, slots=True)
class Shown:
    """A step under way; `part` shows something inside it that has a progress of its own."""

    progress: Progress
    key: str

    def part(self, id: str, current: int = 0, total: int = 0, *, started_ns: int, done: bool) -> None:
        ended = time.time_ns() if done else 0
        self.progress.status(
            StepStatus(key=self.key, id=id, current=current, total=total, started_ns=started_ns, completed_ns=ended)
        )

    @contextmanager
    def doing(self, id: str) -> Iterator[None]:
        """A part from its begin to its end."""
        begun = time.time_ns()
        self.part(id, started_ns=begun, done=False)
        yield
        self.part(id, started_ns=begun, done=True)

    def transfer(self, what: str) -> Callable[[int, bool], None]:
        """Return a report of bytes that arrived (and whether that is all), for `session.local`."""
        begun = time.time_ns()

        def report(count: int, done: bool) -> None:
            self.part(f"transferring {what}:", count, started_ns=begun, done=done)

        return report


@contextmanager
def shown(progress: Progress, build: str, name: str) -> Iterator[Shown]:
    """Show a step while the block runs; what it raises is the step's error."""
    key = "sha256:" + hashlib.sha256(f"{build} {name}".encode()).hexdigest()
    begun = time.time_ns()
    progress.step(Step(key=key, name=name))
    progress.step(Step(key=key, name=name, started_ns=begun))
    error = ""
    try:
        yield Shown(progress, key)
    except BaseException as e:
        error = e.message if isinstance(e, SampanError) else str(e) or "context canceled"
        raise
    finally:
        progress.step(Step(key=key, name=name, started_ns=begun, completed_ns=time.time_ns(), error=error))
