"""The engine as a whole: ping, version, info, disk usage, events, registry login.

Source: Engine API 1.51, tag System; moby 28.5 api/server/router/system.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from sampan.api import older, streams, versions
from sampan.api.context import engine, filters, flag, json_response, query, version, whole
from sampan.engine import hostinfo
from sampan.engine.system import DISK_USAGE_TYPES
from sampan.errors import Internal, InvalidArgument
from sampan.registry.auth import Credentials
from sampan.registry.login import login
from sampan.spec import codec, release, times
from sampan.spec.engine_api.registry import AuthConfig

_PING_HEADERS = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Swarm": "inactive",
    "Content-Type": "text/plain; charset=utf-8",
}


async def ping(request: web.Request) -> web.StreamResponse:
    """Say that the engine answers, and in the headers what it speaks."""
    builder = "2" if engine(request).config.features.get("buildkit", True) else "1"
    headers = {"Builder-Version": builder, **_PING_HEADERS}
    return web.Response(body=b"" if request.method == "HEAD" else b"OK", headers=headers)


async def version_info(request: web.Request) -> web.StreamResponse:
    """Describe the engine's version and its parts."""
    config = engine(request).config
    common = {
        "ApiVersion": versions.MAXIMUM,
        "Arch": hostinfo.go_arch(),
        "BuildTime": release.BUILD_TIME,
        "GitCommit": "",
        "GoVersion": "",
        "KernelVersion": os.uname().release,
        "MinAPIVersion": versions.MINIMUM,
        "Os": "linux",
    }
    details = {**common, "Experimental": "true" if config.experimental else "false"}
    parts = [{"Name": "Engine", "Version": release.ENGINE, "Details": details}]
    for name in ("sampan-supervisor", "sampan-runc"):
        parts.append({"Name": name, "Version": release.SAMPAN, "Details": {"GitCommit": ""}})
    python = ".".join(map(str, sys.version_info[:3]))
    parts.append({"Name": "python", "Version": python, "Details": {"GitCommit": ""}})
    answer: dict[str, Any] = {"Platform": {"Name": "Sampan"}, "Components": parts, "Version": release.ENGINE, **common}
    if config.experimental:
        answer["Experimental"] = True
    return json_response(answer)


async def info(request: web.Request) -> web.StreamResponse:
    """Describe the host, the configuration and what the engine holds right now."""
    return json_response(older.info(await engine(request).system.info(), version(request)))


async def disk_usage(request: web.Request) -> web.StreamResponse:
    """Say what takes space; without a type, all of it."""
    named = request.query.getall("type", []) if version(request) >= (1, 42) else []
    answer = await engine(request).system.disk_usage(frozenset(named) or DISK_USAGE_TYPES)
    return json_response(older.disk_usage(answer, version(request)))


async def fsck(request: web.Request) -> web.StreamResponse:
    """Compare records and data root; with repair=1 take away what nothing needs, with verify=1 read all layers.

    Ours, not Docker's.
    """
    found = await engine(request).disk.fsck(repair=flag(request, "repair"), verify=flag(request, "verify"))
    return json_response({"Findings": found})


def _time(text: str) -> int | None:
    """Read `since` and `until`. Returns nanoseconds; "" is None. Raises: Internal, Docker's status 500."""
    try:
        return times.unix(text) if text else None
    except ValueError as e:
        raise Internal(str(e)) from None


async def events(request: web.Request) -> web.StreamResponse:
    """Stream what happens: from `since` on, until `until`, or until the client hangs up."""
    since, until = query(request, "since"), query(request, "until")
    since_ns, until_ns = _time(since), _time(until)
    if since_ns is not None and until_ns is not None and since_ns > until_ns:
        raise InvalidArgument(f"`since` time ({since}) cannot be after `until` time ({until})")
    subscription = engine(request).events.subscribe(since_ns=since_ns, until_ns=until_ns, filters=filters(request))

    async def lines() -> AsyncIterator[bytes]:
        async with subscription:
            async for event in subscription:
                yield codec.encode(event)

    return await streams.raw(request, lines(), content_type="application/json", eager=True)


async def auth(request: web.Request) -> web.StreamResponse:
    """Try credentials on a registry."""
    raw = await whole(request)
    if not raw:
        raise Internal("EOF")
    try:
        credentials = codec.convert(AuthConfig, codec.parse(raw))
    except ValueError as e:
        raise Internal(str(e)) from None
    registries = engine(request).images.registries
    status, token = await login(
        registries.transport,
        registries.settings,
        credentials.serveraddress,
        Credentials(
            username=credentials.username, password=credentials.password, identity_token=credentials.identitytoken
        ),
    )
    return json_response({"Status": status, "IdentityToken": token})
