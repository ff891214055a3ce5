"""Containers over HTTP: query and body to a call of the container service, its answer to JSON or a stream.

Parses and refuses as moby's router does, in its order; decides nothing about containers.

Source: Engine API 1.51, tag Container; moby 28.5 api/server/router/container.
"""

from __future__ import annotations

import base64

import msgspec
from aiohttp import web

from sampan.api import errors, older, streams
from sampan.api.context import (
    accept_filters,
    body,
    empty,
    engine,
    filters,
    flag,
    integer,
    json_response,
    parse_integer,
    query,
    version,
    whole,
)
from sampan.api.hijack import Hijacked, hijack
from sampan.api.websocket import serve_websocket
from sampan.engine.background import until_first
from sampan.engine.containers.attach import AttachSession, parse_detach_keys
from sampan.engine.containers.attaching import AttachOptions
from sampan.errors import InvalidArgument
from sampan.spec import codec, go_values
from sampan.spec.engine_api.container import ContainerConfig, CreateRequest, UpdateConfig

_TAR = "application/x-tar"
MAX_IGNORED_BYTES = 7
_PRUNE_FILTERS = frozenset({"label", "label!", "until"})


def _ref(request: web.Request) -> str:
    return request.match_info["id"]


# --- the list, and one container -------------------------------------------------------------------------------------


async def list_(request: web.Request) -> web.StreamResponse:
    """List containers; only running ones unless `all`, a limit or a status filter says otherwise."""
    found = await engine(request).containers.list(
        all=flag(request, "all"),
        limit=integer(request, "limit", call="Atoi"),
        size=flag(request, "size"),
        filters=filters(request),
        version=version(request),
    )
    return json_response(found)


async def create(request: web.Request) -> web.StreamResponse:
    """Create a container."""
    asked = older.create(await body(request, CreateRequest), version(request))
    id, warnings = await engine(request).containers.create(
        query(request, "name"),
        asked.config,
        asked.host_config,
        asked.networking_config,
        platform=older.platform(query(request, "platform"), version(request)),
        version=version(request),
    )
    return json_response({"Id": id, "Warnings": warnings or []}, status=201)


async def inspect(request: web.Request) -> web.StreamResponse:
    """Describe a container."""
    found = await engine(request).containers.inspect(
        _ref(request), size=flag(request, "size"), version=version(request)
    )
    return json_response(older.container(found, version(request)))


async def top(request: web.Request) -> web.StreamResponse:
    """List the processes of a container."""
    return json_response(await engine(request).containers.top(_ref(request), query(request, "ps_args")))


async def changes(request: web.Request) -> web.StreamResponse:
    """List what the container has changed in its filesystem."""
    return json_response(await engine(request).containers.changes(_ref(request)))


async def stats(request: web.Request) -> web.StreamResponse:
    """Send resource usage: once a second, or once."""
    stream = flag(request, "stream", True)
    one_shot = flag(request, "one-shot") and version(request) >= (1, 41)
    engine(request).containers.get(_ref(request))
    if stream and one_shot:
        raise InvalidArgument("cannot have stream=true and one-shot=true")
    samples = engine(request).containers.stats(_ref(request), stream=stream, one_shot=one_shot)
    if not stream:
        return json_response(await anext(aiter(samples)))
    return await streams.raw(
        request, (codec.encode(sample) async for sample in samples), content_type="application/json"
    )


# --- life ------------------------------------------------------------------------------------------------------------


def _stop_options(request: web.Request) -> tuple[str, int | None]:
    """Read `signal` and `t` of stop and restart; t absent is None (the container's own), negative waits for ever."""
    text = query(request, "t")
    return query(request, "signal"), parse_integer(text, call="Atoi") if text else None


async def start(request: web.Request) -> web.StreamResponse:
    """Start a container; one that runs already is 304."""
    length = request.content_length  # a few bytes that nobody reads are let pass, as by Docker
    if (length is None or length > MAX_IGNORED_BYTES) and request.body_exists and await whole(request):
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    engine(request).containers.get(_ref(request))
    detach_keys(query(request, "detachKeys"))  # of no use where nothing is attached, yet never wrong in silence
    return empty(204 if await engine(request).containers.start(_ref(request)) else 304)


