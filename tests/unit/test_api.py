"""The API below its handlers: versions, queries, errors, routes, origin check, connections that are taken over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from sampan.api import context, origin, routes, streams, versions
from sampan.api.errors import message_of, status_of
from sampan.api.hijack import Hijacked, hijack
from sampan.api.server import ApiServer
from sampan.engine.config import EngineConfig
from sampan.errors import Conflict, Forbidden, Internal, InvalidArgument, NotFound
from tests.api import certificates


def test_versions() -> None:
    assert versions.split("/v1.40/info") == ("1.40", "/info")
    assert versions.split("/volumes") == ("", "/volumes")
    assert versions.check("") == versions.check("1.51") == (1, 51)
    assert versions.check("1.24") == (1, 24)
    with pytest.raises(
        versions.TooOld, match=r"client version 1\.23 is too old\. Minimum supported API version is 1\.24"
    ):
        versions.check("1.23")
    for text in ("1.52", "9.0", "1.51.1"):
        with pytest.raises(InvalidArgument, match=f"client version {text} is too new"):
            versions.check(text)


def test_filters() -> None:
    assert (
        context.parse_filters('{"a":["x","y"]}')
        == context.parse_filters('{"a":{"x":true,"y":true}}')
        == {"a": {"x", "y"}}
    )
    for text in ("x", "[]", '{"a":"b"}', '{"a":[1]}', "{"):
        with pytest.raises(InvalidArgument, match=r"^invalid filter$"):
            context.parse_filters(text)
    with pytest.raises(InvalidArgument, match=r"^invalid filter 'nope'$"):
        context.accept_filters({"nope": {"x"}}, frozenset({"yes"}))


def test_integers_are_refused_in_strconvs_words() -> None:
    assert context.parse_integer("-5") == -5
    with pytest.raises(Internal, match=r'strconv\.Atoi: parsing "x": invalid syntax'):
        context.parse_integer("x", call="Atoi")
    with pytest.raises(Internal, match="value out of range"):
        context.parse_integer("99999999999999999999")


def test_errors_map_to_status_and_words() -> None:
    assert [status_of(e) for e in (NotFound("x"), Conflict("x"), OSError(2, "x"), ValueError("x"))] == [
        404,
        409,
        500,
        500,
    ]
    assert message_of(OSError(28, "No space left on device", "/a")) == "/a: no space left on device"


def test_every_route_has_its_handler() -> None:
    missing = [row[2] for row in routes.TABLE if routes.load(row[2]).__name__ == "missing"]
    assert not missing


def test_routes_match_in_order_and_names_may_hold_slashes() -> None:
    router = routes.Router()

    def found(method: str, path: str) -> tuple[str, dict[str, str]] | None:
        match = router.match(method, path)
        return (match[0].handler.__name__, match[1]) if match else None

    assert found("GET", "/containers/json") == ("list_", {})
    assert found("GET", "/images/a/b:c/json") == ("inspect", {"name": "a/b:c"})
    assert found("DELETE", "/containers/x/json") == ("remove", {"id": "x/json"})
    assert found("PUT", "/info") is None and found("GET", "/containers/json/") is None


@pytest.mark.parametrize(
    ("host", "from_", "ok"),
    [
        ("127.0.0.1:2375", "", True),
        ("localhost", "http://localhost", True),
        ("[::1]:2375", "", True),
        ("docker:2375", "", True),
        ("evil.example", "", False),
        ("evil.example", "http://evil.example", False),
        ("127.0.0.1:2375", "http://evil.example", False),
        ("127.0.0.1", "null", False),
        ("127.0.0.1:2375", "http://127.0.0.1:2375", True),
        ("127.0.0.1:2375", "HTTP://127.0.0.1:2375", True),
        ("127.0.0.1:2375", "http://127.0.0.1:8000", False),
        ("127.0.0.1:2375", "http://127.0.0.1", False),
        ("localhost:80", "http://localhost", True),
        ("localhost", "http://localhost:80", True),
        ("localhost", "http://localhost:81", False),
        ("127.0.0.1:2375", "https://127.0.0.1:2375", False),
        ("127.0.0.1:2375", "http://localhost:2375", False),
        ("[::1]:2375", "http://[::1]:2376", False),
        ("[::1]:2375", "http://[::1]:2375", True),
        ("127.0.0.1:2375", "http://127.0.0.1:99999", False),
        ("", "http://127.0.0.1:2375", False),
        ("127.0.0.1:2375", "moz-extension://127.0.0.1:2375", False),
    ],
)
def test_browsers_are_kept_away(host: str, from_: str, ok: bool) -> None:
    if ok:
        origin.check(host, from_)
    else:
        with pytest.raises(Forbidden):
            origin.check(host, from_)


# --- over a real socket ----------------------------------------------------------------------------------------------


CANCELLED = web.AppKey("cancelled", asyncio.Event)


async def echo(request: web.Request) -> web.StreamResponse:
    taken = await hijack(request, upgrade_content_type=streams.RAW_STREAM)
    while data := await taken.reader.read(1000):
        taken.writer.write(b"<" + data + b">")
        await taken.writer.drain()
    taken.writer.write(b"end")
    return Hijacked()


async def broken(request: web.Request) -> web.StreamResponse:
    async def messages() -> AsyncIterator[dict[str, Any]]:
        yield {"status": "<one>"}
        raise NotFound("gone")

    return await streams.progress(request, messages())


async def forever(request: web.Request) -> web.StreamResponse:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        request.app[CANCELLED].set()
        raise
    return web.Response()


class Served:
    """An ApiServer on a unix socket whose routes are the test's."""

    def __init__(self, directory: Path, **handlers: tuple[str, str, Any]) -> None:
        self.path = str(directory / "s")
        self.handlers = handlers

    async def __aenter__(self) -> Served:
        engine: Any = SimpleNamespace(config=EngineConfig())
        self.server = ApiServer(engine)
        self.server.app[CANCELLED] = asyncio.Event()
        for method, path, handler in self.handlers.values():
            row = routes.Route(path, handler, False)
            self.server._router._rows.setdefault((method, path.split("/")[1]), []).insert(0, row)
        await self.server.start()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(self.path)
        await self.server.listen(sock)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.server.close()

    async def talk(self, *packets: bytes, half_close: bool = True) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self.path)
        for packet in packets:
            writer.write(packet)
            await writer.drain()
            await asyncio.sleep(0.02)  # separate packets: what is tested is how they are cut
        if half_close:
            writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
        return answer


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


