"""What the graph gives: a target to solve and the image that comes of it, and for the classic dialect every step.

Values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sampan.engine.builder.ops import Copy, Vertex
from sampan.engine.platforms import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedImage:
    """An image that a Dockerfile names.

    config: its whole configuration document; ref: `docker.io/library/busybox:latest`.
    """

    id: str
    config: Mapping[str, Any]
    ref: str
    digest: str = ""


class Resolver(Protocol):
    """Where base images come from; pulls what is missing, or always with `pull`."""

    async def image(self, ref: str, platform: Platform, *, pull: bool) -> ResolvedImage:
        """Return an image by its name. Raises: NotFound and what a pull raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One line of an image's history. vertex: what made its layer, None for metadata.

    copied: what a classic COPY or ADD copied; `created_by` then holds `{}` in the place of `file:…`, `dir:…` or
    `multi:…`, which is known when it was solved (`history.named`).
    """

    created_by: str
    comment: str = ""
    author: str = ""
    vertex: Vertex | None = None
    copied: tuple[Copy, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicStep:
    """One instruction as the classic builder walks: solve `vertex` if there is one, publish an image, say so.

    text: what stands after `Step n/m : `; "" for a trigger of the base image's ONBUILD, which is not counted. config:
    the run configuration (`config` of the image document) after this step. history: all entries that the stage adds to
    `base` so far. base: the image that the stage (or the stage it is from) began with, None for scratch. triggers: of a
    FROM, how many steps follow that its base image brought. stage_end: the last step of its stage.
    """

    text: str
    keyword: str
    stage: int
    range: tuple[int, int]
    base: ResolvedImage | None
    parent_stage: int | None = None  # of a FROM: the earlier stage that it continues
    config: Mapping[str, Any]
    history: tuple[HistoryEntry, ...] = ()
    author: str = ""
    vertex: Vertex | None = None
    command: tuple[str, ...] = ()  # container_config.Cmd
    runs: bool = False
    trigger: bool = False
    triggers: int = 0
    stage_end: bool = False
    state: Vertex | None = None  # the file system after this step, None for scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignBase:
    """A base image that is for another platform than the one asked for. range: of its FROM."""

    ref: str
    found: Platform
    wanted: Platform
    range: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The stage to build for one platform. vertex: its file system. config: the `config` object of the image document.

    base: the image below all of it, None for scratch. steps: of all stages, in the order of the file, in the classic
    dialect. paths: what is used of each local context; "/" is all of it. stages: those it is made from, by number.
    environments: what the base images of stages set, by number of the stage.
    """

    vertex: Vertex
    platform: Platform
    config: Mapping[str, Any]
    base: ResolvedImage | None = None
    history: tuple[HistoryEntry, ...] = ()
    author: str = ""
    steps: tuple[ClassicStep, ...] = ()
    unused_args: tuple[str, ...] = ()
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stages: tuple[int, ...] = ()
    environments: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    foreign: tuple[ForeignBase, ...] = ()