async def stop(request: web.Request) -> web.StreamResponse:
    """Stop a container; one that does not run is 304."""
    signal, timeout_s = _stop_options(request)
    stopped = await engine(request).containers.stop(_ref(request), signal=signal, timeout_s=timeout_s)
    return empty(204 if stopped else 304)


async def restart(request: web.Request) -> web.StreamResponse:
    """Stop and start a container."""
    signal, timeout_s = _stop_options(request)
    await engine(request).containers.restart(_ref(request), signal=signal, timeout_s=timeout_s)
    return empty(204)


async def kill(request: web.Request) -> web.StreamResponse:
    """Send a signal to the container's first process."""
    await engine(request).containers.kill(_ref(request), query(request, "signal"))
    return empty(204)


async def pause(request: web.Request) -> web.StreamResponse:
    """Freeze every process of a container."""
    await engine(request).containers.pause(_ref(request))
    return empty(204)


async def unpause(request: web.Request) -> web.StreamResponse:
    """Let a frozen container go on."""
    await engine(request).containers.unpause(_ref(request))
    return empty(204)


async def wait(request: web.Request) -> web.StreamResponse:
    """Wait for an exit. The header goes out as soon as the wait is registered: `docker run` starts after seeing it."""
    condition = older.wait_condition(query(request, "condition"), version(request))
    ended = engine(request).containers.wait(_ref(request), condition)
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    try:
        await response.prepare(request)
        status, error = await ended
    finally:
        ended.cancel()
    answer: dict[str, object] = {"StatusCode": status}
    if error:
        answer["Error"] = {"Message": error}
    await response.write(codec.encode(answer))
    await response.write_eof()
    return response


async def rename(request: web.Request) -> web.StreamResponse:
    """Give a container another name."""
    await engine(request).containers.rename(_ref(request), query(request, "name"))
    return empty(204)


async def update(request: web.Request) -> web.StreamResponse:
    """Change limits and restart policy of a container."""
    asked = older.update(await body(request, UpdateConfig, optional=True), version(request))
    warnings = await engine(request).containers.update(_ref(request), asked)
    return json_response({"Warnings": warnings})


async def remove(request: web.Request) -> web.StreamResponse:
    """Remove a container."""
    await engine(request).containers.remove(
        _ref(request), force=flag(request, "force"), volumes=flag(request, "v"), link=flag(request, "link")
    )
    return empty(204)


async def prune(request: web.Request) -> web.StreamResponse:
    """Remove all stopped containers."""
    chosen = accept_filters(filters(request), _PRUNE_FILTERS)
    return json_response(await engine(request).containers.prune(chosen))


async def commit(request: web.Request) -> web.StreamResponse:
    """Make an image of a container; an empty body means: the container's own configuration."""
    blank = (await whole(request)).isspace()  # which elsewhere is no JSON
    asked = CreateRequest() if blank else await body(request, CreateRequest, optional=True)
    config = asked.config or ContainerConfig()
    if not query(request, "container"):
        raise InvalidArgument('invalid name or ID supplied: ""')
    id = await engine(request).containers.commit(
        query(request, "container"),
        None if config == ContainerConfig() else config,
        repo=query(request, "repo"),
        tag=query(request, "tag"),
        comment=query(request, "comment"),
        author=query(request, "author"),
        pause=flag(request, "pause", True),
        changes=request.query.getall("changes", []),
    )
    return json_response({"Id": id}, status=201)


# --- terminal and streams --------------------------------------------------------------------------------------------


def terminal_size(request: web.Request) -> tuple[int, int]:
    """Read `h` and `w`, 32 bits unsigned each. Raises InvalidArgument in Docker's words."""
    found = []
    for name, words in (("h", "height"), ("w", "width")):
        text = query(request, name)
        try:
            found.append(go_values.unsigned(text, bits=32))
        except ValueError as e:
            below = text[:1] == "-" and go_values.is_digits(text[1:])
            reason = "value out of range" if below else str(e).rpartition(": ")[2]
            raise InvalidArgument(f"invalid resize {words} {go_values.quote(text)}: {reason}") from None
    return found[0], found[1]


async def resize(request: web.Request) -> web.StreamResponse:
    """Tell the container's terminal its size."""
    height, width = terminal_size(request)
    await engine(request).containers.resize(_ref(request), height, width)
    return empty(200)


