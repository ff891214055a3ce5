"""Managed plugins: none is installed, and the answers say so as Docker's do.

Source: moby 28.5 plugin/store.go, as the reference engine answers.
"""

from __future__ import annotations

from aiohttp import web

from sampan.api.context import json_response, parse_integer, query
from sampan.errors import NotFound


async def list_(request: web.Request) -> web.StreamResponse:
    """List the installed plugins."""
    return json_response([])


async def absent(request: web.Request) -> web.StreamResponse:
    """Answer for a plugin that does not exist."""
    raise NotFound(f'plugin "{request.match_info.get("name", "")}" not found')


async def enable(request: web.Request) -> web.StreamResponse:
    """Check the timeout first, as Docker does, then say that the plugin does not exist."""
    parse_integer(query(request, "timeout"), call="Atoi")
    return await absent(request)
