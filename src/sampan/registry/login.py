"""`docker login`: one attempt to use credentials on a registry. Fetches nothing, keeps nothing.

Source: distribution token authentication; the words are those of Docker Engine 28.5.
"""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from sampan.errors import Internal, InvalidArgument, SampanError, Unauthorized
from sampan.registry import challenges, endpoints, refusals
from sampan.registry.auth import Authorizer, Credentials
from sampan.registry.endpoints import Endpoint, Settings
from sampan.registry.transport import Transport
from sampan.spec.reference import DEFAULT_DOMAIN

_DEFAULT_NAMES = frozenset({"", "docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"})


async def login(transport: Transport, settings: Settings, server: str, credentials: Credentials) -> tuple[str, str]:
    """Log in. Returns (status text, identity token). Raises: Unauthorized, Internal, InvalidArgument in
    Docker's words.
    """
    domain = (
        DEFAULT_DOMAIN if server in _DEFAULT_NAMES else urlsplit(server if "//" in server else f"//{server}").netloc
    )
    if not domain:
        raise InvalidArgument(f'invalid registry address "{server}"')
    failure: SampanError | None = None
    for endpoint in endpoints.own(domain, "", settings):
        try:
            return await _attempt(transport, endpoint, credentials)
        except Internal as e:
            failure = e
    assert failure is not None
    raise failure


async def _attempt(transport: Transport, endpoint: Endpoint, credentials: Credentials) -> tuple[str, str]:
    async with transport.request("GET", endpoint.root, endpoint) as answer:
        asked = challenges.parse(answer.headers.getall("WWW-Authenticate", []))
        if answer.status == 200:
            return "Login Succeeded", ""
    bearer = next((challenge for challenge in asked if challenge.scheme == "bearer"), None)
    if bearer is None:
        await _try(transport, endpoint, credentials.basic())
        return "Login Succeeded", ""
    try:
        found = await Authorizer(transport, endpoint, credentials).ask(bearer, (), offline=True)
    except refusals.Refused as e:
        words = f'Get "{endpoint.root}": {e.message}'
        raise (Unauthorized(words) if e.http in (401, 403) else Internal(words)) from e
    await _try(transport, endpoint, f"Bearer {found.get('token') or found.get('access_token') or ''}")
    token = found.get("refresh_token")
    return "Login Succeeded", token if isinstance(token, str) and token else credentials.identity_token


async def _try(transport: Transport, endpoint: Endpoint, authorization: str) -> None:
    async with transport.request("GET", endpoint.root, endpoint, authorization=authorization) as answer:
        status = answer.status
    if status != 200:
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
        words = f"login attempt to {endpoint.root} failed with status: {status} {phrase}".rstrip()
        raise refusals.Refused(words, http=status)
