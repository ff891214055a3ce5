"""A build as a door asks for it, and what comes of it. Plain values; both doors fill the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sampan.engine.builder.ops import Limits, Vertex
from sampan.engine.platforms import Platform
from sampan.errors import InvalidArgument
from sampan.spec.dockerfile.config import DialectName
from sampan.spec.go_values import boolean, integer

LATEST_S = 253_402_300_799  # the last second of the year 9999, after which no document can hold a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where a result goes.

    type: image (into this engine's images), docker, oci, tar, local, cacheonly. attrs as the client's.
    """

    type: str
    attrs: Mapping[str, str] = field(default_factory=dict)
    exporter: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEnd:
    """One --cache-from or --cache-to. type: registry inline local. attrs: ref, mode, src, dest, …"""

    type: str
    attrs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """Everything that a client may say about a build.

    dialect: `classic` (an image per step, history as Docker's classic builder writes it) or `buildkit`. dockerfile: its
    text, when the door has it; else it is read from the context `dockerfile` as `filename`, and its ignore file beside
    it. contexts: `--build-context` NAME → `docker-image://…`, URL, `local:NAME`, `oci-layout://…`; the main context is
    "context": `local:context` or a git or tarball URL. no_cache: None off, () everything, else these stages.
    build_args: None as value means the client named it without one.
    """

    id: str
    dialect: DialectName
    dockerfile: bytes | None = None
    ignore: bytes | None = None
    filename: str = "Dockerfile"
    contexts: Mapping[str, str] = field(default_factory=lambda: {"context": "local:context"})
    inputs: Mapping[str, tuple[Vertex, Mapping[str, Any]]] = field(
        default_factory=dict
    )  # contexts `input:NAME`, (state, config document)
    target: str = ""
    build_args: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()
    tags: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = (Output(type="image"),)
    no_cache: tuple[str, ...] | None = None
    pull: bool = False
    cache_from: tuple[CacheEnd, ...] = ()
    cache_to: tuple[CacheEnd, ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    network: str = "default"
    hostname: str = ""
    security_opt: tuple[str, ...] = ()
    entitlements: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)
    squash: bool = False
    auth: Mapping[str, Any] = field(default_factory=dict)  # X-Registry-Config: host → AuthConfig
    on_error: str = ""  # "" | "commit" | "keep": what becomes of the file system of a failed RUN
    epoch_s: int | None = None  # SOURCE_DATE_EPOCH, also from build_args


def epoch_seconds(text: str) -> int | None:
    """Read SOURCE_DATE_EPOCH; None where it is empty. Raises: InvalidArgument."""
    if not text:
        return None
    try:
        seconds = integer(text)
    except ValueError as e:
        raise InvalidArgument(f"invalid SOURCE_DATE_EPOCH: {text}: {e}") from None
    if not 0 <= seconds <= LATEST_S:
        raise InvalidArgument(f"invalid SOURCE_DATE_EPOCH: {text}: it is before 1970 or after the year 9999")
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The result: image id by platform ("" for outputs that make no image), and what exporters said."""

    images: Mapping[str, str] = field(default_factory=dict)
    response: Mapping[str, str] = field(default_factory=dict)

    @property
    def image_id(self) -> str:
        return next(iter(self.images.values()), "")


def is_true(text: str | None, *, otherwise: bool = False) -> bool:
    """Read an attribute or a build argument as a truth value. otherwise: for one that is missing or cannot be read."""
    try:
        return boolean(text or "")
    except ValueError:
        return otherwise
