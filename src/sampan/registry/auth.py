"""Who we are to a registry: from its challenge and the user's credentials to an Authorization header.

Not here: requests to the registry itself. Invariants: credentials are used for the endpoint they were given for, and
for the token service that this endpoint names, never over plain http unless the endpoint itself may be plain, never
after a redirect. A mirror gets none.

Source: distribution token authentication (token and OAuth2 POST); RFC 7617 (basic), RFC 6750 (bearer).
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlencode, urlsplit

import aiohttp

from sampan.errors import Internal
from sampan.registry import challenges, refusals, transport
from sampan.registry.challenges import Challenge
from sampan.registry.endpoints import Endpoint
from sampan.registry.transport import Transport
from sampan.spec import codec
from sampan.spec.urls import without_user

CLIENT_ID = "docker"
LIFETIME_S = 60  # of a token that does not say
MARGIN_S = 10  # a token this close to its end is not used any more; half of its life for a short-lived one
MAX_TOKEN_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a client sent in X-Registry-Auth. Empty: anonymous."""

    username: str = ""
    password: str = ""
    identity_token: str = ""  # an OAuth2 refresh token
    registry_token: str = ""  # a bearer token, used as it is

    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


ANONYMOUS = Credentials()


def scope(path: str, *actions: str) -> str:
    """Write `repository:library/busybox:pull`."""
    return f"repository:{path}:{','.join(actions)}"


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    until: float  # time.monotonic()


class Authorizer:
    """The credentials of one request, at one endpoint."""

    def __init__(self, transport_: Transport, endpoint: Endpoint, credentials: Credentials) -> None:
        self._transport = transport_
        self._endpoint = endpoint
        self._credentials = ANONYMOUS if endpoint.mirror else credentials
        self._challenges: list[Challenge] = []
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._asking = asyncio.Lock()  # many layers that need the same token ask for it once

    def challenged(self, answer: aiohttp.ClientResponse) -> bool:
        """Note what an answer of 401 asks for; return False when we can do nothing. The token it refused is void."""
        found = challenges.parse(answer.headers.getall("WWW-Authenticate", []))
        self._challenges = [c for c in found if c.scheme in ("basic", "bearer")]
        refused = answer.request_info.headers.get("Authorization", "").removeprefix("Bearer ")
        self._tokens = {scopes: token for scopes, token in self._tokens.items() if token.text != refused}
        return bool(self._challenges)

    async def header(self, scopes: Iterable[str]) -> str:
        """Return the Authorization for these scopes, "" when nothing was asked for.

        Raises: NoCredentials, Refused by the token service, Internal when that does not answer.
        """
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        for challenge in self._challenges:
            if challenge.scheme == "bearer":
                return f"Bearer {await self._token(challenge, tuple(sorted(scopes)))}"
        if self._challenges:
            if not self._credentials.username:
                raise refusals.NoCredentials()
            return self._credentials.basic()
        return ""

    async def _token(self, challenge: Challenge, scopes: tuple[str, ...]) -> str:
        async with self._asking:
            token = self._tokens.get(scopes)
            if token is None or token.until < time.monotonic():
                token = self._tokens[scopes] = await self._new_token(challenge, scopes)
            return token.text

    async def _new_token(self, challenge: Challenge, scopes: tuple[str, ...]) -> _Token:
        answer = await self.ask(challenge, scopes)
        token = read_token(answer, time.monotonic())
        renewed = answer.get("refresh_token")
        if self._credentials.identity_token and isinstance(renewed, str) and renewed:
            self._credentials = replace(self._credentials, identity_token=renewed)
        return token

    async def ask(self, challenge: Challenge, scopes: tuple[str, ...], *, offline: bool = False) -> dict[str, object]:
        """Have one conversation with the token service; offline: ask for a refresh token as well."""
        realm = without_user(challenge.parameters.get("realm", ""))  # ours count, and are sent only once
        place = self._service(realm)
        service = challenge.parameters.get("service", "")
        credentials = self._credentials
        fields = [("scope", item) for item in scopes]
        if service:
            fields.insert(0, ("service", service))
        if credentials.identity_token:
            fields += [
                ("grant_type", "refresh_token"), ("refresh_token", credentials.identity_token),
                ("client_id", CLIENT_ID),
            ]  # fmt: skip
            fields = [field for field in fields if field[0] != "scope"] + [("scope", " ".join(scopes))]
            form = urlencode(fields).encode()
            return await self._exchange("POST", realm, place, data=form)
        if credentials.username:
            fields.append(("account", credentials.username))
        if offline:
            fields += [("client_id", CLIENT_ID), ("offline_token", "true")]
        url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(fields)
        return await self._exchange(
            "GET", url, place, authorization=credentials.basic() if credentials.username else ""
        )

    def _service(self, realm: str) -> Endpoint:
        return token_service(realm, insecure=self._endpoint.insecure)

    async def _exchange(
        self, method: str, url: str, place: Endpoint, *, authorization: str = "", data: bytes | None = None
    ) -> dict[str, object]:
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if data is not None else {}
        try:
            async with self._transport.request(
                method, url, place, headers=headers, authorization=authorization, data=data
            ) as answer:
                raw = await answer.content.read(MAX_TOKEN_BYTES)
                while len(raw) < MAX_TOKEN_BYTES and (more := await answer.content.read(MAX_TOKEN_BYTES - len(raw))):
                    raw += more
                if answer.status != 200:
                    raise refusals.read(answer.status, raw, retry_after=answer.headers.get("Retry-After", ""))
        except transport.FAILURES as e:
            raise await transport.failed(method, url, e) from e
        return token_answer(raw)


def token_service(realm: str, *, insecure: bool) -> Endpoint:
    """Return where a challenge's realm is. Raises: Internal for a realm that is no URL, or not safe."""
    try:
        scheme, host, _ = transport.origin(realm)
    except Internal:
        scheme = host = ""
    if not host or not (scheme == "https" or (scheme == "http" and insecure)):
        raise Internal(f'invalid token auth challenge realm: "{realm[:200]}"')
    return Endpoint(base=f"{scheme}://{urlsplit(realm).netloc}", path="", insecure=insecure)


def token_answer(raw: bytes) -> dict[str, object]:
    """Decode what a token service answers. Raises: Internal."""
    try:
        return codec.plain_object(raw)
    except ValueError as e:
        raise Internal(f"unable to decode token response: {e}") from e


def read_token(answer: Mapping[str, object], now_s: float) -> _Token:
    """Return the token of an answer. Raises: Internal when there is none that a header can hold."""
    text = answer.get("token") or answer.get("access_token")
    if not isinstance(text, str) or not text:
        raise Internal("authorization server did not include a token in the response")
    if not text.isascii() or not text.isprintable():
        raise Internal("authorization server gave a token that no header can hold")
    lifetime = answer.get("expires_in")
    lifetime_s = lifetime if isinstance(lifetime, int) and 0 < lifetime < 10**9 else LIFETIME_S
    return _Token(text, now_s + lifetime_s - min(MARGIN_S, lifetime_s / 2))
