"""The Engine API as calls: versioned paths, query strings, JSON in and out, streams and hijacks.

Blocking. Connections are kept and used again; the API version is negotiated by the first call. An answer of 400 or
more becomes the matching error of `sampan.errors`, whose message is the engine's own; `ConnectionFailed` means that
nobody answered.

    engine = Engine(Address("unix:///var/run/sampan.sock"))
    engine.get("/containers/json", all="1") → decoded JSON
    engine.open("GET", "/events") → Response, to be read as a stream
    engine.hijack("/containers/x/attach", query) → UpgradedStream

Source: Docker Engine API 1.24 to 1.51; moby's version negotiation (the lower of both sides, never below 1.24).
"""

from __future__ import annotations

from sampan.client import jsontext
from sampan.client.http import ConnectionClosed, HttpConnection, MalformedResponse, Response
from sampan.client.transport import UNRESOLVED, ended
from sampan.errors import SampanError, from_status, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from sampan.client.http import Socket
    from sampan.client.transport import Address, Tls

MAX_API = (1, 51)
MIN_API = (1, 24)
VERSION = "0.1.0"


class ConnectionFailed(SampanError):
    """No engine answers at the address; the message says which and why, in Docker's words."""

    status = 503


class UpgradedStream:
    """A raw two-way stream after an upgrade: `sock`, `rest` (bytes read too far), `multiplexed` (stdcopy frames)."""

    def __init__(self, response: Response) -> None:
        self.sock: Socket
        self.sock, self.rest = response.hijack()
        self.content_type = response.headers.get("content-type", "")

    def close(self) -> None:
        self.sock.close()


