"""What a build says while it runs. The doors turn it into Docker's lines or BuildKit's status stream.

Calls never block and never fail. What a step of BuildKit's says is clipped (solver/clipping.py); a step of the classic
builder waits for `room`. Times are ns since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sampan.engine.builder.ops import Vertex

BUILD_LOG_BYTES = 64 * 1024 * 1024
CLIPPED = b"\n[output clipped, log limit 64MiB of a build reached]\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The state of a vertex: not begun (started 0), running, ended (completed), perhaps by `error`.

    key: `Vertex.digest`, or any digest-like text for internal steps. result: the chain id that it gave, if it is a
    State.
    """

    key: str
    name: str
    inputs: tuple[str, ...] = ()
    started_ns: int = 0
    completed_ns: int = 0
    cached: bool = False
    error: str = ""
    vertex: Vertex | None = None
    result: str = ""

    @classmethod
    def of(
        cls,
        vertex: Vertex,
        *,
        started_ns: int = 0,
        completed_ns: int = 0,
        cached: bool = False,
        error: str = "",
        result: str = "",
    ) -> Step:
        """Return the state of a vertex under its own name."""
        return cls(
            key=vertex.digest,
            name=vertex.label.name or type(vertex).__name__,
            inputs=tuple(needed.digest for needed in vertex.inputs),
            started_ns=started_ns,
            completed_ns=completed_ns,
            cached=cached,
            error=error,
            vertex=vertex,
            result=result,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatus:
    """A part of a step that has a progress of its own: a layer's download, an export. total 0: unknown."""

    key: str
    id: str
    current: int = 0
    total: int = 0
    started_ns: int = 0
    completed_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildWarning:
    """A finding of the build checks, or a deprecation. ranges: 1-based lines."""

    key: str
    rule: str
    message: str
    description: str = ""
    url: str = ""
    ranges: tuple[tuple[int, int], ...] = ()
    filename: str = ""
    source: bytes = b""


class Progress(Protocol):
    def step(self, step: Step) -> None: ...

    def status(self, status: StepStatus) -> None: ...

    def log(self, key: str, stream: int, data: bytes) -> None:
        """Output of a step: stream 1 or 2."""

    def warning(self, warning: BuildWarning) -> None: ...

    async def room(self) -> None:
        """Wait until more output may come. Called by the steps of the classic builder, which no build shares."""


class LogLimit:
    """Bounds what all steps of one build say together, where it is kept for who reads it later."""

    def __init__(self, limit_bytes: int = BUILD_LOG_BYTES) -> None:
        self._left = limit_bytes

    def passed(self, data: bytes) -> bytes:
        """Return what of an output is kept; the last of it says that more was said."""
        if self._left <= 0:
            return b""
        kept = data[: self._left]
        self._left -= len(data)
        return kept if self._left > 0 else kept + CLIPPED


class Quiet:
    """Progress that nobody watches."""

    def step(self, step: Step) -> None:
        return None

    def status(self, status: StepStatus) -> None:
        return None

    def log(self, key: str, stream: int, data: bytes) -> None:
        return None

    def warning(self, warning: BuildWarning) -> None:
        return None

    async def room(self) -> None:
        return None
