"""/images/*: from query parameters to the image service, and back in the shape of the client's API version.

Source: Engine API 1.51 "Image"; the changes between versions in the API's version history.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from aiohttp import web

from sampan.api import errors, older, streams
from sampan.api.context import accept_filters, engine, filters, flag, json_response, query, version
from sampan.api.registry_auth import registry_auth
from sampan.engine.images import pull, remote, views
from sampan.engine.images import push as push_
from sampan.engine.images.views import modern_config
from sampan.engine.platforms import Platform
from sampan.errors import InvalidArgument, SampanError
from sampan.spec import codec, go_values
from sampan.spec.engine_api.wire import Wire

_NONE = "<none>"
_READ = 256 * 1024


class PlatformParameter(Wire, rename="lower"):
    """What `platform` and `platforms` parameters hold, as JSON."""

    GO: ClassVar[str] = "v1.Platform"
    os: str = ""
    architecture: str = ""
    variant: str = ""


def _platforms(request: web.Request, name: str = "platform", *, since: tuple[int, int]) -> list[Platform]:
    """The platforms that a request names. Raises: InvalidArgument in Docker's words."""
    found = []
    for text in request.query.getall(name, []) if version(request) >= since else []:
        try:
            given = codec.convert(PlatformParameter, codec.parse(text.encode()))
        except ValueError as e:
            words = str(e).replace("unexpected EOF", "unexpected end of JSON input")
            raise InvalidArgument(f"failed to parse platform: {words}") from e
        if not given.os or not given.architecture:
            raise InvalidArgument("both OS and Architecture must be provided")
        found.append(Platform(given.os, given.architecture, given.variant))
    return found


def _platform(request: web.Request, *, since: tuple[int, int]) -> Platform | None:
    """The one platform that a request may name; an empty parameter names none."""
    if not query(request, "platform") and len(request.query.getall("platform", [])) < 2:
        return None
    found = _platforms(request, since=since)
    if len(found) > 1:
        raise InvalidArgument("multiple platform parameters not supported")
    return found[0] if found else None


async def list_(request: web.Request) -> web.StreamResponse:
    """GET /images/json."""
    chosen: dict[str, set[str]] = dict(accept_filters(filters(request), views.LIST_FILTERS))
    if version(request) < (1, 41) and (name := query(request, "filter")):
        chosen["reference"] = {*chosen.get("reference", ()), name}
    shared = flag(request, "shared-size") and version(request) >= (1, 42)
    images = await engine(request).images.list(
        chosen,
        all=flag(request, "all"),
        shared_size=shared,
        manifests=flag(request, "manifests") and version(request) >= (1, 47),
    )
    return json_response([_summary(image, version(request)) for image in images])


def _summary(image: dict[str, Any], api: tuple[int, int]) -> dict[str, Any]:
    """A list entry in the words of an API version."""
    if api < (1, 43):
        if not image["RepoTags"] and not image["RepoDigests"]:
            image["RepoTags"], image["RepoDigests"] = [f"{_NONE}:{_NONE}"], [f"{_NONE}@{_NONE}"]
    else:
        image["RepoTags"] = image["RepoTags"] or []
        image["RepoDigests"] = image["RepoDigests"] or []
    if api < (1, 44):
        image["VirtualSize"] = image["Size"]
    if api < (1, 51):
        image["Containers"] = -1
    return image


async def inspect(request: web.Request) -> web.StreamResponse:
    """GET /images/{name}/json."""
    platform = _platform(request, since=(1, 49))
    if platform and flag(request, "manifests"):
        raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
    service = engine(request).images
    api = version(request)
    manifests = flag(request, "manifests") and api >= (1, 48)
    image = await service.inspect(request.match_info["name"], platform, manifests=manifests)
    gone: dict[str, dict[str, Any]] = {}  # fields that went away, by the field they stood behind
    if api < (1, 45):
        config = service.resolve(image["Id"]).config
        container = {"Container": config["container"]} if config.get("container") else {}
        gone["Created"] = {**container, "ContainerConfig": config.get("container_config") or {}}
    if api < (1, 44):
        gone["Size"] = {"VirtualSize": image["Size"]}
    if api >= (1, 50):
        image["Config"] = modern_config(image["Config"])
    else:
        image["Config"] = dict(sorted(image["Config"].items()))
    shown: dict[str, Any] = {}
    for key, value in image.items():
        shown[key] = value
        shown.update(gone.get(key, {}))
    return json_response(shown)


