"""What a step gives: a file system, as layers of this engine."""

from __future__ import annotations

from dataclasses import dataclass

from sampan.engine.builder.trees import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChain:
    """Layers, bottom first, by diff_id; `chain_id` names them all ("" for none) in `images.layers`."""

    diff_ids: tuple[str, ...] = ()
    chain_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """The result of one vertex: a state or a tree. time_ns: the newest time that its input had, or when RUN ended;
    what image histories and `created` are made of, so that equal input gives equal images."""

    state: LayerChain | None = None
    tree: Tree | None = None
    time_ns: int = 0
    cached: bool = False
