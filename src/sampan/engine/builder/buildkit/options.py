"""A client's options → `BuildRequest`. Pure.

What is not understood but harmless (attestations, command lines, labels of the client itself) is passed over, as in
Docker. Source: the options of the frontend dockerfile.v0 as buildx 0.29 sends them; BuildKit docs/reference.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sampan.engine.builder.ops import Limits
from sampan.engine.builder.request import BuildRequest, CacheEnd, Output, epoch_seconds
from sampan.engine.platforms import Platform, parse
from sampan.errors import InvalidArgument
from sampan.spec import go_values

UPLOADED = "http://buildkit-session/"
"""A context on the client's standard input: to be pulled from the session."""
FRONTENDS = frozenset({"dockerfile.v0", "gateway.v0"})
_NETWORKS = {"": "default", "default": "default", "sandbox": "default", "host": "host", "none": "none"}
_IMAGES = frozenset({"moby", "image"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a client asked to be built: its options, and the session that has the files.

    inputs: name → what it stands for.
    """

    session: str
    attrs: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[CacheEnd, ...] = ()

    @property
    def request_id(self) -> str:
        """The question that is asked instead of a build."""
        return self.attrs.get("requestid", "")

    @property
    def lenders(self) -> dict[str, str]:
        """Directories that lie with other sessions: name → session."""
        return _below(self.attrs, "local-sessionid:")


def to_request(
    asked: Asked,
    id: str,
    *,
    outputs: tuple[Output, ...] = (),
    cache_from: Iterable[CacheEnd] = (),
    cache_to: Iterable[CacheEnd] = (),
    entitlements: Iterable[str] = (),
) -> BuildRequest:
    """Return the request for what was asked. Raises: InvalidArgument for an option that cannot be read."""
    attrs = asked.attrs
    args = _below(attrs, "build-arg:")
    cgroup = attrs.get("cgroup-parent", "")
    epoch = args.get("SOURCE_DATE_EPOCH", "")
    multi = attrs.get("multi-platform") or args.get("BUILDKIT_MULTI_PLATFORM") or ""
    try:
        go_values.boolean(multi or "0")
    except ValueError:
        raise InvalidArgument(f"invalid boolean value for multi-platform: {multi}") from None
    return BuildRequest(
        id=id,
        dialect="buildkit",
        filename=attrs.get("filename") or "Dockerfile",
        contexts=_contexts(asked),
        target=attrs.get("target", ""),
        build_args=dict(args),
        labels=_below(attrs, "label:"),
        platforms=_platforms(attrs.get("platform", "")),
        tags=tuple(dict.fromkeys(tag for output in outputs for tag in names(output))),
        outputs=outputs,
        no_cache=tuple(filter(None, attrs["no-cache"].split(","))) if "no-cache" in attrs else None,
        pull=attrs.get("image-resolve-mode") == "pull",
        cache_from=(*cache_from, *asked.imports, *_cache_imports(attrs)),
        cache_to=tuple(cache_to),
        extra_hosts=_hosts(attrs.get("add-hosts", "")),
        network=_network(attrs.get("force-network-mode", "")),
        hostname=attrs.get("hostname", ""),
        entitlements=frozenset(entitlements),
        limits=Limits(
            shm_size_bytes=_number("shm-size", attrs.get("shm-size", "")),
            ulimits=_ulimits(attrs.get("ulimit", "")),
            cgroup_parent=cgroup,
        ),
        epoch_s=epoch_seconds(epoch),
    )


def outputs(exporters: Iterable[tuple[str, Mapping[str, str]]]) -> tuple[Output, ...]:
    """Return a client's exporters (type, attributes) in its order. `moby` and `image` are the engine's own images."""
    made = tuple(
        Output(type="image" if type_ in _IMAGES else type_, attrs=dict(attrs), exporter=number)
        for number, (type_, attrs) in enumerate(exporters)
    )
    return made or (Output(type="cacheonly"),)


def names(output: Output) -> list[str]:
    """Return the image names that an output asks for."""
    if output.type not in ("image", "docker", "oci"):
        return []
    return [name.strip() for name in next(csv.reader([output.attrs.get("name", "")]), []) if name.strip()]


def _contexts(asked: Asked) -> dict[str, str]:
    """Context name → what it is; the main one is `context`."""
    attrs = asked.attrs
    found = {"context": attrs.get("context") or f"local:{attrs.get('contextkey') or 'context'}"}
    for name, value in _below(attrs, "context:").items():
        if value.startswith("input:"):
            key = value.removeprefix("input:")
            if key not in asked.inputs:
                raise InvalidArgument(f"invalid input {key} for {name}")
            value = asked.inputs[key]
        found[name] = value
    if "dockerfilekey" in attrs:
        found["dockerfile"] = f"local:{attrs['dockerfilekey']}"
    if "context" in asked.inputs:
        found["context"] = asked.inputs["context"]
    return found


def _below(attrs: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in attrs.items() if key.startswith(prefix)}


def _platforms(text: str) -> tuple[Platform, ...]:
    return tuple(parse(one.strip()) for one in text.split(",") if one.strip())


def _hosts(text: str) -> tuple[tuple[str, str], ...]:
    """`name=address`, comma separated."""
    found = []
    for row in csv.reader([text]) if text else ():
        for one in row:
            name, equals, address = one.partition("=")
            if not equals:
                raise InvalidArgument(f"invalid key-value pair {one}")
            found.append((name, address))
    return tuple(found)


def _network(text: str) -> str:
    if text not in _NETWORKS:
        raise InvalidArgument(f"invalid netmode {text}")
    return _NETWORKS[text]


def _number(name: str, text: str) -> int:
    if not text:
        return 0
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f'failed to parse {name}: strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _ulimits(text: str) -> tuple[tuple[str, int, int], ...]:
    """`nofile=1024:2048`, comma separated."""
    found = []
    for one in filter(None, text.split(",")):
        name, _, values = one.partition("=")
        soft, _, hard = values.partition(":")
        found.append((name, _number("ulimit", soft), _number("ulimit", hard or soft)))
    return tuple(found)


def _cache_imports(attrs: Mapping[str, str]) -> list[CacheEnd]:
    """`cache-imports`: JSON of BuildKit's CacheOptionsEntry; `cache-from`: references, comma separated."""
    found = [CacheEnd(type="registry", attrs={"ref": ref}) for ref in attrs.get("cache-from", "").split(",") if ref]
    try:
        listed: list[dict[str, Any]] = json.loads(attrs.get("cache-imports") or "[]")
        return found + [CacheEnd(type=one.get("Type", ""), attrs=one.get("Attrs") or {}) for one in listed]
    except (ValueError, AttributeError, TypeError) as e:
        raise InvalidArgument(f"failed to unmarshal cache-imports: {e}") from None
