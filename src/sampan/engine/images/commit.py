"""Committing a container: which configuration the new image gets. Pure.

Not here: the layer, which is the diff of the container's writable directory.
Source: moby 28.5 daemon/commit as observed on the reference: what the user gives wins, the container's own
configuration fills the rest; environment and labels are joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sampan.engine.images import instructions
from sampan.spec import oci_image

_FILLED = ("User", "WorkingDir", "Healthcheck", "StopSignal", "Hostname", "Domainname", "Image")
_JOINED = ("ExposedPorts", "Labels", "Volumes")


def image_config(given: Mapping[str, Any], changes: Iterable[str], container: Mapping[str, Any]) -> dict[str, Any]:
    """The `config` object: `given` with `changes` applied, merged over the container's. Raises: InvalidArgument.

    Without `given` the changes are applied to the container's own: they see its environment, and what they replace
    keeps its place.
    """
    own = oci_image.run_config(dict(container))
    changes = list(changes)
    base = given or (own if changes else {})
    config = instructions.apply(base, changes) if changes else oci_image.run_config(dict(given))
    if not config["Entrypoint"]:  # an entrypoint of one's own never gets a foreign command
        config["Cmd"] = config["Cmd"] or own["Cmd"]
        config["Entrypoint"] = own["Entrypoint"]
    for key in _FILLED:
        if not config.get(key) and own.get(key):
            config[key] = own[key]
    for key in _JOINED:
        if own.get(key):
            config[key] = {**own[key], **(config.get(key) or {})}
    environment = list(config["Env"] or [])
    named = {entry.partition("=")[0] for entry in environment}
    environment += [entry for entry in own["Env"] or [] if entry.partition("=")[0] not in named]
    config["Env"] = environment or None
    if own["OnBuild"] and base is not own:
        config["OnBuild"] = [*(config["OnBuild"] or []), *own["OnBuild"]]
    return oci_image.run_config(config)


def image_document(
    base: Mapping[str, Any] | None,
    *,
    config: dict[str, Any],
    container_id: str,
    container_config: Mapping[str, Any],
    author: str,
    comment: str,
    created: str,
    docker_version: str,
    diff_id: str,
) -> dict[str, Any]:
    """The whole image configuration: the base image's with one more line of history, and a layer unless empty."""
    base = base or {}
    entry: dict[str, Any] = {"created": created, "created_by": " ".join(container_config.get("Cmd") or [])}
    if author:
        entry["author"] = author
    if comment:
        entry["comment"] = comment
    if not entry["created_by"]:
        del entry["created_by"]
    diff_ids = list((base.get("rootfs") or {}).get("diff_ids") or [])
    if diff_id == oci_image.EMPTY_LAYER_DIFF_ID:
        entry["empty_layer"] = True
    else:
        diff_ids.append(diff_id)
    document: dict[str, Any] = {
        "architecture": base.get("architecture") or "amd64",
        "config": config,
        "container": container_id,
        "container_config": oci_image.run_config(dict(container_config)),
        "created": created,
        "docker_version": docker_version,
        "history": [*(base.get("history") or []), entry],
        "os": base.get("os") or "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    for key in ("variant", "os.version", "os.features"):
        if base.get(key):
            document[key] = base[key]
    if author:
        document["author"] = author
    if comment:
        document["comment"] = comment
    return document