UPGRADE = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"


@pytest.mark.parametrize("headers", [UPGRADE, b"", UPGRADE + b"Content-Length: 2\r\n", b"Content-Length: 2\r\n"])
def test_nothing_a_client_sends_behind_an_attach_is_lost(tmp_path: Path, headers: bytes) -> None:
    async def test() -> None:
        async with Served(tmp_path, a=("POST", "/containers/x/attach", echo)) as served:
            body = b"{}" if b"Length" in headers else b""
            head = b"POST /containers/x/attach HTTP/1.1\r\nHost: d\r\n" + headers + b"\r\n"
            for packets in ([head + body + b"early", b"later"], [head, body + b"early", b"later"]):
                answer = await served.talk(*[p for p in packets if p])
                status, _, rest = answer.partition(b"\r\n\r\n")
                assert status.startswith(b"HTTP/1.1 101 UPGRADED" if UPGRADE in headers else b"HTTP/1.1 200 OK")
                assert rest == b"<early><later>end"
            one_packet = head + body + b"all"
            reader, writer = await asyncio.open_unix_connection(served.path)
            writer.write(one_packet)
            writer.write_eof()
            assert (await reader.read()).endswith(b"<all>end")
            writer.close()
            await writer.wait_closed()
            assert not served.server._runner.server.connections  # type: ignore[union-attr]

    run(test())


def test_a_route_that_does_not_take_over_keeps_the_connection(tmp_path: Path) -> None:
    async def start(request: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    async def test() -> None:
        async with Served(tmp_path, a=("POST", "/containers/x/start", start)) as served:
            reader, writer = await asyncio.open_unix_connection(served.path)
            for _ in range(2):
                for line in (b"POST /containers/x/start", b"GET /_ping"):
                    writer.write(line + b" HTTP/1.1\r\nHost: d\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith((b"HTTP/1.1 204", b"HTTP/1.1 200"))
                    if b" 200 " in head:
                        assert await reader.readexactly(2) == b"OK"
            writer.close()
            await writer.wait_closed()

    run(test())


def test_progress_ends_with_the_error(tmp_path: Path) -> None:
    async def test() -> None:
        async with Served(tmp_path, a=("GET", "/broken", broken)) as served:
            answer = await served.talk(
                b"GET /broken HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n", half_close=False
            )
            assert b'{"status":"\\u003cone\\u003e"}\r\n' in answer
            assert b'{"errorDetail":{"message":"gone"},"error":"gone"}\r\n' in answer

    run(test())


def test_a_client_that_hangs_up_cancels_its_request(tmp_path: Path) -> None:
    async def test() -> None:
        async with Served(tmp_path, a=("GET", "/forever", forever)) as served:
            _, writer = await asyncio.open_unix_connection(served.path)
            writer.write(b"GET /forever HTTP/1.1\r\nHost: d\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)  # let it begin
            writer.close()
            await writer.wait_closed()
            await asyncio.wait_for(served.server.app[CANCELLED].wait(), 5)

    run(test())


def test_tls_keeps_writing_after_the_client_has_no_more_input(tmp_path: Path) -> None:
    certificates.make(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(tmp_path / "server.pem", tmp_path / "server-key.pem")
    client_side = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

    async def test() -> None:
        async with Served(tmp_path, a=("POST", "/containers/x/attach", echo)) as served:
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            await served.server.listen(sock, server_side)
            answer = await asyncio.to_thread(half_close, client_side, port)
            assert answer.startswith(b"HTTP/1.1 101 UPGRADED") and answer.endswith(b"<input>end")

    run(test())


def half_close(context: ssl.SSLContext, port: int) -> bytes:
    """Attach over TLS, send input and close_notify, read what still comes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:

        def step(action: Callable[[], object]) -> object:
            while True:
                try:
                    return action()
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    data = raw.recv(65536)
                    incoming.write(data) if data else incoming.write_eof()

        step(tls.do_handshake)
        tls.write(b"POST /containers/x/attach HTTP/1.1\r\nHost: d\r\n" + UPGRADE + b"\r\ninput")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()
        raw.sendall(outgoing.read())
        try:
            while data := step(lambda: tls.read(65536)):
                assert isinstance(data, bytes)
                received += data
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
    return received


def test_a_head_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with Served(tmp_path) as served:
            request = b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: " + b"x" * 600_000 + b"\r\n\r\n"
            assert (await served.talk(request, half_close=False)).endswith(b"400 Bad Request")

    run(test())


def test_unknown_paths_carry_none_of_our_headers(tmp_path: Path) -> None:
    async def test() -> None:
        async with Served(tmp_path) as served:
            for path, status in ((b"/nope", b"404"), (b"//_ping", b"301")):
                request = b"GET " + path + b" HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"
                answer = await served.talk(request, half_close=False)
                assert answer.startswith(b"HTTP/1.1 " + status) and b"Api-Version" not in answer

    run(test())
