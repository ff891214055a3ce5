"""Vertices: what a build consists of. Pure values; the graph makes them, the solver runs them.

    sources   ImageOp ScratchOp → a State (layers);  LocalOp HttpOp GitOp ArchiveOp → a Tree (files)
    steps     RunOp FileOp      → a State on top of their `base`

A vertex knows its inputs, so a target vertex is a whole graph; equal vertices are one (`digest`). What a step is called
and where it stands in the Dockerfile is display only and no part of the digest.

Source: BuildKit's LLB (pb.Op) for the notions; the shapes are ours.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sampan.engine.platforms import Platform
from sampan.spec.urls import masked_text


@dataclass(frozen=True, kw_only=True)
class VertexLabel:
    """How a vertex is shown: never with the credentials of a URL.

    ranges: 1-based first and last lines in the Dockerfile; step: (n of m) in its stage.
    """

    name: str = ""  # "[build 2/3] RUN make"
    text: str = ""  # the instruction as written, for classic output: "RUN make"
    ranges: tuple[tuple[int, int], ...] = ()
    stage: str = ""
    step: tuple[int, int] = (0, 0)
    internal: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", masked_text(self.name))
        object.__setattr__(self, "text", masked_text(self.text))


@dataclass(frozen=True, kw_only=True)
class Vertex:
    """Base of all vertices. Compared by digest."""

    label: VertexLabel = field(default=VertexLabel(), metadata={"display": True})
    no_cache: bool = field(default=False, metadata={"display": True})  # run it again even when a record fits

    def __post_init__(self) -> None:
        _ = self.digest  # inputs have theirs by now: a long chain never recurses

    @cached_property
    def digest(self) -> str:
        """`sha256:…` of the operation and of its inputs' digests."""
        text = json.dumps(_plain(self), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def inputs(self) -> tuple[Vertex, ...]:
        """The vertices that this one needs, each once, in order of use."""
        return tuple(dict.fromkeys(_vertices(self)))

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vertex) and other.digest == self.digest


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True, eq=False)
class ScratchOp(Vertex):
    """No files at all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageOp(Vertex):
    """An image's file system. image_id: what the graph resolved `ref` to; the solver pulls what is missing."""

    ref: str
    image_id: str
    platform: Platform


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalOp(Vertex):
    """A tree that the door provides: `context`, `dockerfile`, or a named context. Patterns as .dockerignore's.

    follow: the paths that the build needs of it, so that only these are transferred; () is all.
    """

    context: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow: tuple[str, ...] = field(default=(), metadata={"display": True})


@dataclass(frozen=True, kw_only=True, eq=False)
class HttpOp(Vertex):
    """A downloaded file, as a tree of one. mode None: 0600. checksum: `sha256:…` or ""."""

    url: str
    checksum: str = ""
    filename: str = ""
    mode: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class GitOp(Vertex):
    """A checkout. ref: branch, tag, commit or ""; subdir: what becomes the tree's root."""

    remote: str
    ref: str = ""
    subdir: str = ""
    keep_git_dir: bool = False
    checksum: str = ""  # the commit that it must be


@dataclass(frozen=True, kw_only=True, eq=False)
class ArchiveOp(Vertex):
    """The unpacked tree of a downloaded archive: a context at a tarball URL."""

    source: HttpOp


# ── steps ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Owner:
    """uid:gid as written, by name or number; names are resolved in the destination's own passwd.

    None: as in the source.

    classic: as the classic builder: names must be there, a user without a group names its group too, directories made
    on the way stay root's, and what an archive holds keeps its owners. Else as BuildKit: an unknown name is root.
    """

    user: str = ""
    group: str = ""
    classic: bool = False


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Copy from `source` (a State or Tree vertex) into the base.

    patterns: paths with Go's wildcards, relative to the source's root. Trailing slash of `dest` is kept and means a
    directory. unpack: local archives are extracted (ADD). chmod: octal digits or a symbolic mode, "" keeps.
    """

    source: Vertex
    patterns: tuple[str, ...]
    dest: str
    owner: Owner | None = None
    chmod: str = ""
    unpack: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    contents_only: bool = True  # a directory as source means what it holds
    required: bool = True  # a pattern that matches nothing is an error
    replaces: bool = False  # below the destination a file takes the place of a directory, a directory that of a file
    follow: bool = True  # a symbolic link named as source is followed inside the source


@dataclass(frozen=True, kw_only=True)
class Mkdir:
    """WORKDIR: the directory and its parents, if missing."""

    path: str
    mode: int = 0o755
    owner: Owner | None = None


@dataclass(frozen=True, kw_only=True)
class Mkfile:
    """A file from a heredoc."""

    path: str  # a trailing slash or an existing directory: `name` below it
    name: str
    data: bytes
    chmod: str = ""
    owner: Owner | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FileOp(Vertex):
    """File actions in order; one layer.

    link: the layer is made on nothing and laid over `base`, whatever that holds.
    """

    base: Vertex
    actions: tuple[Copy | Mkdir | Mkfile, ...]
    link: bool = False
    epoch_s: int | None = None  # SOURCE_DATE_EPOCH: no file of the layer is younger


@dataclass(frozen=True, kw_only=True)
class RunMount:
    """RUN --mount. kind: bind cache tmpfs secret ssh. Fields of other kinds stay at their defaults."""

    kind: str
    target: str = ""
    source: Vertex | None = None  # bind; a cache's first content
    path: str = ""  # below the source's root
    writable: bool = False  # bind: what is written is thrown away
    read_only: bool = False  # cache
    id: str = ""  # cache, secret, ssh
    sharing: str = "shared"  # shared private locked
    required: bool = False
    env: str = ""  # secret as environment variable
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Resource flags of a build; none of them is part of a step's digest."""

    memory_bytes: int = 0
    memory_swap_bytes: int = 0
    cpu_shares: int = 0
    cpu_period_us: int = 0
    cpu_quota_us: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    shm_size_bytes: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()  # name, soft, hard
    cgroup_parent: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunOp(Vertex):
    """A command in the base. network: default none host, or a network's name. security: sandbox insecure."""

    base: Vertex
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    user: str = ""
    mounts: tuple[RunMount, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    hostname: str = ""
    extra_hosts: tuple[tuple[str, str], ...] = ()
    epoch_s: int | None = None
    limits: Limits = field(default=Limits(), metadata={"display": True})
    platform: Platform | None = None
    secret_env: tuple[str, ...] = ()  # names of proxy variables and the like: passed on, never recorded
    proxy_env: tuple[str, ...] = field(default=(), metadata={"display": True})  # KEY=VALUE, in no key, log or history


# ── digests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _plain(value: Any, *, nested: bool = False) -> Any:
    """JSON of a value without what is display only; an inner vertex is its digest."""
    if isinstance(value, Vertex) and nested:
        return value.digest
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: _plain(getattr(value, f.name), nested=True)
            for f in dataclasses.fields(value)
            if not f.metadata.get("display")
        }
        return {"": type(value).__name__, **fields}
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, list | tuple):
        return [_plain(item, nested=True) for item in value]
    return value


def _vertices(value: Any, *, nested: bool = False) -> Iterator[Vertex]:
    if isinstance(value, Vertex) and nested:
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            yield from _vertices(getattr(value, f.name), nested=True)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _vertices(item, nested=True)