async def logs(request: web.Request) -> web.StreamResponse:
    """Send the container's log: raw for a terminal, else in frames that say which stream each piece is of."""
    follow = flag(request, "follow")
    found = await engine(request).containers.logs(
        _ref(request),
        stdout=flag(request, "stdout"),
        stderr=flag(request, "stderr"),
        since=query(request, "since"),
        until=query(request, "until"),
        timestamps=flag(request, "timestamps"),
        tail=query(request, "tail"),
        follow=follow,
        details=flag(request, "details"),
    )
    return await streams.raw(request, found.chunks, content_type=stream_type(request, found.tty), eager=follow)


def stream_type(request: web.Request, tty: bool) -> str:
    """Name the content type of a log or an upgraded attach: framed ones are told apart since 1.42."""
    return streams.MULTIPLEXED_STREAM if not tty and version(request) >= (1, 42) else streams.RAW_STREAM


def detach_keys(text: str) -> bytes:
    """Read the keys that leave a session. Raises: InvalidArgument in Docker's words."""
    try:
        return parse_detach_keys(text)
    except InvalidArgument:
        raise InvalidArgument(f"Invalid detach keys ({text}) provided") from None


def attach_options(request: web.Request) -> AttachOptions:
    """Read the query of attach, over a plain connection or a websocket. Raises: InvalidArgument."""
    return AttachOptions(
        stream=flag(request, "stream"),
        stdin=flag(request, "stdin"),
        stdout=flag(request, "stdout"),
        stderr=flag(request, "stderr"),
        logs=flag(request, "logs"),
        detach_keys=detach_keys(query(request, "detachKeys")),
    )


async def attach(request: web.Request) -> web.StreamResponse:
    """Join the container's terminal or pipes to this connection.

    Docker takes the connection over before it looks for the container, so even its refusals are plain text.
    """
    try:
        session = await engine(request).containers.attach(_ref(request), attach_options(request))
    except Exception as e:
        return streams.plain_error(errors.status_of(e), errors.message_of(e))
    return await join(request, session)


async def join(request: web.Request, session: AttachSession) -> web.StreamResponse:
    """Take the connection over and run the session on it; a connection that cannot be taken over gives it up."""
    try:
        taken = await hijack(request, upgrade_content_type=stream_type(request, session.tty))
    except BaseException:
        await session.close()
        raise
    await until_first(session.run(taken.reader, taken.writer), taken.gone())
    await taken.end()
    return Hijacked()


async def attach_ws(request: web.Request) -> web.StreamResponse:
    """Join the container's terminal or pipes to a websocket: raw bytes, nothing framed."""
    containers, options = engine(request).containers, attach_options(request)
    containers.get(_ref(request))
    if "websocket" not in request.headers.get("Upgrade", "").lower():
        return streams.plain_error(400, "not websocket protocol")
    session = await containers.attach(_ref(request), options)
    return await serve_websocket(request, session)


# --- files -----------------------------------------------------------------------------------------------------------


def _path(request: web.Request) -> str:
    path = query(request, "path")
    if not path:
        raise InvalidArgument("bad parameter: pathcannot be empty")
    return path


def _stat_header(stat: dict[str, object]) -> dict[str, str]:
    return {"X-Docker-Container-Path-Stat": base64.b64encode(msgspec.json.encode(stat)).decode()}


async def archive_stat(request: web.Request) -> web.StreamResponse:
    """Describe a file of the container, in a header."""
    stat = await engine(request).containers.archive_stat(_ref(request), _path(request))
    return web.Response(headers=_stat_header(stat))


async def archive_get(request: web.Request) -> web.StreamResponse:
    """Send a file or directory of the container as a tar archive."""
    stat, chunks = await engine(request).containers.archive_get(_ref(request), _path(request))
    return await streams.raw(request, chunks, content_type=_TAR, headers=_stat_header(stat))


async def archive_put(request: web.Request) -> web.StreamResponse:
    """Unpack a tar archive into a directory of the container."""
    await engine(request).containers.archive_put(
        _ref(request),
        _path(request),
        streams.upload(request),
        no_overwrite_dir_non_dir=flag(request, "noOverwriteDirNonDir"),
        copy_uid_gid=flag(request, "copyUIDGID"),
    )
    return empty(200)


async def export(request: web.Request) -> web.StreamResponse:
    """Send the container's whole filesystem as a tar archive."""
    chunks = await engine(request).containers.export(_ref(request))
    return await streams.raw(request, chunks, content_type="application/octet-stream")