async def history(request: web.Request) -> web.StreamResponse:
    """GET /images/{name}/history."""
    images, name = engine(request).images, request.match_info["name"]
    return json_response(await images.history(name, _platform(request, since=(1, 48))))


async def tag(request: web.Request) -> web.StreamResponse:
    """POST /images/{name}/tag."""
    await engine(request).images.tag(request.match_info["name"], query(request, "repo"), query(request, "tag"))
    return web.Response(status=201)


async def remove(request: web.Request) -> web.StreamResponse:
    """DELETE /images/{name}."""
    name = request.match_info["name"]
    if not name.strip():
        raise InvalidArgument("image name cannot be blank")
    images = engine(request).images
    records = await images.remove(
        name,
        force=flag(request, "force"),
        noprune=flag(request, "noprune"),
        running=engine(request).containers.running(),
        wanted=_platforms(request, "platforms", since=(1, 50)),
    )
    return json_response(records)


async def prune(request: web.Request) -> web.StreamResponse:
    """POST /images/prune."""
    chosen = accept_filters(filters(request), views.PRUNE_FILTERS)
    return json_response(await engine(request).images.prune(chosen, running=engine(request).containers.running()))


async def save(request: web.Request) -> web.StreamResponse:
    """GET /images/get?names= and /images/{name}/get."""
    name = request.match_info.get("name")
    names = [name] if name is not None else request.query.getall("names", [])
    platform = _platform(request, since=(1, 48))
    chunks = engine(request).images.transfer.save(names, platform=platform)
    return await streams.raw(request, chunks, content_type="application/x-tar")


async def load(request: web.Request) -> web.StreamResponse:
    """POST /images/load: every failure is a line of the stream, as in Docker."""
    platform = _platform(request, since=(1, 48))
    messages = engine(request).images.transfer.load(
        _body(request), quiet=flag(request, "quiet", True), platform=platform
    )
    return await streams.progress(request, _with_errors(messages))


async def create(request: web.Request) -> web.StreamResponse:
    """POST /images/create: import with fromSrc, pull with fromImage."""
    images = engine(request).images
    source = query(request, "fromSrc")
    platform = older.parameter(query(request, "platform"), version(request), (1, 32))
    if not source:
        wanted = pull.request(
            query(request, "fromImage"),
            query(request, "tag"),
            platform=platform,
            credentials=registry_auth(request),
        )
        return await streams.progress(request, images.transfer.pull(wanted))
    messages = images.transfer.import_(
        _body(request) if source == "-" else None,
        repo=query(request, "repo"),
        tag=query(request, "tag"),
        message=query(request, "message"),
        changes=request.query.getall("changes", []),
        platform=platform,
        source=source,
    )
    return await streams.progress(request, messages)


async def push(request: web.Request) -> web.StreamResponse:
    """POST /images/{name}/push."""
    images = engine(request).images
    platform = _platform(request, since=(1, 46))
    wanted = push_.request(images.catalog, request.match_info["name"], query(request, "tag"), platform)
    return await streams.progress(request, images.transfer.push(wanted, registry_auth(request)))


async def search(request: web.Request) -> web.StreamResponse:
    """GET /images/search."""
    text = query(request, "limit")
    try:
        limit = go_values.integer(text, call="Atoi") if text else 0
    except ValueError as e:
        raise InvalidArgument(f"invalid limit specified: {e}") from None
    chosen = accept_filters(filters(request), remote.SEARCH_FILTERS)
    transfer, term = engine(request).images.transfer, query(request, "term")
    return json_response(await transfer.search(term, limit, registry_auth(request), chosen))


async def distribution(request: web.Request) -> web.StreamResponse:
    """GET /distribution/{name}/json."""
    transfer = engine(request).images.transfer
    return json_response(await transfer.distribution(request.match_info["name"], registry_auth(request)))


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    """The request's body in large pieces."""
    while chunk := await request.content.read(_READ):
        yield chunk


async def _with_errors(messages: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[Mapping[str, Any]]:
    """Turn a failure into a last message, even when it is the first."""
    try:
        async for message in messages:
            yield message
    except (SampanError, OSError) as e:
        words = errors.message_of(e)
        yield {"errorDetail": {"message": words}, "error": words}
