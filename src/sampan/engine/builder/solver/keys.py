"""Cache keys: what a step's result depends on, and nothing else. Pure.

    key = sha256(the operation, with each input replaced by what it *is*: a state's chain id, a tree's checksum)

So equal content hits, whatever made it: another Dockerfile, another base with the same layers, a file with another
time. The whole operation is in it, its platform too, never an image's history (CVE-2024-24557). Not in it: what is
display only, limits, proxies, and what secrets and agents hold.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from sampan.engine.builder.ops import Copy, FileOp, RunOp, Vertex
from sampan.engine.builder.state import Solved

VERSION = 1  # of everything that decides what a step gives: a change makes all records useless

Checksum = Callable[[Copy], str]


def of_run(op: RunOp, solved: Mapping[Vertex, Solved], digests: Mapping[Vertex, str]) -> str:
    """Return the key of a RUN step. digests: of the trees that it mounts."""

    def identity(vertex: Vertex) -> str:
        found = solved[vertex]
        return found.state.chain_id if found.state is not None else digests[vertex]

    return _key(_plain(op, identity))


def of_files(op: FileOp, solved: Mapping[Vertex, Solved], checksum: Checksum) -> str:
    """Return the key of file actions. checksum: of what a copy takes; the patterns that name it do not matter then."""
    found = solved[op.base]
    base = "" if op.link or found.state is None else found.state.chain_id
    actions = []
    for action in op.actions:
        if isinstance(action, Copy):
            fields = _fields(action, lambda _: "", but={"source", "patterns", "exclude", "required", "contents_only"})
            actions.append(["Copy", checksum(action), fields])
        else:
            actions.append([type(action).__name__, _fields(action, lambda _: "", but=set())])
    return _key(["FileOp", base, op.link, op.epoch_s, actions])


def _key(value: Any) -> str:
    text = json.dumps([VERSION, value], sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _fields(value: Any, identity: Callable[[Vertex], str], but: set[str]) -> dict[str, Any]:
    return {
        f.name: _plain(getattr(value, f.name), identity)
        for f in dataclasses.fields(value)
        if not f.metadata.get("display") and f.name not in but
    }


def _plain(value: Any, identity: Callable[[Vertex], str], *, inner: bool = False) -> Any:
    """JSON of a value; a vertex inside is what it came to."""
    if isinstance(value, Vertex) and inner:
        return identity(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = {
            f.name: _plain(getattr(value, f.name), identity, inner=True)
            for f in dataclasses.fields(value)
            if not f.metadata.get("display")
        }
        return {"": type(value).__name__, **inside}
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, list | tuple):
        return [_plain(item, identity, inner=True) for item in value]
    return value
