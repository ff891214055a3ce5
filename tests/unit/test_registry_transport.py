"""The registry client's connections: certificates, certs.d, redirects, tokens that end. On loopback, against plain
servers.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Internal, SampanError
from sampan.registry import repository
from sampan.registry.auth import Credentials
from sampan.registry.endpoints import Endpoint, Settings
from sampan.registry.refusals import Refused
from sampan.registry.repository import Repository
from sampan.registry.transport import Transport
from tests.api import certificates
from tests.support import registry
from tests.support.registry import Image, Liar, send

BOB = Credentials(username=registry.USER, password=registry.PASSWORD)
IMAGE = Image([registry.layer({"a": b"x" * 1000})])


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    certificates.make(tmp_path)
    return tmp_path


@pytest.fixture
def servers() -> Iterator[Callable[..., Liar]]:
    made: list[Liar] = []

    def make(tls: Path | None = None) -> Liar:
        made.append(Liar(tls))
        made[-1].images["app"] = IMAGE
        return made[-1]

    yield make
    for server in made:
        server.close()


def run(work: Callable[[Transport], Coroutine[Any, Any, Any]], certs: Path | None = None) -> Any:
    async def main() -> Any:
        transport = Transport((str(certs),) if certs else ())
        try:
            return await work(transport)
        finally:
            await transport.close()

    return asyncio.run(main())


def answered(handler: http.server.BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> bool:
    send(handler, status, b"", headers)
    return True


def place(transport: Transport, base: str, credentials: Credentials = BOB, *, insecure: bool = False) -> Repository:
    return Repository(transport, Endpoint(base=base, path="app", insecure=insecure), credentials, Settings(attempts=2))


def test_an_unknown_authority_is_refused(tls: Path, servers: Callable[..., Liar]) -> None:
    base = f"https://{servers(tls).host}"
    with pytest.raises(Internal) as refused:
        run(lambda t: place(t, base).ping())
    assert refused.value.message == (
        f'Get "{base}/v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority'
    )
    run(lambda t: place(t, base, insecure=True).ping())


def test_certs_d(tls: Path, tmp_path: Path, servers: Callable[..., Liar]) -> None:
    server = servers(tls)
    directory = tmp_path / "certs.d" / server.host
    directory.mkdir(parents=True)
    shutil.copy(tls / "ca.pem", directory / "ca.crt")
    certs = tmp_path / "certs.d"
    found = run(lambda t: place(t, f"https://{server.host}").manifest("1"), certs)
    assert found.raw == IMAGE.manifest
    shutil.copy(tls / "client.pem", directory / "client.cert")
    with pytest.raises(Internal, match=r"missing key client\.key for client certificate client\.cert"):
        run(lambda t: place(t, f"https://{server.host}").ping(), certs)
    shutil.copy(tls / "client-key.pem", directory / "client.key")
    run(lambda t: place(t, f"https://{server.host}").ping(), certs)
    os.unlink(directory / "client.cert")
    with pytest.raises(Internal, match=r"missing client certificate client\.cert for key client\.key"):
        run(lambda t: place(t, f"https://{server.host}").ping(), certs)


def test_https_is_not_redirected_to_http(tls: Path, servers: Callable[..., Liar]) -> None:
    secure, plain = servers(tls), servers()
    directory = tls / "certs.d" / secure.host
    directory.mkdir(parents=True)
    shutil.copy(tls / "ca.pem", directory / "ca.crt")
    secure.before = lambda handler: answered(handler, 307, {"Location": f"http://{plain.host}{handler.path}"})
    with pytest.raises(Internal, match="refusing the redirect from https"):
        run(lambda t: place(t, f"https://{secure.host}").manifest("1"), tls / "certs.d")
    assert plain.server.requests == []


def test_an_origin_once_left_is_not_trusted_again(servers: Callable[..., Liar]) -> None:
    """A redirect away and back: what comes back asks without Authorization."""
    first, other = servers(), servers()

    def away(handler: http.server.BaseHTTPRequestHandler) -> bool:
        if "Authorization" not in handler.headers and handler.path == "/v2/":
            answered(handler, 401, {"WWW-Authenticate": "Basic realm=x"})
        elif "/manifests/1" in handler.path:
            answered(handler, 302, {"Location": f"http://{other.host}/back"})
        else:
            return False
        return True

    first.before = away
    other.before = lambda handler: answered(handler, 302, {"Location": f"http://{first.host}/v2/app/manifests/2"})

    async def work(transport: Transport) -> None:
        target = place(transport, f"http://{first.host}", insecure=True)
        await target.ping()
        await target.manifest("1")

    run(work)
    sent = {path: "authorization" in headers for _, path, headers in first.server.requests}
    assert sent == {"/v2/": False, "/v2/app/manifests/1": True, "/v2/app/manifests/2": False}
    assert not other.server.headers_of("authorization")


def test_a_mirror_gets_no_credentials(servers: Callable[..., Liar]) -> None:
    server = servers()
    server.before = lambda h: answered(h, 401, {"WWW-Authenticate": "Basic realm=x"})

    async def work(transport: Transport) -> None:
        endpoint = Endpoint(base=f"http://{server.host}", path="app", insecure=True, mirror=True)
        target = await repository.connect(transport, [endpoint], BOB, Settings(attempts=1))
        with pytest.raises(SampanError, match="no basic auth credentials"):
            await target.manifest("1")

    run(work)
    assert not server.server.headers_of("authorization")


def test_a_password_never_goes_over_plain_http(tls: Path, servers: Callable[..., Liar]) -> None:
    """A verified registry that names a plain token service."""
    secure, thief = servers(tls), servers()
    directory = tls / "certs.d" / secure.host
    directory.mkdir(parents=True)
    shutil.copy(tls / "ca.pem", directory / "ca.crt")
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{thief.host}/token"'}
    secure.before = lambda h: answered(h, 401, challenge)

    async def work(transport: Transport) -> None:
        target = place(transport, f"https://{secure.host}")
        await target.ping()
        with pytest.raises(SampanError, match="invalid token auth challenge realm"):
            await target.manifest("1")

    run(work, tls / "certs.d")
    assert thief.server.requests == []


def test_a_token_that_ran_out_is_renewed_once(servers: Callable[..., Liar]) -> None:
    server = servers()
    tokens: list[str] = []
    good = {"token2"}

    def answer(handler: http.server.BaseHTTPRequestHandler) -> bool:
        if handler.path.startswith("/token"):
            tokens.append(f"token{len(tokens) + 1}")
            send(handler, 200, json.dumps({"token": tokens[-1]}).encode())
        elif handler.headers.get("Authorization", "").removeprefix("Bearer ") not in good:
            realm = f'Bearer realm="http://{server.host}/token",service="s"'
            answered(handler, 401, {"WWW-Authenticate": realm})
        else:
            return False
        return True

    server.before = answer

    async def work(transport: Transport) -> None:
        target = place(transport, f"http://{server.host}", insecure=True)
        await target.ping()
        assert (await target.manifest("1")).raw == IMAGE.manifest
        assert tokens == ["token1", "token2"]
        good.clear()
        with pytest.raises(Refused) as refused:
            await target.manifest("1")
        assert refused.value.status == 401
        assert len(tokens) == 3

    run(work)


def test_a_manifest_with_another_digest_is_refused(servers: Callable[..., Liar]) -> None:
    base = f"http://{servers().host}"
    wrong = "sha256:" + "0" * 64
    with pytest.raises(Internal, match=f"manifest verification failed for digest {wrong}"):
        run(lambda t: place(t, base, insecure=True).manifest(wrong))


def test_an_endless_manifest_is_cut(servers: Callable[..., Liar]) -> None:
    server = servers()

    def endless(handler: http.server.BaseHTTPRequestHandler) -> bool:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while True:
            handler.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    server.before = endless
    with pytest.raises(Internal, match="more than 4194304 bytes"):
        run(lambda t: place(t, f"http://{server.host}", insecure=True).manifest("1"))


def test_redirects_end(servers: Callable[..., Liar]) -> None:
    server = servers()
    server.before = lambda h: answered(h, 302, {"Location": h.path})
    with pytest.raises(Internal, match="stopped after 10 redirects"):
        run(lambda t: place(t, f"http://{server.host}", insecure=True).manifest("1"))
    assert len(server.server.requests) == 10


def test_all_pages_of_tags(servers: Callable[..., Liar]) -> None:
    server = servers()

    def pages(handler: http.server.BaseHTTPRequestHandler) -> bool:
        if handler.path.endswith("tags/list"):
            send(handler, 200, b'{"tags":["a"]}', {"Link": '</v2/app/tags/list?last=a>; rel="next"'})
        else:
            send(handler, 200, b'{"tags":["b"]}')
        return True

    server.before = pages
    assert run(lambda t: place(t, f"http://{server.host}", insecure=True).tags()) == ["a", "b"]


def test_words_for_nobody_there() -> None:
    port = registry.free_port()
    with pytest.raises(Internal) as refused:
        run(lambda t: place(t, f"http://127.0.0.1:{port}", insecure=True).ping())
    assert refused.value.message == (
        f'Get "http://127.0.0.1:{port}/v2/": dial tcp 127.0.0.1:{port}: connect: connection refused'
    )
