"""Downloads from a web server on loopback: what is asked again, what is kept, what is refused."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sampan.engine.builder.files.http import HttpDownloads
from sampan.engine.builder.ops import HttpOp
from sampan.engine.builder.trees import Tree
from sampan.errors import Internal, InvalidArgument, NotFound

BODY = b"content" * 1000
DIGEST = "sha256:" + hashlib.sha256(BODY).hexdigest()
MODIFIED = "Wed, 01 Jan 2020 00:00:00 GMT"


class Secrets:
    id = "test"

    def __init__(self, secrets: dict[str, bytes]) -> None:
        self._secrets = secrets

    async def secret(self, id: str) -> bytes:
        if id not in self._secrets:
            raise NotFound(id)
        return self._secrets[id]


class Server:
    """Answers and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, dict[str, str]]] = []
        self.body, self.etag = BODY, '"one"'
        self.other = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        status = 200
        headers = {}
        if path.startswith("/marked"):
            headers = {"ETag": self.etag}
            status = 304 if request.headers.get("If-None-Match") == self.etag else 200
        elif path == "/dated":
            headers = {"Last-Modified": MODIFIED}
            status = 304 if request.headers.get("If-Modified-Since") == MODIFIED else 200
        elif path == "/missing":
            status = 404
        elif path == "/moved":
            status, headers = 302, {"Location": "/marked/file.txt"}
        elif path == "/away":
            status, headers = 302, {"Location": f"{self.other}/plain"}
        elif path == "/circle":
            status, headers = 302, {"Location": "/circle"}
        elif path == "/named":
            headers = {"Content-Disposition": 'attachment; filename="given.bin"'}
        self.asked.append((path, status, dict(request.headers)))
        if path == "/short":
            response = web.StreamResponse(headers={"Content-Length": "100"})
            await response.prepare(request)
            await response.write(b"only this")
            assert request.transport is not None
            request.transport.close()
            return response
        return web.Response(status=status, headers=headers, body=b"" if status != 200 else self.body)


def serve(directory: Path, work: Callable[[Server, str, HttpDownloads], Awaitable[None]]) -> None:
    async def body() -> None:
        server = Server()
        app = web.Application()
        app.router.add_get("/{rest:.*}", server.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        for host in ("127.0.0.1", "127.0.0.2"):
            await web.TCPSite(runner, host, 0).start()
        server.other = f"http://127.0.0.2:{runner.addresses[1][1]}"
        (directory / "scratch").mkdir()
        downloads = HttpDownloads(str(directory / "http"), str(directory / "scratch"))
        try:
            await work(server, f"http://127.0.0.1:{runner.addresses[0][1]}", downloads)
        finally:
            await downloads.close()
            await runner.cleanup()
        assert not [name for name in os.listdir(directory / "http") if name.endswith(".part")]

    asyncio.run(body())


def content(tree: Tree) -> bytes:
    (path,) = tree.entries()
    with tree.open(path) as file:
        found = file.read()
    assert tree.digest(path) == "sha256:" + hashlib.sha256(found).hexdigest()
    tree.close()
    return found


def test_a_file_as_the_url_calls_it(tmp_path: Path) -> None:
    async def work(server: Server, url: str, downloads: HttpDownloads) -> None:
        tree = await downloads.fetch(HttpOp(url=f"{url}/dir/plain.txt?x=1"))
        (entry,) = tree.entries().values()
        assert (entry.path, entry.kind, entry.mode, entry.size, entry.mtime_ns) == ("plain.txt", "f", 0o600, 7000, 0)
        assert content(tree) == BODY
        assert list((await downloads.fetch(HttpOp(url=f"{url}/named"))).entries()) == ["given.bin"]
        tree = await downloads.fetch(HttpOp(url=f"{url}/dated", filename="own", mode=0o755))
        (entry,) = tree.entries().values()
        assert (entry.path, entry.mode, entry.mtime_ns) == ("own", 0o755, 1577836800 * 10**9)

    serve(tmp_path, work)


@pytest.mark.parametrize("path", ["/marked/file.txt", "/dated", "/moved"])
def test_what_did_not_change_is_not_sent_again(tmp_path: Path, path: str) -> None:
    async def work(server: Server, url: str, downloads: HttpDownloads) -> None:
        for _ in range(2):
            assert content(await downloads.fetch(HttpOp(url=url + path))) == BODY
        assert [status for asked, status, _ in server.asked if asked != "/moved"] == [200, 304]
        again = HttpDownloads(str(tmp_path / "http"), str(tmp_path / "scratch"))  # another daemon's life
        assert content(await again.fetch(HttpOp(url=url + path))) == BODY
        assert server.asked[-1][1] == 304
        await again.close()
        if path != "/dated":
            server.body, server.etag = b"changed", '"two"'
            assert content(await downloads.fetch(HttpOp(url=url + path))) == b"changed"

    serve(tmp_path, work)


def test_what_a_checksum_names_is_not_asked_for_twice(tmp_path: Path) -> None:
    async def work(server: Server, url: str, downloads: HttpDownloads) -> None:
        op = HttpOp(url=f"{url}/marked/x", checksum=DIGEST)
        assert content(await downloads.fetch(op)) == BODY
        assert content(await downloads.fetch(op)) == BODY
        assert len(server.asked) == 1
        with pytest.raises(InvalidArgument) as caught:
            await downloads.fetch(HttpOp(url=f"{url}/plain", checksum="sha256:" + "0" * 64))
        assert caught.value.message == f"digest mismatch {DIGEST}: sha256:{'0' * 64}"

    serve(tmp_path, work)


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/missing", InvalidArgument, "invalid response status 404"),
        ("/circle", Internal, "stopped after 10 redirects"),
        ("/short", Internal, "Get "),
    ],
)
def test_what_cannot_be_had(tmp_path: Path, path: str, kind: type[Exception], words: str) -> None:
    async def work(server: Server, url: str, downloads: HttpDownloads) -> None:
        with pytest.raises(kind, match=words):
            await downloads.fetch(HttpOp(url=url + path))
        assert os.listdir(tmp_path / "http") == []

    serve(tmp_path, work)


