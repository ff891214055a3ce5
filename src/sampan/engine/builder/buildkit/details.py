"""BuildKit's typed details of an error: which lines of which file, which step. Pure.

Source: BuildKit's solver/errdefs, as seen on the wire: JSON values under `github.com/moby/buildkit/errdefs.Source+json` etc.
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

from sampan.engine.builder.buildkit.protos.rpc_pb2 import Status

_PREFIX = "github.com/moby/buildkit/"


class Detail(NamedTuple):
    type_url: str
    value: bytes


class Failed(Exception):
    """An error with its status already made: what a client sends back with Return, and what Solve then answers."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


def details_of(error: BaseException) -> list[Detail]:
    """What is known of where an error belongs.

    Read from attributes: `lines` ((first, last), …), `source` and `filename` of the Dockerfile; `vertex` and `exit_status`
    of a step.
    """
    found: list[Detail] = []
    ranges: tuple[tuple[int, int], ...] = getattr(error, "lines", ())
    source: bytes = getattr(error, "source", b"") or b""
    if ranges and source:
        info = {
            "filename": getattr(error, "filename", "") or "Dockerfile",
            "data": base64.b64encode(source).decode(),
            "language": "Dockerfile",
        }
        where = [{"start": {"line": first}, "end": {"line": last}} for first, last in ranges]
        found.append(_detail("errdefs.Source", {"info": info, "ranges": where}))
    vertex = getattr(error, "vertex", None)
    if vertex is not None:
        found.append(_detail("errdefs.Vertex", {"digest": vertex if isinstance(vertex, str) else vertex.digest}))
    status = getattr(error, "exit_status", None)
    if isinstance(status, int) and status > 0:
        found.append(_detail("gatewayapi.ExitMessage", {"Code": status}))
    return found


def _detail(name: str, value: dict[str, Any]) -> Detail:
    return Detail(f"{_PREFIX}{name}+json", json.dumps(value, separators=(",", ":")).encode())
