"""What a build says, as BuildKit's status stream: `Progress` in, StatusResponses out, all of them for every reader.

Calls come from the loop's thread or from workers. Responses are gathered for a moment, so that a noisy step costs few
messages. What steps say is bounded, each (solver/clipping.py) and all together (`LogLimit`), so every response is kept
while the build runs, and its history keeps the bytes as they were sent.

Source: the status stream of Docker Engine 28.5.2 as seen on the wire.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from sampan.engine.builder.buildkit.protos import control_pb2 as pb
from sampan.engine.builder.buildkit.protos.ops_pb2 import Position, Range, SourceInfo
from sampan.engine.builder.progress import BuildWarning, LogLimit, Step, StepStatus

GATHER_S = 0.01
LOG_BYTES = 1024 * 1024
"""Longest log message on the wire."""
WARNINGS, QUOTED_BYTES = 10_000, 64 * 1024 * 1024
"""So many findings, and so much of Dockerfiles with them, are told of one build."""


def digest_of(key: str) -> str:
    """Return a step's key as the digest that clients parse."""
    if key.startswith("sha256:") and len(key) == 71:
        return key
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def timestamp(ns: int) -> Timestamp:
    return Timestamp(seconds=ns // 10**9, nanos=ns % 10**9)


class StatusLog:
    """Implements `Progress`. `responses` are serialised StatusResponses in order."""

    def __init__(self) -> None:
        self.responses: list[bytes] = []
        self.closed = False
        self.steps: dict[str, Step] = {}
        self.warnings = 0
        self._limit = LogLimit()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._next = pb.StatusResponse()
        self._size = self._quoted = 0
        self._scheduled = False
        self._changed: set[asyncio.Future[None]] = set()

    # ── Progress ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, step: Step) -> None:
        vertex = pb.Vertex(
            digest=digest_of(step.key),
            inputs=[digest_of(key) for key in step.inputs],
            name=step.name,
            cached=step.cached,
            error=step.error,
            started=timestamp(step.started_ns) if step.started_ns else None,
            completed=timestamp(step.completed_ns) if step.completed_ns else None,
        )
        self._say(step, vertex)

    def status(self, status: StepStatus) -> None:
        self._say(
            status,
            pb.VertexStatus(
                ID=status.id,
                vertex=digest_of(status.key),
                name=status.id,
                current=status.current,
                total=status.total,
                timestamp=timestamp(time.time_ns()),
                started=timestamp(status.started_ns) if status.started_ns else None,
                completed=timestamp(status.completed_ns) if status.completed_ns else None,
            ),
        )

    def log(self, key: str, stream: int, data: bytes) -> None:
        data = self._limit.passed(data)
        now, vertex = timestamp(time.time_ns()), digest_of(key)
        for at in range(0, len(data), LOG_BYTES):
            self._say(data, pb.VertexLog(vertex=vertex, timestamp=now, stream=stream, msg=data[at : at + LOG_BYTES]))

    def warning(self, warning: BuildWarning) -> None:
        self._quoted += len(warning.source)
        if self._quoted > QUOTED_BYTES:  # each brings the whole Dockerfile
            warning = replace(warning, source=b"")
        if self.warnings < WARNINGS:
            self._say(warning, warning_message(warning))

    async def room(self) -> None:
        return None  # what steps say is clipped

    # ── readers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def follow(self) -> AsyncIterator[bytes]:
        """Yield every response from the first one on, until the log is closed."""
        at = 0
        while True:
            while at < len(self.responses):
                at += 1
                yield self.responses[at - 1]
            if self.closed:
                return
            changed = self._loop.create_future()
            self._changed.add(changed)
            try:
                await changed
            finally:
                self._changed.discard(changed)

    def close(self) -> None:
        self._flush()
        self.closed = True
        self._wake()

    def counts(self) -> tuple[int, int, int]:
        """Return (cached, completed, all) steps."""
        steps = self.steps.values()
        done = [step for step in steps if step.completed_ns]
        return sum(1 for step in done if step.cached), len(done), len(steps)

    def _say(self, what: Any, message: Any) -> None:
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self._put, what, message)
        else:
            self._put(what, message)

    def _put(self, what: Any, message: Any) -> None:
        if self.closed:
            return
        if isinstance(message, pb.Vertex):
            self.steps[message.digest] = what
            self._next.vertexes.append(message)
        elif isinstance(message, pb.VertexStatus):
            self._next.statuses.append(message)
        elif isinstance(message, pb.VertexLog):
            self._next.logs.append(message)
            self._size += len(message.msg)
        else:
            self.warnings += 1
            self._next.warnings.append(message)
        if self._size > LOG_BYTES:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_later(GATHER_S, self._flush)

    def _flush(self) -> None:
        self._scheduled, self._size = False, 0
        if self.closed or not self._next.ByteSize():
            return
        self.responses.append(self._next.SerializeToString())
        self._next = pb.StatusResponse()
        self._wake()

    def _wake(self) -> None:
        for changed in self._changed:
            if not changed.done():
                changed.set_result(None)
        self._changed.clear()


def warning_message(warning: BuildWarning) -> pb.VertexWarning:
    """Return a finding as clients print it: the rule and where it applies."""
    return pb.VertexWarning(
        vertex=digest_of(warning.key),
        level=1,
        short=warning_line(warning).encode(),
        detail=[warning.description.encode()] if warning.description else [],
        url=warning.url,
        info=SourceInfo(filename=warning.filename, data=warning.source, language="Dockerfile")
        if warning.source
        else None,
        ranges=[Range(start=Position(line=first), end=Position(line=last)) for first, last in warning.ranges],
    )


def warning_line(warning: BuildWarning) -> str:
    """Return `Rule: message (line n)`."""
    text = f"{warning.rule}: {warning.message}" if warning.rule else warning.message
    return f"{text} (line {warning.ranges[0][0]})" if warning.ranges else text
