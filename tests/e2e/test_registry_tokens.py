"""Who may, for how long: OAuth2 and identity tokens, tokens that run out in the middle, logins of both clients."""

from __future__ import annotations

import base64
import http.server
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import registry
from tests.support.engine import Engine
from tests.support.registry import Debian, Liar, Receiver, TokenServer
from tests.support.transfers import forget, import_file, messages, pull, push, random_image, states

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]


@pytest.fixture(scope="module")
def ours() -> Iterator[Engine]:
    engine = Engine().start()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    server = TokenServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def guarded(tmp_path: Path, tokens: TokenServer) -> Iterator[Debian]:
    server = Debian(tmp_path, auth=tokens.auth)
    yield server
    server.close()


def identity(token: str) -> dict[str, str]:
    """X-Registry-Auth for an identity token."""
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps({"identitytoken": token}).encode()).decode()}


def private(engine: Engine, name: str, scratch: Path) -> str:
    """An image as `name:1`; returns its id."""
    tar = scratch / "private.tar"
    tar.write_bytes(registry.layer({"private": name.encode()}))
    return import_file(engine, tar, name)


def test_an_identity_token(ours: Engine, tokens: TokenServer, guarded: Debian, tmp_path: Path) -> None:
    """The password is used once, for the refresh token; from then on the refresh token alone opens the registry."""
    name = f"{guarded.host}/private/app"
    made = private(ours, name, tmp_path)
    login = {"username": registry.USER, "password": registry.PASSWORD, "serveraddress": guarded.host}
    answer = ours.call("POST", "/auth", login)
    token = answer["IdentityToken"]
    assert answer["Status"] == "Login Succeeded" and token in tokens.refresh_tokens
    passwords = len(tokens.server.headers_of("authorization"))
    states(push(ours, name, headers=identity(token)))
    forget(ours, made)
    states(pull(ours, name, headers=identity(token)))
    again = {"identitytoken": token, "serveraddress": guarded.host}
    assert ours.call("POST", "/auth", again) == {"Status": "Login Succeeded", "IdentityToken": token}
    assert len(tokens.server.headers_of("authorization")) == passwords
    assert "repository:private/app:pull,push" in tokens.scopes and "repository:private/app:pull" in tokens.scopes
    refused = pull(ours, name, headers=identity("forged"))
    assert refused.status == 401 and "refresh token is not valid" in refused.message
    refused = ours.request("POST", "/auth", {**again, "identitytoken": "forged"})
    assert (refused.status, refused.message) == (
        401, f'Get "http://{guarded.host}/v2/": unauthorized: refresh token is not valid',
    )  # fmt: skip
    forget(ours, made)


@pytest.mark.parametrize("program", ["docker", "sampan"])
def test_the_clients_log_in(
    ours: Engine, tokens: TokenServer, guarded: Debian, tmp_path: Path, docker: str, program: str
) -> None:
    """`login` keeps the identity token and no password; pull and push use it; `logout` forgets it."""
    name = f"{guarded.host}/private/{program}"
    made = private(ours, name, tmp_path)
    done = ours.cli(program, "login", "-u", registry.USER, "--password-stdin", guarded.host, stdin=registry.PASSWORD)
    assert done.stdout.endswith("Login Succeeded\n")
    kept = json.loads((ours.directory / "client" / "config.json").read_text())["auths"][guarded.host]
    assert kept["identitytoken"] in tokens.refresh_tokens
    assert registry.PASSWORD not in base64.b64decode(kept["auth"]).decode()
    ours.cli(program, "push", f"{name}:1")
    forget(ours, made)
    assert f"Downloaded newer image for {name}:1" in ours.cli(program, "pull", f"{name}:1").stdout
    ours.cli(program, "logout", guarded.host)
    forget(ours, made)
    assert "pull access denied" in ours.cli(program, "pull", f"{name}:1", check=False).stderr
    ours.cli(program, "login", "-u", registry.USER, "--password-stdin", guarded.host, stdin="wrong", check=False)
    assert json.loads((ours.directory / "client" / "config.json").read_text())["auths"] == {}


