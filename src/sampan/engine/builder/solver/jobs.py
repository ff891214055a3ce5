"""What a build is to the solver: a job, kept by the build's session until that is released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sampan.engine.builder.ops import Vertex
from sampan.engine.builder.session import Session
from sampan.engine.builder.solver.imported import ImportedCache
from sampan.engine.builder.solver.records import CacheRecord
from sampan.engine.builder.state import Solved
from sampan.engine.builder.trees import Tree
from sampan.engine.store import Ref


@dataclass(slots=True, kw_only=True)
class Job:
    """What one session was given so far, and what it asked for with its last call.

    holder: keeps its layers. trees: to be closed with it, those of file systems made of layers included. made: the
    record of every step. emptied: cache mounts that this build has begun anew, because it uses no cache.
    """

    id: str
    session: Session
    holder: Ref
    solved: dict[Vertex, Solved] = field(default_factory=dict)
    trees: dict[Vertex, Tree] = field(default_factory=dict)
    made: dict[Vertex, CacheRecord] = field(default_factory=dict)
    serial: bool = False
    on_error: str = ""
    no_cache: bool = False
    emptied: set[str] = field(default_factory=set)
    entitlements: frozenset[str] = frozenset()
    cache_from: Sequence[ImportedCache] = ()
