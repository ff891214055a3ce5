"""The image configuration document of a build's result. Pure.

Times: an entry's `created` is the newest of the base image's and of what was solved so far, or SOURCE_DATE_EPOCH: equal
input gives an equal image. The classic dialect writes Docker's whole `config` object and the fields of its builder, the
buildkit dialect the keys that OCI and Docker define, without what is empty.

Source: OCI image-spec 1.1 config.md; what both builders of Docker Engine 28.5 write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sampan.engine.builder.graph.values import HistoryEntry, ResolvedImage, Target
from sampan.engine.builder.ops import Vertex
from sampan.engine.builder.state import Solved
from sampan.engine.images.records import ENGINE_VERSION
from sampan.engine.platforms import Platform
from sampan.spec import oci_image, times

_KEYS = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "ArgsEscaped",
    "Healthcheck",
    "OnBuild",
    "Shell",
)
_SORTED = ("ExposedPorts", "Volumes", "Labels")
_INHERITED = ("os.version", "os.features", "variant")


def document(
    base: ResolvedImage | None,
    history: Sequence[HistoryEntry],
    config: Mapping[str, Any],
    solved: Mapping[Vertex, Solved],
    *,
    platform: Platform,
    dialect: str,
    author: str = "",
    epoch_s: int | None = None,
) -> dict[str, Any]:
    """Return the document; every vertex of `history` must be in `solved`."""
    below: Mapping[str, Any] = base.config if base is not None else {}
    entries = list(below.get("history") or [])
    layers = list((below.get("rootfs") or {}).get("diff_ids") or [])
    newest = times.parse(below["created"]) if below.get("created") else 0
    created = times.rfc3339_nano(newest) if epoch_s is None else times.rfc3339_nano(epoch_s * 10**9)
    for entry in history:
        empty = True
        if entry.vertex is not None:
            done = solved[entry.vertex]
            assert done.state is not None
            empty = len(done.state.diff_ids) <= len(layers)
            layers = list(done.state.diff_ids) if not empty else layers
            newest = max(newest, done.time_ns)
        created = times.rfc3339_nano(newest) if epoch_s is None else times.rfc3339_nano(epoch_s * 10**9)
        entries.append(_entry(entry, created, empty=empty))
    result: dict[str, Any] = {
        "architecture": below.get("architecture") or platform.architecture,
        "config": run_config(config, dialect),
        "created": created,
        "history": entries,
        "os": below.get("os") or platform.os,
        "rootfs": {"type": "layers", "diff_ids": layers},
    }
    if dialect == "classic":
        result["docker_version"] = ENGINE_VERSION
    if base is None and platform.variant:
        result["variant"] = platform.variant
    result |= {key: below[key] for key in _INHERITED if below.get(key)}
    if author:
        result["author"] = author
    return result


def of_target(target: Target, solved: Mapping[Vertex, Solved], *, dialect: str, epoch_s: int | None) -> dict[str, Any]:
    """Return the document of a target; layers that no entry made (FROM a context) get one."""
    made = document(
        target.base,
        target.history,
        target.config,
        solved,
        platform=target.platform,
        dialect=dialect,
        author=target.author,
        epoch_s=epoch_s,
    )
    state = solved[target.vertex].state
    if state is not None and list(state.diff_ids) != made["rootfs"]["diff_ids"]:
        _fill(made, state.diff_ids, solved[target.vertex].time_ns, epoch_s)
    return made


def _fill(made: dict[str, Any], diff_ids: Sequence[str], time_ns: int, epoch_s: int | None) -> None:
    """One history entry for each layer that has none, below the others."""
    named = [entry for entry in made["history"] if not entry.get("empty_layer")]
    created = times.rfc3339_nano(time_ns if epoch_s is None else epoch_s * 10**9)
    missing = max(0, len(diff_ids) - len(named))
    filler = [{"created": created, "comment": "buildkit.exporter.image.v0"} for _ in range(missing)]
    made["history"] = [*filler, *made["history"]]
    made["rootfs"]["diff_ids"] = list(diff_ids)
    if not made["history"][len(filler) :]:
        made["created"] = created


def _entry(entry: HistoryEntry, created: str, *, empty: bool) -> dict[str, Any]:
    """One history entry, keys in Docker's order."""
    result: dict[str, Any] = {"created": created}
    if entry.created_by:
        result["created_by"] = entry.created_by
    if entry.author:
        result["author"] = entry.author
    if entry.comment:
        result["comment"] = entry.comment
    if empty:
        result["empty_layer"] = True
    return result


def run_config(config: Mapping[str, Any], dialect: str) -> dict[str, Any]:
    """Return the `config` object as the dialect writes it."""
    if dialect == "classic":
        return oci_image.run_config(dict(config))
    result: dict[str, Any] = {}
    for key in _KEYS:
        value = config.get(key)
        if value:
            result[key] = dict(sorted(value.items())) if key in _SORTED else value
    return result
