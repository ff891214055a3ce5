"""Progress as data: what `POST /build?version=2` streams, for clients that draw steps themselves.

Each message is `{"id": "sampan.build.trace", "aux": {"step" | "status" | "log" | "warning": {…}}}`; the result comes as
`{"id": "moby.image.id", "aux": {"ID": …}}`. Times are ns since the epoch, 0 for not yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sampan.engine.builder.classic.output import Message
from sampan.engine.builder.progress import Status, Step, Warning_

TRACE, IMAGE, FAILED = "sampan.build.trace", "moby.image.id", "sampan.build.failed"


class Trace:
    """A `Progress` that sends messages."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send

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
        self._tell("step", found)

    def status(self, status: Status) -> None:
        self._tell("status", asdict(status))

    def log(self, key: str, stream: int, data: bytes) -> None:
        self._tell("log", {"key": key, "stream": stream, "text": data.decode(errors="replace")})

    def warning(self, warning: Warning_) -> None:
        self._tell("warning", {**asdict(warning), "source": warning.source.decode(errors="replace")})

    def image(self, image_id: str) -> None:
        self._send({"id": IMAGE, "aux": {"ID": image_id}})

    def failed(self, image_id: str) -> None:
        """A failed step's file system was kept, as an image that can be entered."""
        self._send({"id": FAILED, "aux": {"ID": image_id}})

    def _tell(self, kind: str, value: dict[str, Any]) -> None:
        self._send({"id": TRACE, "aux": {kind: value}})
