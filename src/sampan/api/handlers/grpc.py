"""`POST /grpc` and `POST /session`: the connection becomes HTTP/2. In the first we serve, in the second the client
does.

Source: moby 28.5 api/server/router/{grpc,session}; both answer 101 and `Upgrade: h2c`.
"""

from __future__ import annotations

from aiohttp import web

from sampan.api.context import engine
from sampan.api.hijack import Hijacked, upgrade
from sampan.errors import Internal, InvalidArgument, SampanError

_METHOD = "X-Docker-Expose-Session-Grpc-Method"


async def serve(request: web.Request) -> web.StreamResponse:
    """BuildKit's API."""
    _check(request, Internal)
    await upgrade(request, engine(request).buildkit.protocol(), protocol="h2c")
    return Hijacked()


async def session(request: web.Request) -> web.StreamResponse:
    """A client that offers files, secrets, keys and credentials to its builds."""
    _check(request, InvalidArgument)
    attached = engine(request).buildkit.attach(request.headers, request.headers.getall(_METHOD, []))
    try:
        await upgrade(request, attached.connection, protocol="h2c")
    finally:
        attached.close()
    return Hijacked()


def _check(request: web.Request, error: type[SampanError]) -> None:
    """Raises what Docker answers, by endpoint, when the client does not ask for the one protocol there is."""
    protocol = request.headers.get("Upgrade", "")
    if not protocol:
        raise error("no upgrade proto in request")
    if protocol != "h2c":
        raise error(f"protocol {protocol} not supported")