def test_short_lived_tokens_are_renewed_before_they_end(ours: Engine, tokens: TokenServer) -> None:
    """Half a second before the end of a token of one second the next is asked for: no request is refused."""
    liar = Liar()
    try:
        tokens.lifetime_s = 1
        liar.images["app"] = wanted = random_image(1, layers=6, size=1000)
        refusals: list[str] = []

        def before(handler: http.server.BaseHTTPRequestHandler) -> bool:
            if not tokens.guards(handler):
                return False
            refusals.append(handler.path)
            return True

        def slow(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
            time.sleep(0.6)
            return False

        liar.before, liar.lies["app"] = before, slow
        states(pull(ours, f"{liar.host}/app", headers=registry.header()))
        assert len(tokens.scopes) >= 3
        assert refusals == ["/v2/"]
        forget(ours, wanted.id)
    finally:
        liar.close()


def test_a_pull_outlives_its_tokens(ours: Engine, tokens: TokenServer) -> None:
    """The token is void before the configuration comes, and again when a layer breaks off and others are under way."""
    liar = Liar()
    try:
        liar.images["app"] = wanted = random_image(2, layers=7, size=400_000)
        asked: list[str] = []
        cut: list[str] = []

        def before(handler: http.server.BaseHTTPRequestHandler) -> bool:
            if handler.path.endswith(wanted.id) and not asked:
                asked.append(handler.path)
                tokens.good.clear()
            return tokens.guards(handler)

        def lie(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
            if len(raw) < 100_000 or cut:
                return False
            cut.append(digest)
            tokens.good.clear()
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(raw)))
            handler.end_headers()
            handler.wfile.write(raw[:150_000])
            handler.close_connection = True
            return True

        liar.before, liar.lies["app"] = before, lie
        states(pull(ours, f"{liar.host}/app", headers=registry.header()))
        assert ours.call("GET", f"/images/{liar.host}/app:1/json")["Id"] == wanted.id
        assert len(tokens.scopes) >= 3 and cut
        forget(ours, wanted.id)
    finally:
        liar.close()


def test_a_push_outlives_its_tokens(ours: Engine, tokens: TokenServer, tmp_path: Path) -> None:
    """The token ends before a layer's body, again while it is resumed, and before the manifest."""
    receiver = Receiver()
    try:
        receiver.cut = [1_000_000]
        seen: list[str] = []

        def before(handler: http.server.BaseHTTPRequestHandler) -> bool:
            seen.append(handler.command)
            first_body = handler.command == "PATCH" and seen.count("PATCH") == 1
            if first_body or (handler.command == "PUT" and "/manifests/" in handler.path and tokens.lifetime_s):
                tokens.good.clear()
                tokens.lifetime_s = 0 if handler.command == "PUT" else tokens.lifetime_s
            return tokens.guards(handler)

        receiver.before = before
        name = f"{receiver.host}/app"
        tar = tmp_path / "big.tar"
        tar.write_bytes(registry.layer({"big": random_image(3, layers=1, size=8_000_000).tars[0]}))
        made = import_file(ours, tar, name)
        assert "Pushed" in states(push(ours, name, headers=registry.header()))
        manifest = json.loads(receiver.manifests["1"])
        assert manifest["config"]["digest"] == made
        assert set(receiver.blobs) == {made, *(layer["digest"] for layer in manifest["layers"])}
        assert seen.count("PATCH") == 3 and len(tokens.scopes) >= 3

        def never(handler: http.server.BaseHTTPRequestHandler) -> bool:
            tokens.good.clear()
            return tokens.guards(handler)

        receiver.before = never
        refused = messages(push(ours, name, headers=registry.header()))[-1]
        assert refused["error"] == "unauthorized: authentication required"
        forget(ours, made)
    finally:
        receiver.close()
