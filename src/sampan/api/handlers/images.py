"""/images/*: from query parameters to the image service, and back in the shape of the client's API version.

Source: Engine API 1.51 "Image"; the changes between versions in the API's version history.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from sampan.api import errors, streams
from sampan.api.context import accept_filters, engine, filters, flag, json_response, query, version
from sampan.engine.images import remote, views
from sampan.engine.images.views import modern_config
from sampan.errors import InvalidArgument, SampanError

_NONE = "<none>"
_READ = 256 * 1024


async def list_(request: web.Request) -> web.StreamResponse:
    """GET /images/json."""
    chosen: dict[str, set[str]] = dict(accept_filters(filters(request), views.LIST_FILTERS))
    if version(request) < (1, 41) and (name := query(request, "filter")):
        chosen["reference"] = {*chosen.get("reference", ()), name}
    shared = flag(request, "shared-size") and version(request) >= (1, 42)
    images = await engine(request).images.list(chosen, all=flag(request, "all"), shared_size=shared)
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
    if flag(request, "manifests") and query(request, "platform"):
        raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
    service = engine(request).images
    image = await service.inspect(request.match_info["name"])
    api = version(request)
    older: dict[str, dict[str, Any]] = {}  # fields that went away, by the field they stood behind
    if api < (1, 45):
        config = service.resolve(image["Id"]).config
        container = {"Container": config["container"]} if config.get("container") else {}
        older["Created"] = {**container, "ContainerConfig": config.get("container_config") or {}}
    if api < (1, 44):
        older["Size"] = {"VirtualSize": image["Size"]}
    if api >= (1, 50):
        image["Config"] = modern_config(image["Config"])
    else:
        image["Config"] = dict(sorted(image["Config"].items()))
    shown: dict[str, Any] = {}
    for key, value in image.items():
        shown[key] = value
        shown.update(older.get(key, {}))
    return json_response(shown)


async def history(request: web.Request) -> web.StreamResponse:
    """GET /images/{name}/history."""
    return json_response(await engine(request).images.history(request.match_info["name"]))


async def tag(request: web.Request) -> web.StreamResponse:
    """POST /images/{name}/tag."""
    repo = query(request, "repo")
    await engine(request).images.tag(request.match_info["name"], repo, query(request, "tag"))
    return web.Response(status=201 if repo else 200)


async def remove(request: web.Request) -> web.StreamResponse:
    """DELETE /images/{name}."""
    name = request.match_info["name"]
    if not name.strip():
        raise InvalidArgument("image name cannot be blank")
    e = engine(request)
    records = await e.images.remove(
        name, force=flag(request, "force"), noprune=flag(request, "noprune"), running=await _running(request)
    )
    return json_response(records)


async def prune(request: web.Request) -> web.StreamResponse:
    """POST /images/prune."""
    chosen = accept_filters(filters(request), views.PRUNE_FILTERS)
    return json_response(await engine(request).images.prune(chosen, running=await _running(request)))


async def _running(request: web.Request) -> frozenset[str]:
    """The ids of the containers that run: their images cannot be removed, not even by force."""
    containers = await engine(request).containers.list(all=False)
    return frozenset(container["Id"] for container in containers)


async def save(request: web.Request) -> web.StreamResponse:
    """GET /images/get?names= and /images/{name}/get."""
    name = request.match_info.get("name")
    names = [name] if name is not None else request.query.getall("names", [])
    chunks = engine(request).images.save(names)
    return await streams.raw(request, chunks, content_type="application/x-tar")


async def load(request: web.Request) -> web.StreamResponse:
    """POST /images/load: every failure is a line of the stream, as in Docker."""
    messages = engine(request).images.load(_body(request), quiet=flag(request, "quiet", True))
    return await streams.progress(request, _with_errors(messages))


async def create(request: web.Request) -> web.StreamResponse:
    """POST /images/create: import with fromSrc, pull with fromImage."""
    images = engine(request).images
    source = query(request, "fromSrc")
    if not source:
        insecure = images.config.insecure_registries
        return await streams.progress(
            request,
            remote.pull(
                query(request, "fromImage"),
                query(request, "tag"),
                platform=query(request, "platform"),
                insecure=insecure,
            ),
        )
    body = _body(request)
    if source != "-":
        source = source if "://" in source else f"http://{source}"
        body = remote.download(source)
    messages = images.import_(
        body,
        repo=query(request, "repo"),
        tag=query(request, "tag"),
        message=query(request, "message"),
        changes=request.query.getall("changes", []),
        platform=query(request, "platform"),
        source=source,
    )
    return await streams.progress(request, messages)


async def push(request: web.Request) -> web.StreamResponse:
    """POST /images/{name}/push."""
    images = engine(request).images
    insecure = images.config.insecure_registries
    messages = remote.push(images.catalog, request.match_info["name"], query(request, "tag"), insecure=insecure)
    return await streams.progress(request, messages)


async def search(request: web.Request) -> web.StreamResponse:
    """GET /images/search."""
    accept_filters(filters(request), remote.SEARCH_FILTERS)
    text = query(request, "limit")
    try:
        limit = int(text) if text else 0
    except ValueError:
        raise InvalidArgument(f'invalid limit specified: strconv.Atoi: parsing "{text}": invalid syntax') from None
    return json_response(await remote.search(query(request, "term"), limit))


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
