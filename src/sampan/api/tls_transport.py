"""TLS under a connection, with half-close: what asyncio's own TLS lacks and `docker run -i` over tcp needs.

asyncio and uvloop end the whole connection at the peer's close_notify. A client that has no more input says exactly
that and still waits for output. Here the end of input is passed on as `eof_received`, and writing goes on.

    raw transport ─data─▶ TlsProtocol ─plaintext─▶ HTTP connection (or whoever took it over)
                  ◀─────  TlsTransport ◀─write───

Source: RFC 8446 section 6.1 (a close_notify ends one direction); `ssl.MemoryBIO` of CPython.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast

from sampan.api.admission import Admission, client_of

HANDSHAKE_S = 10.0
PLAIN_HTTP = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
"""What Go's server answers to a client that has forgotten TLS."""
_CHUNK = 256 * 1024


class TlsProtocol(asyncio.Protocol):
    """Decrypts for the protocol that `make` returns once the handshake is done."""

    def __init__(
        self, context: ssl.SSLContext, make: Callable[[], asyncio.Protocol], admission: Admission | None = None
    ) -> None:
        """admission: gives the connection a place until `make`'s protocol has one."""
        self._make = make
        self._admission = admission
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.raw: asyncio.Transport
        self.app: asyncio.BaseProtocol | None = None
        self.transport: TlsTransport
        self._deadline: asyncio.TimerHandle
        self._eof = False
        self._began = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.raw = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self.transport = TlsTransport(self)
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_S, self.raw.abort)
        if self._admission is not None and not self._admission.enter(self, client_of(transport)):
            self.raw.abort()

    def drop(self) -> None:
        """Close the connection at once; it has no protocol yet."""
        self.raw.abort()

    def data_received(self, data: bytes) -> None:
        if not self._began and _is_http(data):
            self.raw.write(PLAIN_HTTP)
            self.raw.close()
            return
        self._began = True
        self._incoming.write(data)
        self.advance()

    def eof_received(self) -> bool:
        """Take the peer's TCP half-close, with or without close_notify: an end of input."""
        self._incoming.write_eof()
        if self.app is None:
            return False
        self.advance()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._leave()
        self.transport.closed = True
        if self.app is not None:
            self.app.connection_lost(exc)

    def pause_writing(self) -> None:
        if self.app is not None:
            self.app.pause_writing()

    def resume_writing(self) -> None:
        if self.app is not None:
            self.app.resume_writing()

    def advance(self) -> None:
        """Go on with what has arrived: the handshake first, then plaintext until the application pauses."""
        try:
            if self.app is None and not self._shake_hands():
                return
            while self.transport.reading and not self._eof and not self.transport.closed:
                data = self.ssl.read(_CHUNK)
                if not data:
                    self._end_of_input()
                    break
                assert isinstance(self.app, asyncio.Protocol)
                self.app.data_received(data)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._end_of_input()
        except ssl.SSLError:
            self.flush()  # the alert that says why
            self.raw.close()
            return
        self.flush()

    def _shake_hands(self) -> bool:
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            return False
        self._deadline.cancel()
        self._leave()
        self.app = self._make()
        self.app.connection_made(self.transport)
        return True

    def _leave(self) -> None:
        if self._admission is not None:
            self._admission.leave(self)

    def _end_of_input(self) -> None:
        if self._eof or self.app is None:
            return
        self._eof = True
        assert isinstance(self.app, asyncio.Protocol)
        if not self.app.eof_received():
            self.transport.close()

    def flush(self) -> None:
        """Send what the TLS machine has produced."""
        data = self._outgoing.read()
        if data and not self.raw.is_closing():
            self.raw.write(data)


def _is_http(data: bytes) -> bool:
    """Tell whether a connection's first bytes are an HTTP request's; TLS begins with a byte that is no letter."""
    method = data[:8].split(b" ")[0]
    return len(method) >= 3 and method.isalpha() and method.isupper()


class TlsTransport(asyncio.Transport):
    """The plaintext side."""

    def __init__(self, tls: TlsProtocol) -> None:
        super().__init__()
        self._tls = tls
        self.reading = True
        self.closed = False
        self._said_eof = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sslcontext":
            return self._tls.ssl.context
        if name == "ssl_object":
            return self._tls.ssl
        if name == "peercert":
            return self._tls.ssl.getpeercert()
        return self._tls.raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._tls.app = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._tls.app is not None
        return self._tls.app

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False
        with contextlib.suppress(RuntimeError):  # closing already
            self._tls.raw.pause_reading()

    def resume_reading(self) -> None:
        if not self.reading:
            self.reading = True
            with contextlib.suppress(RuntimeError):
                self._tls.raw.resume_reading()
            asyncio.get_running_loop().call_soon(self._tls.advance)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if data and not self.closed and not self._said_eof:
            self._tls.ssl.write(data)
            self._tls.flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Say close_notify; reading goes on."""
        if not self._said_eof and not self.closed:
            self._said_eof = True
            with contextlib.suppress(ssl.SSLError):
                self._tls.ssl.unwrap()
            self._tls.flush()

    def is_closing(self) -> bool:
        return self.closed or self._tls.raw.is_closing()

    def close(self) -> None:
        self.write_eof()
        self.closed = True
        self._tls.raw.close()

    def abort(self) -> None:
        self.closed = True
        self._tls.raw.abort()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._tls.raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._tls.raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._tls.raw.get_write_buffer_limits()
