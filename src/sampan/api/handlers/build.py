"""/build*: the classic door to the builder: a context archive in, the classic builder's lines out.

`version=2` is ours: BuildKit's dialect, told as data (classic/trace.py). It takes what Docker's own parameters cannot
say, named as BuildKit's attributes: `contexts`, `nocachefilter`, `cacheto`, `allow`, `call`, and `onerror`.

Source: Engine API 1.51 "ImageBuild", "BuildPrune"; parameter rules as Docker Engine 28.5.2 answers them.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from typing import Any

from aiohttp import web

from sampan.api import older, streams, versions
from sampan.api.context import (
    Filters,
    accept_filters,
    engine,
    filters,
    flag,
    integer,
    json_response,
    parse_integer,
    query,
    version,
)
from sampan.engine import platforms
from sampan.engine.builder.classic import door
from sampan.engine.builder.ops import Limits
from sampan.engine.builder.request import BuildRequest, CacheEnd, Output
from sampan.engine.builder.solver.cachemounts import CacheMounts
from sampan.engine.platforms import Platform
from sampan.errors import Internal, InvalidArgument
from sampan.registry.auth import Credentials
from sampan.spec import codec, reference, times
from sampan.spec.dockerfile.config import DialectName
from sampan.spec.engine_api.container import Ulimit
from sampan.spec.engine_api.registry import AuthConfig

_PRUNE_FILTERS = frozenset(
    {"until", "unused-for", "id", "parent", "type", "description", "inuse", "shared", "private", "label", "label!"}
)
_PRUNE_LABELS = frozenset({"label", "label!"})
_PRUNE_TIMES = frozenset({"until", "unused-for"})
_BUILDERS = ("", "1", "2")


async def build(request: web.Request) -> web.StreamResponse:
    """POST /build."""
    asked = _request(request)
    options = door.ClassicOptions(
        remote=query(request, "remote"),
        quiet=flag(request, "q"),
        remove=flag(request, "rm", default=True),
        session=query(request, "session"),
        call=_call(request, asked),
    )
    builder = engine(request).builder
    messages = door.build(builder, asked, options, streams.upload(request))
    return await streams.progress(request, messages)


def _request(request: web.Request) -> BuildRequest:
    """What the query says. Raises: InvalidArgument and Internal as the reference does."""
    if query(request, "version") not in _BUILDERS:
        raise InvalidArgument(f'invalid version "{query(request, "version")}"')
    if request.query.getall("securityopt", []):
        raise InvalidArgument("security options are not supported on linux")
    isolation = query(request, "isolation")
    if isolation not in ("", "default"):
        raise InvalidArgument(f'unsupported isolation: "{isolation}"')
    arguments = _map(request, "buildargs", "build args")
    dialect: DialectName = "buildkit" if query(request, "version") == "2" else "classic"
    return BuildRequest(
        id=query(request, "buildid") or os.urandom(16).hex(),
        dialect=dialect,
        filename=query(request, "dockerfile") or "Dockerfile",
        target=query(request, "target"),
        build_args=arguments,
        labels={name: value or "" for name, value in _map(request, "labels", "labels").items()},
        platforms=_platforms(request),
        tags=_tags(request),
        outputs=_outputs(request),
        contexts=_contexts(request),
        no_cache=() if flag(request, "nocache") else tuple(request.query.getall("nocachefilter", ())) or None,
        pull=flag(request, "pull"),
        cache_from=_cache_ends(request, "cachefrom", "cache-from"),
        cache_to=_cache_ends(request, "cacheto", "cache-to"),
        entitlements=frozenset(request.query.getall("allow", ())),
        extra_hosts=_hosts(request),
        network=query(request, "networkmode") or "default",
        limits=_limits(request),
        squash=flag(request, "squash"),
        auth=_credentials(request),
        on_error=query(request, "onerror"),
    )


def _parsed(request: web.Request, name: str, what: str) -> Any:
    """The JSON of a parameter, None without one. Raises: InvalidArgument `error reading <what>: …` in Go's words."""
    text = query(request, name)
    if not text:
        return None
    try:
        return codec.parse(text.encode())
    except ValueError as e:
        raise InvalidArgument(f"error reading {what}: {e}") from None


def _map(request: web.Request, name: str, what: str) -> dict[str, str | None]:
    found = _parsed(request, name, what)
    if found is None:
        return {}
    target = "map[string]*string" if name == "buildargs" else "map[string]string"
    if not isinstance(found, dict):
        words = f"cannot unmarshal {codec.kind(found)} into Go value of type {target}"
        raise InvalidArgument(f"error reading {what}: json: {words}")
    for key, value in found.items():
        if value is not None and not isinstance(value, str):
            words = f"cannot unmarshal {codec.kind(value)} into Go struct field .{key} of type string"
            raise InvalidArgument(f"error reading {what}: json: {words}")
    return {str(key): value for key, value in found.items()}


