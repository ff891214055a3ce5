"""BuildKit's typed details of an error: which lines of which file, which step. Pure.

Source: BuildKit's solver/errdefs, as seen on the wire: JSON values under `github.com/moby/buildkit/errdefs.Source+json`
and its like.
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

from sampan.engine.builder.buildkit.protos.rpc_pb2 import Status
from sampan.engine.builder.failures import BuildFailure, StepFailed, cause_of
from sampan.errors import NotImplemented_

_PREFIX = "github.com/moby/buildkit/"


class Detail(NamedTuple):
    type_url: str
    value: bytes


class UnknownQuestion(NotImplemented_):
    """A question about a Dockerfile that nobody here answers."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unsupported request {name}")
        self.name = name


class ClientFailure(Exception):
    """An error with its status already made: what a client sends back with Return, and what Solve then answers."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


def details_of(error: BaseException) -> list[Detail]:
    """Return what is known of where an error belongs: lines of a Dockerfile, a step, a command's exit status."""
    failure = error if isinstance(error, BuildFailure) else None
    found: list[Detail] = []
    if failure is not None and failure.lines and failure.source:
        info = {
            "filename": failure.filename or "Dockerfile",
            "data": base64.b64encode(failure.source).decode(),
            "language": "Dockerfile",
        }
        where = [{"start": {"line": first}, "end": {"line": last}} for first, last in failure.lines]
        found.append(_detail("errdefs.Source", {"info": info, "ranges": where}))
    if failure is not None and failure.vertex is not None:
        found.append(_detail("errdefs.Vertex", {"digest": failure.vertex.digest}))
    cause = cause_of(error)
    if isinstance(cause, StepFailed) and cause.exit_status > 0:
        found.append(_detail("gatewayapi.ExitMessage", {"Code": cause.exit_status}))
    if isinstance(cause, UnknownQuestion):
        found.append(_detail("errdefs.Subrequest", {"name": cause.name}))
    return found


def _detail(name: str, value: dict[str, Any]) -> Detail:
    return Detail(f"{_PREFIX}{name}+json", json.dumps(value, separators=(",", ":")).encode())
