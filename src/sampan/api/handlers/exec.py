"""Processes beside a container's first one: create, start with or without streams, resize, inspect.

Source: Engine API 1.51, tag Exec; moby 28.5 api/server/router/container/exec.go.
"""

from __future__ import annotations

from aiohttp import web

from sampan.api.context import body, empty, engine, json_response, version
from sampan.api.handlers.containers import join, terminal_size
from sampan.errors import InvalidArgument
from sampan.spec.engine_api.container import ExecConfig, ExecStartConfig


async def create(request: web.Request) -> web.StreamResponse:
    """Prepare a process; it begins with `start`."""
    asked = await body(request, ExecConfig, optional=True)
    if version(request) < (1, 42):
        asked.console_size = None
    id = await engine(request).containers.exec_create(request.match_info["id"], asked)
    return json_response({"Id": id}, status=201)


async def start(request: web.Request) -> web.StreamResponse:
    """Start the process: detached, or joined to this connection."""
    asked = await body(request, ExecStartConfig, optional=True)
    containers, id = engine(request).containers, request.match_info["id"]
    size = asked.console_size if version(request) >= (1, 42) and asked.console_size != (0, 0) else None
    if size is not None and not asked.tty:
        raise InvalidArgument("console size is only supported when TTY is enabled")
    session = await containers.exec_start(id, detach=asked.detach, tty=asked.tty, console_size=size)
    if session is None:
        return empty(200)
    return await join(request, session)


async def resize(request: web.Request) -> web.StreamResponse:
    """Tell the process's terminal its size."""
    height, width = terminal_size(request)
    await engine(request).containers.exec_resize(request.match_info["id"], height, width)
    return empty(200)


async def inspect(request: web.Request) -> web.StreamResponse:
    """Describe the process: whether it runs, how it ended."""
    return json_response(engine(request).containers.exec_inspect(request.match_info["id"]))
