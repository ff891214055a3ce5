"""One plugin: JSON over HTTP to another program that may be away, hang or lie.

What it answers is an object of JSON of at most ANSWER_BYTES, or an error; both come within the limit of the call. One
that cannot be reached is tried again, ever later, for `patience_s`; after that only once a call, until it answers.
A request that may have arrived is not sent again.

Not here: what is said (engine/networks/drivers/remote.py), where plugins are (places.py).

Source: docs.docker.com/engine/extend/plugin_api; headers and bodies as Docker Engine 28.5.2 sends them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import msgspec

from sampan.engine.plugins.places import PluginPlace
from sampan.errors import Internal, NotFound, Unavailable, words

JSON = dict[str, Any]

MEDIA_TYPE = "application/vnd.docker.plugins.v1.2+json"
ANSWER_BYTES = 8 * 1024 * 1024
ANSWER_S = 30.0
SILENT_S = 5.0  # of one that has not answered the last time
PATIENCE_S = 15.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 4.0
HOST = "plugin.moby.localhost"


class UnknownCall(NotFound):
    """The plugin has no such call (it answers 404)."""


class Refusal(Internal):
    """The plugin says no: it has not done what it was asked for."""


class _Away(Exception):
    """Nobody listens there: the request has not been sent."""


class Plugin:
    """The plugin of a name. `look` finds it anew for each connection: it may have moved, or come meanwhile."""

    def __init__(
        self,
        name: str,
        look: Callable[[str], Awaitable[tuple[PluginPlace, ssl.SSLContext | None]]],
        *,
        answer_s: float = ANSWER_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.name = name
        self._look = look
        self._answer_s = answer_s
        self._patience_s = patience_s
        self._implements: frozenset[str] | None = None
        self._activating = asyncio.Lock()
        self._given_up = False
        self._silent = False
        self.activations = 0
        """How often it was found anew: one that has been away may have forgotten what it was told."""

    async def implements(self, *, wait: bool = True) -> frozenset[str]:
        """Return what the plugin is: `NetworkDriver`, `IpamDriver`, …; asked once. Raises: as `call`."""
        async with self._activating:
            if self._implements is None:
                said = (await self._call("Plugin.Activate", None, wait)).get("Implements")
                if not isinstance(said, list):
                    raise Internal(f"plugin {self.name}: Plugin.Activate: no list of what it implements")
                self._implements = frozenset(str(kind) for kind in said)
                self.activations += 1
            return self._implements

    async def require(self, kind: str, *, wait: bool = True) -> None:
        """Check that the plugin is of a kind. Raises: NotFound, in Docker's words, when it is not; as `call`."""
        if kind not in await self.implements(wait=wait):
            raise NotFound(f'plugin "{self.name}" does not implement the requested interface: {kind}')

    async def call(self, method: str, arguments: Mapping[str, Any] | None = None) -> JSON:
        """Call `NetworkDriver.Join` or the like, and return the answer. arguments: None sends no body.

        Raises: NotFound when there is no such plugin; Unavailable when it does not answer; UnknownCall; Refusal for an
        error that the plugin tells (`METHOD: what it says`); Internal for an answer that is none.
        """
        return await self._call(method, arguments, True)

    async def _call(self, method: str, arguments: Mapping[str, Any] | None, wait: bool) -> JSON:
        body = b"" if arguments is None else msgspec.json.encode(arguments)
        loop = asyncio.get_running_loop()
        give_up, pause = loop.time() + self._patience_s, FIRST_PAUSE_S
        while True:
            try:
                status, answer = await self._exchange(method, body)
                self._given_up = False
                break
            except (_Away, NotFound) as error:
                self._implements = None  # another program may answer next time
                if not wait or self._given_up or loop.time() + pause > give_up:
                    self._given_up = wait
                    if isinstance(error, NotFound):
                        raise
                    raise Unavailable(f"plugin {self.name}: {method}: {error}") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return _decoded(self.name, method, status, answer)

    async def _exchange(self, method: str, body: bytes) -> tuple[int, bytes]:
        limit_s = min(self._answer_s, SILENT_S) if self._silent else self._answer_s
        try:
            async with asyncio.timeout(limit_s):
                place, tls = await self._look(self.name)
                answer = await self._post(place, tls, method, body)
            self._silent = False
            return answer
        except TimeoutError as error:
            self._silent = True
            said = f"no answer within {limit_s:g} s"
            raise Unavailable(f"plugin {self.name}: {method}: {said}") from error
        except aiohttp.ClientConnectorError as error:
            raise _Away(words(error.os_error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._implements = None
            raise Unavailable(f"plugin {self.name}: {method}: {error or type(error).__name__}") from error

    async def _post(
        self, place: PluginPlace, tls: ssl.SSLContext | None, method: str, body: bytes
    ) -> tuple[int, bytes]:
        headers = {"Accept": MEDIA_TYPE, "User-Agent": "sampan/0.1 (docker-compatible)", "Accept-Encoding": "identity"}
        if place.socket:
            headers["Host"] = HOST
        connector = aiohttp.UnixConnector(place.socket) if place.socket else aiohttp.TCPConnector()
        url = f"{place.url or f'http://{HOST}'}/{method}"
        async with (
            aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)
            ) as session,
            session.post(
                url,
                data=body,
                headers=headers,
                skip_auto_headers=("Content-Type",),  # Docker sends none
                allow_redirects=False,
                ssl=tls or True,
            ) as answer,
        ):
            content = bytearray()
            async for part in answer.content.iter_any():
                content += part
                if len(content) > ANSWER_BYTES:
                    raise Internal(f"plugin {self.name}: {method}: the answer is longer than {ANSWER_BYTES} bytes")
            return answer.status, bytes(content)


def _decoded(name: str, method: str, status: int, content: bytes) -> JSON:
    """Return the object of an answer. Raises: as `Plugin.call`."""
    try:
        answer = msgspec.json.decode(content) if content.strip() else {}
    except (msgspec.DecodeError, RecursionError) as error:
        answer = error
    said = str(answer.get("Err") or "") if isinstance(answer, dict) else ""
    if status == 404 and not said:
        raise UnknownCall(f"{method}: {_text(content)}")
    if status != 200 or said:
        raise Refusal(f"{method}: {said or _text(content) or f'status {status}'}")
    if not isinstance(answer, dict):
        reason = answer if isinstance(answer, Exception) else "it is no object"
        raise Internal(f"plugin {name}: {method}: the answer cannot be read: {reason}")
    return answer


def _text(content: bytes) -> str:
    return content[:1000].decode(errors="replace").strip()
