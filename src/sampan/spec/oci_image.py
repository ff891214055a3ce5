"""The image configuration document: decode, build, chain ids. Data only.

A configuration's digest is the image's id, so what is written must be what Docker writes for the same content:
top-level keys sorted, the `config` object in the order of Docker's struct, Go's escapes, no newline at the end.

Source: OCI image-spec 1.1 config.md; Docker image specification v1.2 (moby image/spec).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from sampan.spec import codec, image_document

MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_LAYER = "application/vnd.oci.image.layer.v1.tar"
MEDIA_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
EMPTY_LAYER_DIFF_ID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

# Docker's container.Config, in its order: (key, zero value, left out when zero)
_CONFIG_FIELDS: tuple[tuple[str, Any, bool], ...] = (
    ("Hostname", "", False),
    ("Domainname", "", False),
    ("User", "", False),
    ("AttachStdin", False, False),
    ("AttachStdout", False, False),
    ("AttachStderr", False, False),
    ("ExposedPorts", None, True),
    ("Tty", False, False),
    ("OpenStdin", False, False),
    ("StdinOnce", False, False),
    ("Env", None, False),
    ("Cmd", None, False),
    ("Healthcheck", None, True),
    ("ArgsEscaped", False, True),
    ("Image", "", False),
    ("Volumes", None, False),
    ("WorkingDir", "", False),
    ("Entrypoint", None, False),
    ("NetworkDisabled", False, True),
    ("MacAddress", "", True),
    ("OnBuild", None, False),
    ("Labels", None, False),
    ("StopSignal", "", True),
    ("StopTimeout", None, True),
    ("Shell", None, True),
)


def run_config(values: dict[str, Any] | None) -> dict[str, Any]:
    """Return the `config` object with every key that Docker writes, in its order."""
    values = values or {}
    out: dict[str, Any] = {}
    for key, zero, omit in _CONFIG_FIELDS:
        value = values.get(key, zero)
        if omit and (not value and (key != "StopTimeout" or value is None)):
            continue
        if isinstance(value, dict) and key in ("ExposedPorts", "Volumes", "Labels"):
            value = dict(sorted(value.items()))
        out[key] = value
    return out


def encode(config: dict[str, Any]) -> bytes:
    """Return the bytes of a configuration: their sha256 is the image's id."""
    return codec.encode(dict(sorted(config.items())))[:-1]


def decode(raw: bytes) -> dict[str, Any]:
    """Decode a configuration as stored, every known field of its type. Raises: InvalidArgument when it is none."""
    return image_document.read(raw)


def diff_ids(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the layers' digests, base first."""
    return tuple(config["rootfs"].get("diff_ids") or ())


def digest(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def chain_id(parent: str, diff_id: str) -> str:
    """Return the id of a layer on top of the layer `parent` ("" for the base)."""
    return digest(f"{parent} {diff_id}".encode()) if parent else diff_id


def chain_ids(layers: Iterable[str]) -> list[str]:
    """Return the chain id of every layer, base first."""
    chain: list[str] = []
    for layer in layers:
        chain.append(chain_id(chain[-1] if chain else "", layer))
    return chain