def _call(request: web.Request, asked: BuildRequest) -> str:
    """What to do with the Dockerfile. Raises: InvalidArgument for what there is not."""
    call = query(request, "call") or "build"
    if call not in ("build", *door.CALLS) or (call != "build" and asked.dialect == "classic"):
        raise InvalidArgument(f'invalid call "{call}"')
    return call


def _contexts(request: web.Request) -> dict[str, str]:
    """The main context is what the request brings; `contexts` has the others by name."""
    named = {name: value or "" for name, value in _map(request, "contexts", "contexts").items()}
    return {**named, "context": "local:context"}


def _cache_ends(request: web.Request, name: str, what: str) -> tuple[CacheEnd, ...]:
    """A JSON list of references, or of {"Type", "Attrs"}."""
    found = _parsed(request, name, what)
    if found is None:
        return ()
    if not isinstance(found, list):
        words = f"cannot unmarshal {codec.kind(found)} into Go value of type []string"
        raise InvalidArgument(f"error reading {what}: json: {words}")
    return tuple(_cache_end(item) for item in found)


def _cache_end(item: Any) -> CacheEnd:
    if not isinstance(item, dict):
        return CacheEnd(type="registry", attrs={"ref": str(item)})
    attrs = {str(key): str(value) for key, value in (item.get("Attrs") or {}).items()}
    return CacheEnd(type=str(item.get("Type") or "registry"), attrs=attrs)


def _outputs(request: web.Request) -> tuple[Output, ...]:
    """`outputs`: [{"Type", "Attrs"}]; version 1 without a session makes an image whatever it says."""
    text = older.parameter(query(request, "outputs"), version(request), (1, 40))
    if not text:
        return (Output(type="image"),)
    try:
        found = codec.parse(text.encode())
    except ValueError as e:
        raise InvalidArgument(f"invalid outputs specified: {e}") from None
    if found is not None and not isinstance(found, list):
        words = f"cannot unmarshal {codec.kind(found)} into Go value of type []build.ImageBuildOutput"
        raise InvalidArgument(f"invalid outputs specified: json: {words}")
    outputs = []
    for index, item in enumerate(found or []):
        lowered = {str(key).lower(): value for key, value in item.items()} if isinstance(item, dict) else {}
        outputs.append(Output(type=lowered.get("type") or "image", attrs=lowered.get("attrs") or {}, exporter=index))
    heard = query(request, "session") or query(request, "version") == "2"
    return tuple(outputs) if outputs and heard else (Output(type="image"),)


def _platforms(request: web.Request) -> tuple[Platform, ...]:
    text = older.parameter(query(request, "platform"), version(request), (1, 32))
    several = text.split(",") if query(request, "version") == "2" else [text]
    return tuple(dict.fromkeys(platforms.parse(name.strip()) for name in several if name))


def _tags(request: web.Request) -> tuple[str, ...]:
    """The names for the image, normalised, each once. Raises: Internal, as the reference."""
    names: dict[str, None] = {}
    for text in request.query.getall("t", []):
        if not text:
            continue
        try:
            parsed = reference.parse(text)
        except InvalidArgument as e:
            raise Internal(e.message) from None
        if parsed.digest:
            raise Internal("build tag cannot contain a digest")
        names[str(parsed.tagged())] = None
    return tuple(names)


def _hosts(request: web.Request) -> tuple[tuple[str, str], ...]:
    """`extrahosts`: NAME:ADDRESS, repeated, or a JSON list of them."""
    found: list[str] = []
    for text in request.query.getall("extrahosts", []):
        try:
            parsed = codec.parse(text.encode())
        except ValueError:
            parsed = text
        found += [str(item) for item in parsed] if isinstance(parsed, list) else [text]
    return tuple((name, address) for name, _, address in (item.partition(":") for item in found) if address)


def _limits(request: web.Request) -> Limits:
    ulimits: list[Ulimit] = []
    found = _parsed(request, "ulimits", "ulimit settings")
    for item in found if isinstance(found, list) else []:
        ulimits.append(codec.decode(Ulimit, codec.encode(item)))
    return Limits(
        memory_bytes=_lenient(request, "memory"),
        memory_swap_bytes=_lenient(request, "memswap"),
        cpu_shares=_lenient(request, "cpushares"),
        cpu_period_us=_lenient(request, "cpuperiod"),
        cpu_quota_us=_lenient(request, "cpuquota"),
        cpuset_cpus=query(request, "cpusetcpus"),
        cpuset_mems=query(request, "cpusetmems"),
        shm_size_bytes=integer(request, "shmsize"),
        ulimits=tuple((u.name, u.soft, u.hard) for u in ulimits),
        cgroup_parent=query(request, "cgroupparent"),
    )


