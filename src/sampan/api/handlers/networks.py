"""Networks over HTTP.

Source: Engine API 1.51, tag Network; moby 28.5 api/server/router/network.
"""

from __future__ import annotations

from aiohttp import web

from sampan.api.context import accept_filters, body, empty, engine, filters, json_response, query
from sampan.engine.containers.records import Container
from sampan.engine.networks import filters as network_filters
from sampan.errors import Internal, InvalidArgument, NotFound
from sampan.spec import codec
from sampan.spec.engine_api.network import EndpointSettings, NetworkConnect, NetworkCreateRequest, NetworkDisconnect


async def list_(request: web.Request) -> web.StreamResponse:
    """List networks."""
    chosen = accept_filters(filters(request), network_filters.LIST)
    return json_response(engine(request).networks.list(chosen))


async def inspect(request: web.Request) -> web.StreamResponse:
    """Describe a network and the containers on it."""
    shown = engine(request).networks.inspect(request.match_info["id"], scope=query(request, "scope"))
    return json_response(shown)


async def create(request: web.Request) -> web.StreamResponse:
    """Create a network."""
    network = await engine(request).networks.create(await body(request, NetworkCreateRequest))
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
    asked = await body(request, NetworkConnect)
    networks = engine(request).networks
    network = networks.find(request.match_info["id"])
    container = _container(request, asked.container)
    mode = container.host_config.network_mode
    if mode == "host" or mode.startswith("container:"):
        raise InvalidArgument(
            "container sharing network namespace with another container or host cannot be connected to any other network"
        )
    if network.name == "host":
        raise InvalidArgument(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if mode == "none" or network.name == "none":
        raise InvalidArgument(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )
    settings = asked.endpoint_config or EndpointSettings()
    await networks.connect(network.id, container.id, _pid(container), codec.to_json(settings))
    await engine(request).containers.set_endpoint(container.id, network.name, settings)
    return empty(200)


async def disconnect(request: web.Request) -> web.StreamResponse:
    """Disconnect a container from a network."""
    asked = await body(request, NetworkDisconnect)
    networks = engine(request).networks
    network = networks.find(request.match_info["id"])
    try:
        container = _container(request, asked.container)
    except NotFound:
        if asked.force:
            raise NotFound(f"endpoint {asked.container} not found") from None
        raise
    if network.name == "host" and container.host_config.network_mode == "host":
        raise InvalidArgument(
            "cannot disconnect container from host network - container was created in host network mode"
        )
    pid = _pid(container)
    was = await networks.disconnect(network.id, container.id, pid)
    if pid and not was:
        raise Internal(f"container {container.id} is not connected to network {network.name}")
    if not pid and network.name not in container.endpoints:
        raise Internal(f"container {container.id} is not connected to the network {network.name}")
    await engine(request).containers.set_endpoint(container.id, network.name, None)
    return empty(200)


def _container(request: web.Request, ref: str) -> Container:
    if not ref:
        raise InvalidArgument('invalid name or ID supplied: ""')
    return engine(request).containers.get(ref)


def _pid(container: Container) -> int | None:
    """The process of a container that runs."""
    return container.status.pid if container.active and container.status.pid else None
