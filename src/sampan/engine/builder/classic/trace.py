"""Progress as data: what `POST /build?version=2` streams, for clients that draw steps themselves.

Each message is `{"id": "sampan.build.trace", "aux": {"step" | "status" | "log" | "warning": {…}}}`. At the end comes
what the exporters said (RESULT) and `{"id": "moby.image.id", "aux": {"ID": …}}`, or before the error where it belongs
(FAILED); a question about the Dockerfile brings nothing but its ANSWER. Times are ns since the epoch, 0 for not yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sampan.engine.builder.classic.output import Message
from sampan.engine.builder.failures import BuildFailure, StepFailed
from sampan.engine.builder.ops import RunOp
from sampan.engine.builder.progress import BuildWarning, LogLimit, Step, StepStatus
from sampan.engine.builder.request import Built
from sampan.errors import SampanError

TRACE, IMAGE, FAILED = "sampan.build.trace", "moby.image.id", "sampan.build.failed"
RESULT, ANSWER = "sampan.build.result", "sampan.build.answer"


class Trace:
    """A `Progress` that sends messages."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._limit = LogLimit()

    def step(self, step: Step) -> None:
        found: dict[str, Any] = {
            "key": step.key,
            "name": step.name,
            "inputs": list(step.inputs),
            "started": step.started_ns,
            "completed": step.completed_ns,
            "cached": step.cached,
            "error": step.error,
        }
        if isinstance(step.vertex, RunOp):
            found["cache_mounts"] = [m.id or m.target for m in step.vertex.mounts if m.kind == "cache"]
        self._tell("step", found)

    def status(self, status: StepStatus) -> None:
        self._tell("status", asdict(status))

    def log(self, key: str, stream: int, data: bytes) -> None:
        data = self._limit.passed(data)
        if not data:
            return
        self._tell("log", {"key": key, "stream": stream, "text": data.decode(errors="replace")})

    def warning(self, warning: BuildWarning) -> None:
        self._tell("warning", {**asdict(warning), "source": warning.source.decode(errors="replace")})

    async def room(self) -> None:
        return None

    def answer(self, metadata: Mapping[str, bytes]) -> None:
        """Send what a question about the Dockerfile gave: `result.json`, `result.txt`, …"""
        self._send({"id": ANSWER, "aux": {key: value.decode() for key, value in metadata.items()}})

    def result(self, built: Built) -> None:
        """Send what the exporters said, and the image if there is one: the end."""
        self._send({"id": RESULT, "aux": dict(built.response)})
        if built.image_id:
            self._send({"id": IMAGE, "aux": {"ID": built.image_id}})

    def failed(self, error: SampanError) -> None:
        """Send where the build failed. ID: an image of the failed step's file system, when that was kept."""
        failure = error if isinstance(error, BuildFailure) else BuildFailure(error)
        found: dict[str, Any] = {
            "ID": failure.cause.image_id if isinstance(failure.cause, StepFailed) else "",
            "key": failure.vertex.digest if failure.vertex is not None else "",
            "filename": failure.filename,
            "lines": failure.lines,
            "source": (failure.source or b"").decode(errors="replace"),
        }
        self._send({"id": FAILED, "aux": found})

    def _tell(self, kind: str, value: dict[str, Any]) -> None:
        self._send({"id": TRACE, "aux": {kind: value}})
