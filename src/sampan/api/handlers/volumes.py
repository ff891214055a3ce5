"""Volumes over HTTP.

Source: Engine API 1.51, tag Volume; moby 28.5 api/server/router/volume.
"""

from __future__ import annotations

from aiohttp import web

from sampan.api import older
from sampan.api.context import accept_filters, body, empty, engine, filters, flag, json_response, version
from sampan.api.handlers.cluster import NOT_A_MANAGER
from sampan.engine.volumes.service import LIST_FILTERS, PRUNE_FILTERS
from sampan.errors import InvalidArgument, Unavailable
from sampan.spec.engine_api.volume import VolumeCreate


async def list_(request: web.Request) -> web.StreamResponse:
    """List volumes."""
    volumes = engine(request).volumes
    try:
        given = filters(request)
    except InvalidArgument as e:
        raise InvalidArgument(f"error reading volume filters: {e.message}") from None
    chosen = accept_filters(given, LIST_FILTERS)
    return json_response({"Volumes": [volumes.inspect(v) for v in volumes.list(chosen)], "Warnings": None})


async def create(request: web.Request) -> web.StreamResponse:
    """Create a volume; one that exists is returned as it is."""
    asked = older.volume(await body(request, VolumeCreate, optional=True), version(request))
    volumes = engine(request).volumes
    if asked.cluster_volume_spec is not None:
        raise Unavailable(NOT_A_MANAGER)
    volume = await volumes.get_or_create(
        asked.name, driver=asked.driver, options=asked.driver_opts, labels=asked.labels
    )
    return json_response(volumes.inspect(volume), status=201)


async def inspect(request: web.Request) -> web.StreamResponse:
    """Describe a volume."""
    volumes = engine(request).volumes
    return json_response(await volumes.describe(volumes.lookup(request.match_info["name"])))


async def update(request: web.Request) -> web.StreamResponse:
    """Only cluster volumes can be updated."""
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def remove(request: web.Request) -> web.StreamResponse:
    """Remove a volume."""
    await engine(request).volumes.remove(request.match_info["name"], force=flag(request, "force"))
    return empty(204)


async def prune(request: web.Request) -> web.StreamResponse:
    """Remove unused volumes: anonymous ones, all of them for clients before 1.42 or with all=true."""
    chosen = accept_filters(filters(request), PRUNE_FILTERS)
    names, reclaimed = await engine(request).volumes.prune(chosen, named=version(request) < (1, 42))
    return json_response({"VolumesDeleted": names, "SpaceReclaimed": reclaimed})
