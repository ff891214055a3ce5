"""Minimal HTTP/1.1 for one connection: request out, response in, body as it comes, and the hijack.

What it is not: no redirects, no cookies, no proxies, no pipelining. One request is in flight per connection, and a
connection may be used again once the body has been read to its end (`Response.reusable`).

    conn.request("POST", "/v1.51/containers/x/start", headers) → conn.response() → Response
    Response.status, .headers (lower-case names), .chunks(), .read(), .json()
    after "101 UPGRADED" or a raw stream: Response.hijack() → (socket, bytes that were read too far)

Source: RFC 9112; Docker Engine API, "attach: stream format and protocol upgrade".
"""

from __future__ import annotations

from sampan.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Protocol

    class Socket(Protocol):
        """What a connection needs of a socket; `_socket.socket` and `ssl.SSLSocket` have it."""

        def recv(self, size: int, /) -> bytes: ...
        def send(self, data: bytes, /) -> int: ...
        def sendall(self, data: bytes, /) -> None: ...
        def fileno(self) -> int: ...
        def setblocking(self, flag: bool, /) -> None: ...
        def shutdown(self, how: int, /) -> None: ...
        def close(self) -> None: ...


MAX_HEAD_BYTES = 1 << 20
READ_BYTES = 1 << 18


class MalformedResponse(Exception):
    """The peer does not speak HTTP/1.1, or stopped in the middle."""


class ConnectionClosed(MalformedResponse):
    """The peer closed before it sent a byte of the response: a kept-alive connection had gone stale."""


class HttpConnection:
    """One connection and its read buffer. Owns the socket until it is hijacked."""

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self._buffer = b""
        self._at = 0

    def request(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]],
        body: bytes | Iterable[bytes] | None = None,
    ) -> None:
        """Send one request. A body that is not bytes goes out chunked, piece by piece."""
        lines = [f"{method} {target} HTTP/1.1"]
        for name, value in headers:
            if "\r" in value or "\n" in value:
                raise ValueError(f"line break in header {name}")
            lines.append(f"{name}: {value}")
        if isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
        elif body is not None:
            lines.append("Transfer-Encoding: chunked")
        elif method == "POST" or method == "PUT":
            lines.append("Content-Length: 0")
        head = "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n"
        if isinstance(body, bytes):
            self.sock.sendall(head + body)
            return
        self.sock.sendall(head)
        if body is not None:
            for piece in body:
                if piece:
                    self.sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.sock.sendall(b"0\r\n\r\n")

    def response(self, method: str = "GET") -> Response:
        """Read status line and headers, skipping 1xx other than 101."""
        while True:
            head = self._head()
            first, *rest = head.decode("latin-1").split("\r\n")
            words = first.split(" ", 2)
            if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
                raise MalformedResponse(f"malformed HTTP response {first!r}")
            status = int(words[1])
            if status == 101 or status >= 200:
                break
        headers: dict[str, str] = {}
        for line in rest:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return Response(self, method, status, headers)

    def close(self) -> None:
        self.sock.close()

    # -- buffered reading: what is unread is `_buffer[_at:]` ----------------------------------------------------------

    def _fill(self) -> bool:
        """Read more behind what is unread; False at EOF."""
        data = self.sock.recv(READ_BYTES)
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        """Return what comes before `mark`, which is consumed too. Raises: MalformedResponse."""
        while (end := self._buffer.find(mark, self._at)) < 0:
            unread = len(self._buffer) - self._at
            if unread > MAX_HEAD_BYTES:
                raise MalformedResponse("response headers are too long")
            if not self._fill():
                raise MalformedResponse("unexpected EOF")
        data = self._buffer[self._at : end]
        self._at = end + len(mark)
        return data

    def _head(self) -> bytes:
        if self._at == len(self._buffer):
            try:
                if not self._fill():
                    raise ConnectionClosed("EOF")
            except ConnectionResetError as e:
                raise ConnectionClosed("connection reset by peer") from e
        return self._until(b"\r\n\r\n")

    def _some(self, limit: int) -> bytes:
        """Return at most `limit` bytes, and at least one; b"" only at EOF."""
        if self._at == len(self._buffer):
            return self.sock.recv(min(limit, READ_BYTES))
        data = self._buffer[self._at : self._at + limit]
        self._at += len(data)
        return data

    def _line(self) -> bytes:
        return self._until(b"\r\n")

    def take_buffer(self) -> bytes:
        data, self._buffer, self._at = self._buffer[self._at :], b"", 0
        return data


class Response:
    """One response. Its body may be read once, by `chunks`, `read` or `json`."""

    def __init__(self, connection: HttpConnection, method: str, status: int, headers: dict[str, str]) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        self.done = False
        self._empty = method == "HEAD" or status in (204, 304)
        if self._empty:
            self.done = True

    @property
    def reusable(self) -> bool:
        """True when the connection can carry another request."""
        framed = self._empty or "content-length" in self.headers or self._chunked
        return self.done and framed and self.headers.get("connection", "").lower() != "close"

    @property
    def _chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    def chunks(self) -> Iterator[bytes]:
        """Return the body's bytes as they arrive. Raises: MalformedResponse when it stops short."""
        if self.done:
            return
        if self._chunked:
            yield from self._chunked_body()
        elif (length := self.headers.get("content-length")) is not None:
            left = int(length)
            while left:
                data = self.connection._some(left)
                if not data:
                    raise MalformedResponse("unexpected EOF")
                left -= len(data)
                yield data
        else:
            while data := self.connection._some(READ_BYTES):
                yield data
        self.done = True

    def _chunked_body(self) -> Iterator[bytes]:
        conn = self.connection
        while True:
            size = int(conn._line().split(b";")[0], 16)
            if not size:
                while conn._line():  # trailers
                    pass
                return
            while size:
                data = conn._some(size)
                if not data:
                    raise MalformedResponse("unexpected EOF")
                size -= len(data)
                yield data
            conn._line()

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def json(self) -> Any:
        body = self.read()
        try:
            return jsontext.loads(body) if body.strip() else None
        except ValueError as e:
            raise MalformedResponse(f"malformed JSON in the response: {e}") from e

    def hijack(self) -> tuple[Socket, bytes]:
        """Take the raw connection: the socket, and what had been read beyond the head. The caller owns it now."""
        return self.connection.sock, self.connection.take_buffer()
