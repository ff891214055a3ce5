"""Cache keys: what a step's result depends on, and nothing else. Pure.

    key = sha256(the operation, with each input replaced by what it *is*: a state's chain id, a tree's checksum)

So equal content hits, whatever made it: another Dockerfile, another base with the same layers, a file with another
time. Which fields of the operation are in it is one table, inputs.py. Never an image's history (CVE-2024-24557).
A RUN of one builder is never a RUN of the other: their steps have other environments, files in /etc and networks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from sampan.engine.builder.ops import Copy, FileOp, RunOp, Vertex
from sampan.engine.builder.solver.inputs import is_in_key
from sampan.engine.builder.state import Solved

VERSION = 2  # of everything that decides what a step gives: a change makes all records useless

Checksum = Callable[[Copy], str]
Identity = Callable[[Vertex], str]


def of_run(op: RunOp, solved: Mapping[Vertex, Solved], digests: Mapping[Vertex, str], *, classic: bool = False) -> str:
    """Return the key of a RUN step. digests: of the trees that it mounts. classic: of the classic builder."""

    def identity(vertex: Vertex) -> str:
        found = solved[vertex]
        return found.state.chain_id if found.state is not None else digests[vertex]

    return _key(["classic" if classic else "buildkit", _fields(op, identity, classic=classic)])


def of_files(op: FileOp, solved: Mapping[Vertex, Solved], checksum: Checksum) -> str:
    """Return the key of file actions, in both builders the same.

    checksum: of what a copy takes; the patterns that name it do not matter then.
    """
    found = solved[op.base]
    base = "" if op.link or found.state is None else found.state.chain_id
    actions: list[Any] = []
    for action in op.actions:
        fields = _fields(action, lambda _: "", classic=False)
        actions.append([checksum(action), fields] if isinstance(action, Copy) else fields)
    return _key(["FileOp", base, op.link, op.epoch_s, actions])


def _key(value: Any) -> str:
    text = json.dumps([VERSION, value], sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _fields(value: Any, identity: Identity, *, classic: bool) -> dict[str, Any]:
    """The fields of an operation, or of a part of one, that are in the key."""
    found = {
        f.name: _plain(getattr(value, f.name), identity, classic=classic)
        for f in dataclasses.fields(value)
        if is_in_key(value, f.name, classic=classic)
    }
    return {"": type(value).__name__, **found}


def _plain(value: Any, identity: Identity, *, classic: bool) -> Any:
    """JSON of a field's value; a vertex is what it came to."""
    if isinstance(value, Vertex):
        return identity(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value, identity, classic=classic)
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, list | tuple):
        return [_plain(item, identity, classic=classic) for item in value]
    return value
