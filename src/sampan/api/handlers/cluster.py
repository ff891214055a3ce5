"""The cluster's routes on a node that is in no cluster: the answers Docker gives without `swarm init`.

Source: moby 28.5 daemon/cluster, as the reference engine answers.
"""

from __future__ import annotations

from aiohttp import web

from sampan.errors import Conflict, Unavailable

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
    "to connect this node to swarm and try again."
)


async def not_a_manager(request: web.Request) -> web.StreamResponse:
    """Refuse what only a manager can answer."""
    raise Unavailable(NOT_A_MANAGER)


async def leave(request: web.Request) -> web.StreamResponse:
    """Refuse to leave a cluster that this node is not in."""
    raise Unavailable("This node is not part of a swarm")


async def unlock(request: web.Request) -> web.StreamResponse:
    """Refuse to unlock what is not locked."""
    raise Conflict("swarm is not locked")