def test_nobody_listens(tmp_path: Path) -> None:
    async def work(server: Server, url: str, downloads: HttpDownloads) -> None:
        with pytest.raises(Internal, match="connection refused"):
            await downloads.fetch(HttpOp(url="http://127.0.0.1:1/x"))

    serve(tmp_path, work)


def test_authorization_goes_to_its_host_only_and_what_came_with_it_is_not_kept(tmp_path: Path) -> None:
    async def work(server: Server, url: str, downloads: HttpDownloads) -> None:
        host = url.removeprefix("http://")
        session: Any = Secrets({f"HTTP_AUTH_TOKEN_{host}": b"hush\n"})
        assert content(await downloads.fetch(HttpOp(url=f"{url}/marked/x"), session)) == BODY
        assert server.asked[-1][2]["Authorization"] == "Bearer hush"
        assert os.listdir(tmp_path / "http") == []
        await downloads.fetch(HttpOp(url=f"{url}/away"), session)
        assert [headers.get("Authorization") for _, _, headers in server.asked[-2:]] == ["Bearer hush", None]
        await downloads.fetch(HttpOp(url=url.replace("//", "//me:word@") + "/plain"))
        assert server.asked[-1][2]["Authorization"].startswith("Basic ")

    serve(tmp_path, work)


def test_a_body_is_kept_as_it_is(tmp_path: Path) -> None:
    """A compressed file is not unpacked on the way."""

    async def work(server: Server, url: str, downloads: HttpDownloads) -> None:
        server.body = gzip.compress(b"x" * 1000)
        assert content(await downloads.fetch(HttpOp(url=f"{url}/file.tgz"))) == server.body

    serve(tmp_path, work)


def test_the_cache_can_be_forgotten(tmp_path: Path) -> None:
    async def work(server: Server, url: str, downloads: HttpDownloads) -> None:
        for name in ("a", "b", "c"):
            (await downloads.fetch(HttpOp(url=f"{url}/marked/{name}"))).close()
        assert downloads.size_bytes() == 3 * len(BODY)
        assert downloads.forget(keep_bytes=2 * len(BODY)) == len(BODY)
        assert downloads.forget() == 2 * len(BODY)
        assert os.listdir(tmp_path / "http") == []

    serve(tmp_path, work)
