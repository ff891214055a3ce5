"""The one table of routes: method, path, handler.

`{name}` matches anything, slashes included, as in moby; the first row that matches wins, so the order within a noun
matters. Handlers are named by `module.function` below `sampan.api.handlers` and imported when the server starts, those
of the builder (`LATE`) when they are first asked for. Rows marked `DETACHED` change something: they run to their end
even when the client hangs up.

Source: moby 28.5 api/server/router; Engine API 1.51.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from aiohttp import web

from sampan.errors import NotImplemented_

Handler = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]
DETACHED = True
LATE = frozenset({"build", "grpc"})
"""Modules that bring the builder along, which an engine that never builds does without (engine/engine.py)."""

TABLE: tuple[tuple[str, str, str] | tuple[str, str, str, bool], ...] = (
    # system
    ("GET", "/_ping", "system.ping"),
    ("HEAD", "/_ping", "system.ping"),
    ("GET", "/version", "system.version_info"),
    ("GET", "/info", "system.info"),
    ("GET", "/events", "system.events"),
    ("GET", "/system/df", "system.disk_usage"),
    ("POST", "/system/fsck", "system.fsck", DETACHED),  # ours, not Docker's
    ("POST", "/auth", "system.auth"),
    ("GET", "/distribution/{name}/json", "images.distribution"),
    ("POST", "/grpc", "grpc.serve"),
    ("POST", "/session", "grpc.session"),
    # containers
    ("HEAD", "/containers/{id}/archive", "containers.archive_stat"),
    ("GET", "/containers/json", "containers.list_"),
    ("GET", "/containers/{id}/export", "containers.export"),
    ("GET", "/containers/{id}/changes", "containers.changes"),
    ("GET", "/containers/{id}/json", "containers.inspect"),
    ("GET", "/containers/{id}/top", "containers.top"),
    ("GET", "/containers/{id}/logs", "containers.logs"),
    ("GET", "/containers/{id}/stats", "containers.stats"),
    ("GET", "/containers/{id}/attach/ws", "containers.attach_ws"),
    ("GET", "/exec/{id}/json", "exec.inspect"),
    ("GET", "/containers/{id}/archive", "containers.archive_get"),
    ("POST", "/containers/create", "containers.create", DETACHED),
    ("POST", "/containers/{id}/kill", "containers.kill", DETACHED),
    ("POST", "/containers/{id}/pause", "containers.pause", DETACHED),
    ("POST", "/containers/{id}/unpause", "containers.unpause", DETACHED),
    ("POST", "/containers/{id}/restart", "containers.restart", DETACHED),
    ("POST", "/containers/{id}/start", "containers.start", DETACHED),
    ("POST", "/containers/{id}/stop", "containers.stop", DETACHED),
    ("POST", "/containers/{id}/wait", "containers.wait"),
    ("POST", "/containers/{id}/resize", "containers.resize", DETACHED),
    ("POST", "/containers/{id}/attach", "containers.attach"),
    ("POST", "/containers/{id}/exec", "exec.create", DETACHED),
    ("POST", "/exec/{id}/start", "exec.start"),
    ("POST", "/exec/{id}/resize", "exec.resize", DETACHED),
    ("POST", "/containers/{id}/rename", "containers.rename", DETACHED),
    ("POST", "/containers/{id}/update", "containers.update", DETACHED),
    ("POST", "/containers/prune", "containers.prune", DETACHED),
    ("POST", "/commit", "containers.commit", DETACHED),
    ("PUT", "/containers/{id}/archive", "containers.archive_put"),
    ("DELETE", "/containers/{id}", "containers.remove", DETACHED),
    # images
    ("GET", "/images/json", "images.list_"),
    ("GET", "/images/search", "images.search"),
    ("GET", "/images/get", "images.save"),
    ("GET", "/images/{name}/get", "images.save"),
    ("GET", "/images/{name}/history", "images.history"),
    ("GET", "/images/{name}/json", "images.inspect"),
    ("POST", "/images/load", "images.load"),
    ("POST", "/images/create", "images.create"),
    ("POST", "/images/{name}/push", "images.push"),
    ("POST", "/images/{name}/tag", "images.tag", DETACHED),
    ("POST", "/images/prune", "images.prune", DETACHED),
    ("DELETE", "/images/{name}", "images.remove", DETACHED),
    # builds
    ("POST", "/build", "build.build"),
    ("POST", "/build/prune", "build.prune", DETACHED),
    ("POST", "/build/cancel", "build.cancel"),
    ("GET", "/build/cache-mounts", "build.cache_mounts"),  # these three are ours
    ("GET", "/build/cache-mounts/archive", "build.cache_mount_get"),
    ("PUT", "/build/cache-mounts/archive", "build.cache_mount_put"),
    # networks
    ("GET", "/networks", "networks.list_"),
    ("GET", "/networks/", "networks.list_"),
    ("GET", "/networks/{id}", "networks.inspect"),
    ("POST", "/networks/create", "networks.create", DETACHED),
    ("POST", "/networks/{id}/connect", "networks.connect", DETACHED),
    ("POST", "/networks/{id}/disconnect", "networks.disconnect", DETACHED),
    ("POST", "/networks/prune", "networks.prune", DETACHED),
    ("DELETE", "/networks/{id}", "networks.remove", DETACHED),
    # volumes
    ("GET", "/volumes", "volumes.list_"),
    ("GET", "/volumes/{name}", "volumes.inspect"),
    ("POST", "/volumes/create", "volumes.create", DETACHED),
    ("POST", "/volumes/prune", "volumes.prune", DETACHED),
    ("PUT", "/volumes/{name}", "volumes.update"),
    ("DELETE", "/volumes/{name}", "volumes.remove", DETACHED),
    # plugins
    ("GET", "/plugins", "plugins.list_"),
    ("GET", "/plugins/{name}/json", "plugins.absent"),
    ("GET", "/plugins/privileges", "plugins.absent"),
    ("DELETE", "/plugins/{name}", "plugins.absent"),
    ("POST", "/plugins/{name}/enable", "plugins.enable"),
    ("POST", "/plugins/{name}/disable", "plugins.absent"),
    # the cluster, of which no node is a member yet
    *(
        (method, path, "cluster.not_a_manager")
        for noun in ("services", "nodes", "tasks", "secrets", "configs")
        for method, path in (
            ("GET", f"/{noun}"),
            ("GET", f"/{noun}/{{id}}"),
            ("POST", f"/{noun}/create"),
            ("POST", f"/{noun}/{{id}}/update"),
            ("DELETE", f"/{noun}/{{id}}"),
        )
    ),
    ("GET", "/swarm", "cluster.not_a_manager"),
    ("GET", "/swarm/unlockkey", "cluster.not_a_manager"),
    ("POST", "/swarm/update", "cluster.not_a_manager"),
    ("POST", "/swarm/leave", "cluster.leave"),
    ("POST", "/swarm/unlock", "cluster.unlock"),
)


class Route(NamedTuple):
    path: str
    handler: Handler
    detached: bool


class Router:
    """The table with its handlers: rows by method and first path segment."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[Route]] = {}
        for method, path, name, *detached in TABLE:
            handler = late(name) if name.split(".")[0] in LATE else load(name)
            route = Route(path, handler, bool(detached))
            self._rows.setdefault((method, path.split("/", 2)[1]), []).append(route)

    def match(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """Return the first row that matches, with the names it captured."""
        end = path.find("/", 1)
        for route in self._rows.get((method, path[1:] if end < 0 else path[1:end]), ()):
            found = _pattern(route.path).fullmatch(path)
            if found:
                return route, found.groupdict()
        return None


@functools.cache
def _pattern(path: str) -> re.Pattern[str]:
    """Return a row's path as a regular expression, made when it is first compared, as a hundred of them take 8 ms."""
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>.*)", path.replace(".", r"\.")), re.DOTALL)


def load(name: str) -> Handler:
    """Import a handler by its dotted name. One that does not exist yet answers 501 and says so."""
    module, _, function = name.rpartition(".")
    try:
        found: Handler = getattr(importlib.import_module(f"sampan.api.handlers.{module}"), function)
        return found
    except (ModuleNotFoundError, AttributeError) as e:
        reason = str(e)

    async def missing(request: web.Request) -> web.StreamResponse:
        raise NotImplemented_(f"{request.method} {request.path} is not implemented ({reason})")

    return missing


def late(name: str) -> Handler:
    """Return a handler that is imported by its first request."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await load(name)(request)

    return handler
