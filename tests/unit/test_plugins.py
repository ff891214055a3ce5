"""Finding plugins and speaking with them, on sockets of this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from sampan.engine.config import EngineConfig
from sampan.engine.hostpaths import HostPaths
from sampan.engine.plugins import client, places
from sampan.engine.plugins.client import Plugin, Refusal, UnknownCall
from sampan.engine.plugins.places import PluginPlace, TLSRecord
from sampan.engine.plugins.plugins import Plugins
from sampan.errors import Internal, InvalidArgument, NotFound, Unavailable

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


# ── places ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_socket_comes_before_a_file(tmp_path: Path) -> None:
    sockets, specs = tmp_path / "run", tmp_path / "etc"
    (sockets / "deep").mkdir(parents=True)
    (specs / "deep").mkdir(parents=True)

    def found(name: str) -> PluginPlace:
        return places.find(name, [str(sockets)], [str(specs)])

    (specs / "flat.spec").write_text("tcp://192.0.2.1:99\n")
    assert found("flat") == PluginPlace(url="http://192.0.2.1:99")
    for path in (sockets / "flat.sock", sockets / "deep" / "deep.sock"):
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    assert found("flat") == PluginPlace(socket=str(sockets / "flat.sock"))
    assert found("deep") == PluginPlace(socket=str(sockets / "deep" / "deep.sock"))
    (sockets / "plain.sock").write_text("no socket")
    with pytest.raises(NotFound, match='plugin "plain" not found'):
        found("plain")


@pytest.mark.parametrize(
    ("file", "content", "place"),
    [
        ("a.spec", "unix:///run/a.sock", PluginPlace(socket="/run/a.sock")),
        ("a/a.spec", "http://[::1]:8080", PluginPlace(url="http://[::1]:8080")),
        ("a.json", '{"Name": "a", "Addr": "tcp://h:1"}', PluginPlace(url="http://h:1")),
        (
            "a.json",
            '{"Addr": "https://h:1", "TLSConfig": {"InsecureSkipVerify": true, "CAFile": "/ca"}}',
            PluginPlace(url="https://h:1", tls=TLSRecord(insecure_skip_verify=True, ca_file="/ca")),
        ),
    ],
)
def test_a_file_says_the_address(tmp_path: Path, file: str, content: str, place: PluginPlace) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    assert places.find("a", [], [str(tmp_path)]) == place


@pytest.mark.parametrize(
    "content", ["", "here", "unix://host/x", "unix:relative", "tcp://", "tcp://h:x", "ftp://h:1", "\0"]
)
def test_a_file_without_an_address_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.spec").write_text(content)
    with pytest.raises(InvalidArgument, match=r"plugin file .*a\.spec: "):
        places.find("a", [], [str(tmp_path)])


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a\0", ".hidden", "-a", "a" * 200, "ä"])
def test_a_name_stays_in_its_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.spec").write_text("tcp://h:1")
    with pytest.raises(NotFound):
        places.find(name, [str(tmp_path)], [str(tmp_path / "specs"), str(tmp_path)])


# ── one plugin ──────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def serving(path: Path, answer: Answer) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_post("/{call}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield
    finally:
        await runner.cleanup()
        path.unlink(missing_ok=True)


def plugin(path: Path, *, answer_s: float = 5, patience_s: float = 5) -> Plugin:
    async def look(name: str) -> tuple[PluginPlace, None]:
        if not path.exists():
            raise NotFound(f'plugin "{name}" not found')
        return PluginPlace(socket=str(path)), None

    return Plugin("p", look, answer_s=answer_s, patience_s=patience_s)


@pytest.mark.asyncio
async def test_what_is_sent_is_what_docker_sends(tmp_path: Path) -> None:
    seen: list[tuple[str, dict[str, str], bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path, dict(request.headers), await request.read()))
        return web.json_response({"Implements": ["A"]} if "Activate" in request.path else {"Said": 1})

    async with serving(tmp_path / "s", answer):
        made = plugin(tmp_path / "s")
        await made.require("A")
        await made.require("A")
        assert await made.call("A.Do", {"x": [1]}) == {"Said": 1}
        with pytest.raises(NotFound, match='plugin "p" does not implement the requested interface: B'):
            await made.require("B")
    assert [(path, body) for path, _, body in seen] == [("/Plugin.Activate", b""), ("/A.Do", b'{"x":[1]}')]
    for _, headers, _ in seen:
        assert headers["Accept"] == "application/vnd.docker.plugins.v1.2+json"
        assert headers["Host"] == "plugin.moby.localhost" and "Content-Type" not in headers


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (500, b'{"Err": "no"}', Refusal, "A.Do: no"),
        (200, b'{"Err": "no"}', Refusal, "A.Do: no"),
        (500, b"broken", Refusal, "A.Do: broken"),
        (404, b"page not found", UnknownCall, "A.Do: page not found"),
        (302, b"", Refusal, "A.Do: status 302"),
        (200, b'{"x": ', Internal, "plugin p: A.Do: the answer cannot be read: "),
        (200, b"[1]", Internal, "plugin p: A.Do: the answer cannot be read: it is no object"),
        (200, b"[" * 100_000, Internal, "plugin p: A.Do: the answer cannot be read: "),
        (200, b" " * (client.ANSWER_BYTES + 1), Internal, "plugin p: A.Do: the answer is longer than"),
    ],
)
async def test_an_answer_is_an_object_or_an_error(
    tmp_path: Path, status: int, body: bytes, kind: type[Exception], message: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    async with serving(tmp_path / "s", answer):
        with pytest.raises(kind) as raised:
            await plugin(tmp_path / "s").call("A.Do", {})
        assert str(raised.value).startswith(message) and type(raised.value) is kind


@pytest.mark.asyncio
async def test_an_empty_answer_is_an_empty_object(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response()

    async with serving(tmp_path / "s", answer):
        assert await plugin(tmp_path / "s").call("A.Do") == {}


@pytest.mark.asyncio
async def test_one_that_is_away_is_waited_for_once(tmp_path: Path) -> None:
    loop, made = asyncio.get_running_loop(), plugin(tmp_path / "s", patience_s=0.25)
    begun = loop.time()
    with pytest.raises(NotFound):
        await made.call("A.Do")
    assert loop.time() - begun >= 0.1
    begun = loop.time()
    for _ in range(5):
        with pytest.raises(NotFound):
            await made.call("A.Do")
    assert loop.time() - begun < 0.1


@pytest.mark.asyncio
async def test_one_that_comes_meanwhile_is_found(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"Implements": ["A"]})

    made = plugin(tmp_path / "s")
    (tmp_path / "s").touch()  # a socket's file that nobody listens on
    waiting = asyncio.ensure_future(made.require("A"))
    await asyncio.sleep(0)
    (tmp_path / "s").unlink()
    async with serving(tmp_path / "s", answer):
        await waiting
    assert made.activations == 1
    with pytest.raises(NotFound):
        await plugin(tmp_path / "s").require("A", wait=False)


@pytest.mark.asyncio
async def test_a_request_that_may_have_arrived_is_not_sent_again(tmp_path: Path) -> None:
    calls = []

    async def answer(request: web.Request) -> web.Response:
        calls.append(request.path)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serving(tmp_path / "s", answer):
        with pytest.raises(Unavailable, match=r"plugin p: A\.Do: "):
            await plugin(tmp_path / "s").call("A.Do")
    assert calls == ["/A.Do"]


@pytest.mark.asyncio
async def test_one_that_hangs_costs_its_limit(tmp_path: Path) -> None:
    over = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await over.wait()  # the server waits for it when it ends
        return web.Response()

    async with serving(tmp_path / "s", answer):
        made = plugin(tmp_path / "s", answer_s=0.05)
        with pytest.raises(Unavailable, match=r"plugin p: A.Do: no answer within 0.05 s"):
            await made.call("A.Do")
        over.set()


@pytest.mark.asyncio
async def test_an_answer_that_drips_costs_its_limit(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.01)
        return response

    async with serving(tmp_path / "s", answer):
        with pytest.raises(Unavailable, match="no answer within"):
            await plugin(tmp_path / "s", answer_s=0.1).call("A.Do")


@pytest.mark.asyncio
async def test_one_by_tcp(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"Host": request.host, "Body": await request.json()})

    app = web.Application()
    app.router.add_post("/{call}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    async def look(name: str) -> tuple[PluginPlace, None]:
        return PluginPlace(url=f"http://127.0.0.1:{port}"), None

    said = await Plugin("p", look).call("A.Do", {"a": 1})
    assert said == {"Host": f"127.0.0.1:{port}", "Body": {"a": 1}}
    await runner.cleanup()


@pytest.mark.asyncio
async def test_plugins_of_an_engine_are_below_its_exec_root(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=json.dumps({"Implements": ["A"]}))

    host_paths = HostPaths()
    plugins = Plugins(EngineConfig(exec_root=str(tmp_path)), host_paths, patience_s=0.1)
    (tmp_path / "plugins").mkdir()
    async with serving(tmp_path / "plugins" / "mine.sock", answer):
        mine = await plugins.existing("mine", "A")
        assert plugins.known("mine") is mine
        with pytest.raises(NotFound):
            await plugins.existing("other", "A")
    host_paths.close()
