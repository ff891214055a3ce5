"""One client connection: aiohttp's, with two additions.

Takeovers. A client may send `POST …/attach` and its input right behind, before it has seen an answer.
aiohttp would read that input as the next request. So the packet that begins such a request is cut where the request
ends, and what follows is kept for `hijack`.

Guarding. `guarded` marks connections whose requests must pass the Host and Origin check.

Places. Every connection has one of `admission`'s, or is refused.

Source: moby 28.5 attaches both ways; aiohttp 3.9-3.14 web_protocol.RequestHandler.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

from aiohttp import web

from sampan.api.admission import Admission, client_of, refuse

BEHIND_BYTES = 256 * 1024
"""How much may come behind a request that takes over before it has been answered; then the client waits."""
_TAKEOVER = re.compile(rb"POST [^ ]*/(?:containers/[^/ ]+/attach|exec/[^/ ]+/start)(?:\?[^ ]*)? HTTP/1\.")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


class Connection(web.RequestHandler):
    """aiohttp's connection; `_behind` is None in plain HTTP, else the bytes behind a request that may take over."""

    __slots__ = ("_answered", "_behind", "_body_left", "admission", "guarded", "half_closed")

    def __init__(self, *args: Any, guarded: bool, admission: Admission, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.guarded = guarded
        self.admission = admission
        self._behind: bytes | None = None
        self._body_left = 0
        self._answered = False
        self.half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.admission.enter(self, client_of(transport)):
            refuse(cast(asyncio.Transport, transport), self.admission.places)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.admission.leave(self)
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close the connection at once; it is idle, and nobody may be reading the rest of its last answer."""
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self.admission.begun(self)
        if self._behind is None:
            if data[:5] != b"POST " or not _TAKEOVER.match(data):
                super().data_received(data)
                return
            data = self._begin(data)
        elif self._body_left:
            data = self._cut(data, self._body_left)
        elif self._idle():
            data, self._behind = self._behind + data, None  # it was answered without a takeover: HTTP goes on
            self.data_received(data)
            return
        else:
            self._behind += data
            if len(self._behind) >= BEHIND_BYTES and self.transport is not None:
                self.transport.pause_reading()  # `hijack` goes on reading,
                self.close()  # and after any other answer the connection ends
            return
        super().data_received(data)
        if self._answered:
            self.go_on()

    def go_on(self) -> None:
        """Know that the request under way is answered and takes nothing over: what came behind it is HTTP again.

        What is left of its body comes first.
        """
        if self._behind is None:
            return
        self._answered = bool(self._body_left)
        if not self._answered:
            data, self._behind = self._behind, None
            if data:
                self.data_received(data)

    def _idle(self) -> bool:
        """Tell whether no request is under way: aiohttp waits for the next one, on a future nobody has woken."""
        return self._waiter is not None and not self._waiter.done() and not self._messages

    def _begin(self, data: bytes) -> bytes:
        """Look at the head of a request that may take over; return what HTTP's parser shall see of this packet."""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or _CHUNKED.search(data, 0, end):
            return data
        length = _LENGTH.search(data, 0, end)
        self._behind = b""
        return self._cut(data, end + (int(length[1]) if length else 0))

    def _cut(self, data: bytes, length: int) -> bytes:
        self._body_left = max(0, length - len(data))
        self._behind = (self._behind or b"") + data[length:]
        return data[:length]

    def eof_received(self) -> bool:  # type: ignore[override]
        """Take the end of input as the client's going, unless it may be the end of what a takeover is fed with."""
        if self._behind is None or self._idle():
            return False
        self.half_closed = True
        self.close()  # nothing more is read; the request under way goes on
        return True

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is no HTTP as Go's server does; bytes that anybody can send are not worth a traceback."""
        if status != 400:
            return super().handle_error(request, status, exc, message)
        response = web.Response(status=400, text="400 Bad Request")
        response.force_close()
        return response

    def steal_behind(self) -> bytes:
        """Return what came behind the request; HTTP is over."""
        behind, self._behind = self._message_tail + (self._behind or b""), None
        self._message_tail = b""
        return behind
