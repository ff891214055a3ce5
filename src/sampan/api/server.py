"""The HTTP server: one dispatch function between aiohttp and the handlers of `routes`.

Order of a request: route (404 `page not found` without any of our headers) → API version → handler → error mapping.
Owns the connections and the detached work; knows nothing of what handlers do. Listening sockets come from
`sampan.daemon.sockets`.

Source: moby 28.5 api/server; Engine API 1.51.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from typing import TYPE_CHECKING

from aiohttp import web

from sampan.api import errors, origin, versions
from sampan.api.admission import BODY_BYTES, Admission
from sampan.api.connection import Connection
from sampan.api.context import ENGINE, HEADERS, VERSION, whole
from sampan.api.hijack import Hijacked
from sampan.api.routes import Router
from sampan.api.tls_transport import TlsProtocol
from sampan.engine.background import Background
from sampan.spec import release
from sampan.spec.urls import masked

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

log = logging.getLogger("sampan.api")

MAX_HEAD_BYTES = 256 * 1024
READ_BYTES = 128 * 1024
"""How much of an upload is buffered before the client is made to wait."""
CUT_AFTER_S = 0.5
"""How long streams that never end by themselves may go on when the daemon stops."""
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")


class ApiServer:
    """Serves the Engine API of one engine on any number of sockets."""

    def __init__(self, engine: Engine) -> None:
        self._router = Router()
        self._admission = Admission()
        self._detached = Background()
        self._listeners: list[asyncio.Server] = []
        self._runner: web.AppRunner | None = None
        self.app = web.Application(client_max_size=BODY_BYTES)
        self.app[ENGINE] = engine
        self.headers = {
            "Api-Version": versions.MAXIMUM,
            "Docker-Experimental": "true" if engine.config.experimental else "false",
            "Ostype": "linux",
            "Server": f"Docker/{release.ENGINE} (linux)",
        }
        self.app[HEADERS] = self.headers
        self.app.router.add_route("*", "/{path:.*}", self._dispatch)
        self.app.on_response_prepare.append(self._add_headers)

    async def start(self) -> None:
        """Make the server ready for `listen`."""
        self._runner = web.AppRunner(self.app, access_log=None, handler_cancellation=True, shutdown_timeout=CUT_AFTER_S)
        await self._runner.setup()

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None = None, *, guarded: bool = False) -> None:
        """Serve on a bound socket; it belongs to the server from here on. `guarded`: check Host and Origin."""
        assert self._runner is not None and self._runner.server is not None
        loop, server = asyncio.get_running_loop(), self._runner.server

        def connection() -> Connection:
            return Connection(
                server,
                loop=loop,
                access_log=None,
                max_line_size=MAX_HEAD_BYTES,
                max_field_size=MAX_HEAD_BYTES,
                auto_decompress=False,
                lingering_time=2.0,
                read_bufsize=READ_BYTES,
                guarded=guarded,
                admission=self._admission,
            )

        def protocol() -> asyncio.Protocol:
            return connection() if tls is None else TlsProtocol(tls, connection, self._admission)

        if sock.family == socket.AF_UNIX:
            listener = await loop.create_unix_server(protocol, sock=sock, backlog=1024)
        else:
            listener = await loop.create_server(protocol, sock=sock, backlog=1024)
        self._listeners.append(listener)

    async def close(self, timeout_s: float = 5.0) -> None:
        """Stop accepting, let what runs finish within the timeout, cut the rest."""
        for listener in self._listeners:
            listener.close()
        await self._detached.close(timeout_s)
        if self._runner is not None:
            await self._runner.cleanup()
        self._admission.close()

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        if VERSION in request:
            response.headers.update(self.headers)
        else:
            response.headers.pop("Server", None)

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        response = await self._answer_or_refuse(request, connection)
        connection.go_on()
        return response

    async def _answer_or_refuse(self, request: web.Request, connection: Connection) -> web.StreamResponse:
        try:
            with self._admission.request(connection):
                return await self._answer(request)
        except Exception as e:
            if isinstance(e, ConnectionError) and (request.transport is None or request.transport.is_closing()):
                return Hijacked()  # the client has gone; a connection of ours that broke is an error like any other
            response = errors.response(e)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("%s: %d %s", shown(request), response.status, errors.message_of(e))
            return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if "//" in path:
            return web.Response(status=301, headers={"Location": re.sub("//+", "/", request.raw_path)})
        text, path = versions.split(path)
        found = self._router.match(request.method, path)
        if found is None:
            if request.method != "OPTIONS":
                return errors.not_found()
            request[VERSION] = versions.CURRENT
            return web.Response()
        request[VERSION] = versions.CURRENT  # a refused version is told what is spoken here
        request[VERSION] = versions.check(text)
        route, names = found
        request.match_info.update(names)
        if "%" in request.raw_path:
            bad = _BAD_ESCAPE.search(request.raw_path)
            if bad:
                raise errors.BadEscape(bad[0])
        if getattr(request.protocol, "guarded", False):
            origin.check(request.headers.get("Host", ""), request.headers.get("Origin", ""))
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s", shown(request))
        if route.detached:
            if request.body_exists:
                await whole(request)  # whoever leaves before its end has asked for nothing
            return await self._detached.finish(route.handler(request), f"{request.method} {path}")
        return await route.handler(request)


_SECRET = frozenset({"buildargs"})  # parameters whose values may be passwords as they stand


def shown(request: web.BaseRequest) -> str:
    """Return a request's method, path and parameters for the log, without passwords of URLs and build arguments."""
    pairs = [f"{key}={'***' if key in _SECRET and value else masked(value)}" for key, value in request.query.items()]
    return f"{request.method} {request.path}" + (f"?{'&'.join(pairs)}" if pairs else "")
