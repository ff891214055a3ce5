"""Networks over HTTP.

Source: Engine API 1.51, tag Network; moby 28.5 api/server/router/network.
"""

from __future__ import annotations

from aiohttp import web

from sampan.api import older
from sampan.api.context import accept_filters, body, empty, engine, filters, json_response, query, version
from sampan.engine.networks import filters as network_filters
from sampan.errors import InvalidArgument
from sampan.spec import go_values
from sampan.spec.engine_api.network import EndpointSettings, NetworkConnect, NetworkCreateRequest, NetworkDisconnect


async def list_(request: web.Request) -> web.StreamResponse:
    """List networks."""
    chosen = accept_filters(filters(request), network_filters.LIST)
    return json_response(engine(request).networks.list(chosen, containers=version(request) < (1, 28)))


async def inspect(request: web.Request) -> web.StreamResponse:
    """Describe a network and the containers on it."""
    verbose = query(request, "verbose")  # more is shown only of what a cluster has
    try:
        go_values.boolean(verbose or "false")
    except ValueError as e:
        raise InvalidArgument(f"invalid value for verbose: {verbose}: {e}") from None
    shown = engine(request).networks.inspect(request.match_info["id"], scope=query(request, "scope"))
    return json_response(shown)


async def create(request: web.Request) -> web.StreamResponse:
    """Create a network."""
    asked = older.network(await body(request, NetworkCreateRequest, optional=True), version(request))
    network = await engine(request).networks.create(asked)
    return json_response({"Id": network.id, "Warning": ""}, status=201)


async def remove(request: web.Request) -> web.StreamResponse:
    """Remove a network."""
    await engine(request).networks.remove(request.match_info["id"])
    return empty(204)


async def prune(request: web.Request) -> web.StreamResponse:
    """Remove networks that no container uses."""
    chosen = accept_filters(filters(request), network_filters.PRUNE)
    return json_response({"NetworksDeleted": await engine(request).networks.prune(chosen)})


async def connect(request: web.Request) -> web.StreamResponse:
    """Connect a container to a network, now if it runs, and at its next start."""
    asked = await body(request, NetworkConnect, optional=True)
    settings = asked.endpoint_config or EndpointSettings()
    await engine(request).containers.connect(asked.container, request.match_info["id"], settings)
    return empty(200)


async def disconnect(request: web.Request) -> web.StreamResponse:
    """Disconnect a container from a network."""
    asked = await body(request, NetworkDisconnect, optional=True)
    await engine(request).containers.disconnect(asked.container, request.match_info["id"], force=asked.force)
    return empty(200)