class EngineClient:
    """One engine, by address. Not thread-safe; a second stream opens a second connection by itself."""

    def __init__(
        self,
        address: Address,
        *,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        api_version: str = "",
    ) -> None:
        self.address = address
        self.tls = tls
        self.ping_headers: dict[str, str] = {}
        self._idle: list[HttpConnection] = []
        self._fixed = api_version
        self._version = api_version
        host = "api.moby.localhost" if address.scheme in ("unix", "ssh") else address.target
        self._headers = [("Host", host), ("User-Agent", f"Sampan-Client/{VERSION} (linux)")]
        self._headers += list((headers or {}).items())

    # -- version ----------------------------------------------------------------------------------------------------

    @property
    def api_version(self) -> str:
        """The version in use, negotiated on first need unless it was given."""
        if not self._version:
            self.ping()
            offered = self.ping_headers.get("api-version", "1.24")
            major, minor = max(min(_pair(offered), MAX_API), MIN_API)
            self._version = f"{major}.{minor}"
        return self._version

    def ping(self) -> None:
        """Ask HEAD /_ping, whose headers say version, OS and builder."""
        response = self._exchange("HEAD", self.address.base_path + "/_ping", [], None)
        self.ping_headers = response.headers
        self._keep(response)

    # -- calls ------------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: object) -> Any:
        return self.call("GET", path, query)

    def post(self, path: str, body: object = None, **query: object) -> Any:
        return self.call("POST", path, query, body)

    def delete(self, path: str, **query: object) -> Any:
        return self.call("DELETE", path, query)

    def call(self, method: str, path: str, query: Mapping[str, object], body: object = None) -> Any:
        """Make one request; return its answer, decoded (None when empty)."""
        response = self.open(method, path, query, body)
        value = response.json()
        self._keep(response)
        return value

    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
        *,
        headers: Iterable[tuple[str, str]] = (),
        raw: bytes | Iterable[bytes] | None = None,
    ) -> Response:
        """Start one request and return its response unread. `body` is sent as JSON, `raw` as it is.

        Raises the error the status stands for, with the engine's message.
        """
        extra = list(headers)
        payload: bytes | Iterable[bytes] | None = raw
        if body is not None:
            extra.append(("Content-Type", "application/json"))
            payload = jsontext.dumps(body).encode()
        target = f"{self.address.base_path}/v{self.api_version}{path}{query_string(query or {})}"
        response = self._exchange(method, target, extra, payload)
        if response.status >= 400:
            raise self._error(response)
        return response

    def finish(self, response: Response) -> None:
        """Give the connection of a response that was read to its end back for the next call."""
        self._keep(response)

    def hijack(self, path: str, query: Mapping[str, object] | None = None, body: object = None) -> UpgradedStream:
        """Ask POST with `Upgrade: tcp`; the connection is the caller's afterwards."""
        extra = [("Connection", "Upgrade"), ("Upgrade", "tcp")]
        response = self.open("POST", path, query, {} if body is None else body, headers=extra)
        return UpgradedStream(response)

    def close(self) -> None:
        """Close the idle connections; the next call opens another."""
        while self._idle:
            self._idle.pop().close()

    # -- connections ------------------------------------------------------------------------------------------------

    def _exchange(
        self, method: str, target: str, extra: list[tuple[str, str]], payload: bytes | Iterable[bytes] | None
    ) -> Response:
        while True:
            reused = bool(self._idle)
            connection = self._idle.pop() if reused else self._connect()
            try:
                try:
                    connection.request(method, target, self._headers + extra, payload)
                except BrokenPipeError:  # it may have refused the body early: its answer says why
                    if reused:
                        raise ConnectionClosed("stale") from None
                return connection.response(method)
            except ConnectionClosed:
                if reused and not (payload is not None and not isinstance(payload, bytes)):
                    connection.close()
                    continue  # the server had closed an idle connection: nothing was processed
                reason = ended(connection.sock) or "EOF"
                connection.close()
                raise ConnectionFailed(f"error during connect: {method} {target}: {reason}") from None
            except (MalformedResponse, OSError) as e:
                connection.close()
                raise ConnectionFailed(f"error during connect: {method} {target}: {e}") from e

    def _connect(self) -> HttpConnection:
        url = self.address.url
        try:
            return HttpConnection(self.address.connect(self.tls))
        except PermissionError as e:
            raise ConnectionFailed(
                f"permission denied while trying to connect to the Docker daemon socket at {url}: connect: permission "
                f"denied"
            ) from e
        except (FileNotFoundError, ConnectionRefusedError) as e:
            raise ConnectionFailed(
                f"Cannot connect to the Docker daemon at {url}. Is the docker daemon running?"
            ) from e
        except ValueError as e:
            raise ConnectionFailed(f"{UNRESOLVED}: {e}") from e
        except OSError as e:
            raise ConnectionFailed(f"error during connect: {url}: {words(e)}") from e

    def _keep(self, response: Response) -> None:
        if response.reusable:
            self._idle.append(response.connection)
        else:
            response.connection.close()

    def _error(self, response: Response) -> SampanError:
        try:
            body = response.read()
        except (MalformedResponse, OSError):
            body = b""
        self._keep(response)
        message = body.decode("utf-8", "replace").strip()
        try:
            decoded = jsontext.loads(message)
            if isinstance(decoded, dict) and isinstance(decoded.get("message"), str):
                message = decoded["message"].strip()
        except ValueError:
            pass
        return from_status(response.status, message or f"request returned {response.status}")


def query_string(query: Mapping[str, object]) -> str:
    """Write `?a=b&…`: booleans as 1 (false is left out, like None), lists repeated, dicts (filters) as JSON."""
    pairs = []
    for key, value in query.items():
        if value is None or value is False:
            continue
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if item is True:
                item = "1"
            elif isinstance(item, dict):
                item = jsontext.dumps(item)
            pairs.append(f"{quoted(key)}={quoted(str(item))}")
    return "?" + "&".join(pairs) if pairs else ""


_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")


def quoted(text: str) -> str:
    """Percent-encode for a query value or a path (slashes stay)."""
    return "".join([chr(b) if b in _SAFE else f"%{b:02X}" for b in text.encode("utf-8", "surrogateescape")])


def _pair(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor or 0)
