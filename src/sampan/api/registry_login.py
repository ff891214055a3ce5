"""`docker login`: one attempt to use credentials on a registry.

Not the registry client (that is `sampan.registry`): it fetches nothing and keeps nothing. Plain HTTP is tried only for
registries that the configuration, or the loopback rule, calls insecure.

Source: distribution-spec token authentication; moby 28.5 registry/auth.go for the words.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from urllib.parse import urlsplit

import aiohttp

from sampan.engine.config import EngineConfig
from sampan.errors import Internal, InvalidArgument, Unauthorized
from sampan.spec.engine_api.registry import AuthConfig

_DEFAULT_REGISTRY = "registry-1.docker.io"
_DEFAULT_NAMES = frozenset({"", "docker.io", "index.docker.io", "https://index.docker.io/v1/"})
_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=15)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


def is_insecure(host: str, insecure: tuple[str, ...]) -> bool:
    """Tell whether a registry may be spoken to without a verified certificate. Pure; names are not resolved."""
    name = urlsplit(f"//{host}").hostname or ""
    if host in insecure or name in insecure or name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    for entry in insecure:
        try:
            if address in ipaddress.ip_network(entry):
                return True
        except ValueError:
            continue
    return False


async def login(credentials: AuthConfig, config: EngineConfig) -> tuple[str, str]:
    """Return (status text, identity token). Raises Unauthorized, Internal in Docker's words."""
    server = credentials.serveraddress
    host = (
        _DEFAULT_REGISTRY if server in _DEFAULT_NAMES else urlsplit(server if "//" in server else f"//{server}").netloc
    )
    if not host:
        raise InvalidArgument(f'invalid registry address "{server}"')
    insecure = is_insecure(host, config.insecure_registries)
    failure = ""
    for scheme in ("https", "http") if insecure else ("https",):
        base = f"{scheme}://{host}/v2/"
        try:
            return await _attempt(base, credentials, verify=not insecure)
        except aiohttp.ClientConnectorError as e:
            failure = f'Get "{base}": dial tcp {_address(host, scheme)}: connect: {_reason(e)}'
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError) as e:
            failure = f'Get "{base}": {e or type(e).__name__}'
    raise Internal(failure)


async def _attempt(base: str, credentials: AuthConfig, *, verify: bool) -> tuple[str, str]:
    basic = aiohttp.BasicAuth(credentials.username, credentials.password)
    async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as session:
        context: ssl.SSLContext | bool = verify
        async with session.get(base, ssl=context, allow_redirects=False) as answer:
            if answer.status == 200:
                return "Login Succeeded", ""
            challenge = answer.headers.get("WWW-Authenticate", "")
        if challenge.lower().startswith("bearer"):
            return await _bearer(session, challenge, credentials, context)
        async with session.get(base, ssl=context, allow_redirects=False, auth=basic) as answer:
            if answer.status == 200:
                return "Login Succeeded", ""
            if answer.status == 401:
                raise Unauthorized(f'Get "{base}": unauthorized: authentication required')
            raise Internal(f"login attempt to {base} failed with status: {answer.status} {answer.reason}")


async def _bearer(
    session: aiohttp.ClientSession, challenge: str, credentials: AuthConfig, context: ssl.SSLContext | bool
) -> tuple[str, str]:
    """Ask the token service that the challenge names; a token for nothing in particular proves the password."""
    fields = dict(_CHALLENGE.findall(challenge))
    realm = fields.get("realm", "")
    if not realm.startswith(("https://", "http://")):
        raise Internal(f'invalid token auth challenge realm: "{realm}"')
    query = {"account": credentials.username, "client_id": "docker", "offline_token": "true"}
    if fields.get("service"):
        query["service"] = fields["service"]
    basic = aiohttp.BasicAuth(credentials.username, credentials.password)
    async with session.get(realm, params=query, auth=basic, ssl=context, allow_redirects=False) as answer:
        if answer.status == 401:
            raise Unauthorized(f'Get "{realm}": unauthorized: incorrect username or password')
        if answer.status != 200:
            raise Internal(f"login attempt to {realm} failed with status: {answer.status} {answer.reason}")
        token = (await answer.json(content_type=None)).get("refresh_token", "")
    return "Login Succeeded", str(token or "")


def _address(host: str, scheme: str) -> str:
    return host if urlsplit(f"//{host}").port else f"{host}:{443 if scheme == 'https' else 80}"


def _reason(error: aiohttp.ClientConnectorError) -> str:
    words = error.os_error.strerror or str(error.os_error)
    if "Connect call failed" in words or error.os_error.errno == 111:
        return "connection refused"
    return words[:1].lower() + words[1:]