def _lenient(request: web.Request, name: str) -> int:
    """A number; what is none counts as 0, as in the reference."""
    try:
        return int(query(request, name) or 0)
    except ValueError:
        return 0


def _credentials(request: web.Request) -> dict[str, Credentials]:
    """X-Registry-Config: base64url of {host: AuthConfig}; what cannot be read counts as none."""
    text = request.headers.get("X-Registry-Config", "")
    try:
        raw = codec.parse(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_"))
    except (binascii.Error, ValueError):
        return {}
    found: dict[str, Credentials] = {}
    for host, item in raw.items() if isinstance(raw, dict) else ():
        try:
            config = codec.decode(AuthConfig, codec.encode(item))
        except InvalidArgument:
            continue
        found[str(host)] = Credentials(
            username=config.username,
            password=config.password,
            identity_token=config.identitytoken,
            registry_token=config.registrytoken,
        )
    return found


async def prune(request: web.Request) -> web.StreamResponse:
    """POST /build/prune."""
    given = filters(request)
    try:
        chosen = _prune_filters(accept_filters(given, _PRUNE_FILTERS))
    except InvalidArgument as e:
        raise InvalidArgument(f"failed to prune build cache: {e.message}") from e
    ids, reclaimed = await engine(request).builder.prune(
        chosen,
        all=flag(request, "all"),
        reserved_bytes=_space(request, "reserved-space", (1, 48)) or _space(request, "keep-storage"),
        max_used_bytes=_space(request, "max-used-space", (1, 48)),
        min_free_bytes=_space(request, "min-free-space", (1, 48)),
    )
    return json_response({"CachesDeleted": ids or None, "SpaceReclaimed": reclaimed})


def _prune_filters(given: Filters) -> dict[str, list[str]]:
    """Return the filters as the cache takes them: one value each, times as an age. Raises: InvalidArgument."""
    chosen: dict[str, list[str]] = {}
    for name, values in given.items():
        if name in _PRUNE_LABELS:
            chosen[name] = sorted(values)
            continue
        if len(values) > 1:
            raise InvalidArgument("filters expect only one value")
        for value in values:
            if name in _PRUNE_TIMES:
                now_ns = time.time_ns()
                try:
                    value = f"{max(now_ns - times.moment(value, now_ns), 0)}ns"
                except ValueError as e:
                    words = f"\"{name}\" filter expects a duration (e.g., '24h') or a timestamp: {e}"
                    raise InvalidArgument(words) from None
            elif not value:
                term = f"[{name}{'~=' if name == 'id' else '=='}]"
                words = f"filters: parse error: {term}: expected value or quoted: invalid argument"
                raise InvalidArgument(f"failed to parse prune filters {term}: {words}")
            chosen[name] = [value]
        chosen.setdefault(name, [])
    return chosen


async def cancel(request: web.Request) -> web.StreamResponse:
    """POST /build/cancel."""
    id = query(request, "id")
    if not id:
        raise InvalidArgument("build ID not provided")
    engine(request).builder.cancel(id)
    return web.Response(status=200)


def _space(request: web.Request, name: str, since: versions.Version = versions.OLDEST) -> int:
    text = older.parameter(query(request, name), version(request), since)
    try:
        return parse_integer(text, call="Atoi", error=InvalidArgument) if text else 0
    except InvalidArgument as e:
        raise InvalidArgument(f"{name} is in bytes and expects an integer, got {text}: {e.message}") from None


async def cache_mounts(request: web.Request) -> web.StreamResponse:
    """GET /build/cache-mounts: what there is of `RUN --mount=type=cache`, by the names that Dockerfiles give."""
    return json_response([{"ID": name} for name in _mounts(request).named()])


async def cache_mount_get(request: web.Request) -> web.StreamResponse:
    """GET /build/cache-mounts/archive?id=…: its files as a tar archive."""
    chunks = _mounts(request).export(query(request, "id"))
    return await streams.raw(request, chunks, content_type="application/x-tar")


async def cache_mount_put(request: web.Request) -> web.StreamResponse:
    """PUT /build/cache-mounts/archive?id=…: give it the files of an archive, in the place of what it had."""
    await _mounts(request).import_(query(request, "id"), streams.upload(request))
    return web.Response(status=204)


def _mounts(request: web.Request) -> CacheMounts:
    return engine(request).builder.solver.cache.mounts
