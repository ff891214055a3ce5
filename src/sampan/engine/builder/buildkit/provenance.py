"""What a build was made from, as SLSA provenance 0.2: read by buildx for `--metadata-file` and `history inspect`. Pure.

Source: slsa.dev/provenance/v0.2; the statement that Docker Engine 28.5.2 records for a build.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from sampan.engine.builder.ops import GitOp, HttpOp, ImageOp, Vertex
from sampan.spec.urls import masked_text

PREDICATE = "https://slsa.dev/provenance/v0.2"
_ARGUMENTS = ("build-arg:", "label:", "context:", "attest:", "vcs:")


def predicate(
    *,
    attrs: Mapping[str, str],
    vertices: Iterable[Vertex],
    platform: str,
    started: str,
    finished: str,
    invocation: str,
) -> bytes:
    """Return the predicate as JSON. attrs: the frontend's options; vertices: every step that ran; times: RFC 3339."""
    context = attrs.get("context", "")
    source: dict[str, Any] = {"entryPoint": attrs.get("filename") or "Dockerfile"}
    if context and "://" in context:
        source["uri"] = context
    locals_ = [] if context else [{"name": "context"}, {"name": "dockerfile"}]
    arguments = {
        key: value
        for key, value in sorted(attrs.items())
        if key.startswith(_ARGUMENTS) or key in ("no-cache", "target", "platform", "add-hosts", "force-network-mode")
    }
    document = {
        "builder": {"id": ""},
        "buildType": "https://mobyproject.org/buildkit@v1",
        "materials": materials(vertices),
        "invocation": {
            "configSource": source,
            "parameters": {
                "frontend": "dockerfile.v0",
                **({"args": arguments} if arguments else {}),
                **({"locals": locals_} if locals_ else {}),
            },
            "environment": {"platform": platform},
        },
        "metadata": {
            "buildInvocationID": invocation,
            "buildStartedOn": started,
            "buildFinishedOn": finished,
            "completeness": {"parameters": True, "environment": True, "materials": not locals_},
            "reproducible": False,
        },
    }
    return json.dumps(document, indent=2).encode()


def materials(vertices: Iterable[Vertex]) -> list[dict[str, Any]]:
    """Return everything that came from elsewhere and was not the client's own files, each once."""
    found: dict[str, dict[str, Any]] = {}
    for vertex in vertices:
        if isinstance(vertex, ImageOp):
            uri, digest = _purl(vertex), vertex.image_id
        elif isinstance(vertex, HttpOp):
            uri, digest = masked_text(vertex.url), vertex.checksum
        elif isinstance(vertex, GitOp):
            uri, digest = masked_text(vertex.remote) + (f"#{vertex.ref}" if vertex.ref else ""), vertex.checksum
        else:
            continue
        entry: dict[str, Any] = {"uri": uri}
        if digest:
            algorithm, _, value = digest.rpartition(":")
            entry["digest"] = {algorithm or "sha1": value}
        found.setdefault(uri, entry)
    return list(found.values())


def _purl(vertex: ImageOp) -> str:
    """`docker.io/library/busybox:latest` → `pkg:docker/busybox@latest?platform=linux%2Famd64`."""
    name = vertex.ref.removeprefix("docker.io/").removeprefix("library/")
    path, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        path, tag = name, ""
    return f"pkg:docker/{path}{'@' + tag if tag else ''}?platform={quote(str(vertex.platform), safe='')}"
