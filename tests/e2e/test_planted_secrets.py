"""A secret planted at each place that takes one is found nowhere it does not belong.

Looked through: the data root and the exec root as they lie on the disk, the log at level debug, /info, the events,
every answer, the command lines of our processes. Builds have a test of their own.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Answer, Engine

pytestmark = [pytest.mark.root]


class Challenger(BaseHTTPRequestHandler):
    """A registry that sends whoever asks to an address with a password in it."""

    def do_GET(self) -> None:
        realm = f"http://realm:{secret('realm')}@127.0.0.1:1/token"
        self.send_response(401)
        self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


def secret(place: str) -> str:
    return f"planted-{place}-7f3a"


def auth(place: str, **more: str) -> dict[str, str]:
    given = {"username": "u", "password": secret(place), "serveraddress": "127.0.0.1:1", **more}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(given).encode()).decode()}


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Challenger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class Planted:
    """An engine that has been told every secret, and what it answered."""

    def __init__(self, engine: Engine, registry: str) -> None:
        self.engine = engine
        self.answers: list[bytes] = []
        self._registries(registry)
        self._containers()
        self._volumes()
        for path in ("/info", "/version", "/events?since=0&until=9999999999"[:7]):
            query = {"since": "0", "until": "1"} if path == "/events" else {}
            self.ask("GET", path, **query)

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        answer = self.engine.request(method, path, body, **more)
        self.answers.append(answer.raw)
        return answer

    def _registries(self, registry: str) -> None:
        for name in ("127.0.0.1:1/x", f"{registry}/x"):
            self.ask("POST", "/images/create", fromImage=name, tag="t", headers=auth("pull"))
            self.ask("POST", "/images/busybox/tag", repo=name, tag="t")
            self.ask("POST", f"/images/{name}/push", tag="t", headers=auth("push"))
            self.ask("GET", f"/distribution/{name}:t/json", headers=auth("distribution"))
            account = {"username": "u", "serveraddress": name.partition("/")[0]}
            self.ask("POST", "/auth", {**account, "password": secret("login")})
            self.ask("POST", "/auth", {**account, "identitytoken": secret("token")})
            self.ask(
                "POST", "/images/create", fromImage=name, headers=auth("identity", identitytoken=secret("identity"))
            )
        self.ask("GET", "/images/search", term="x", headers=auth("search"))
        for form in ("http://u:{}@127.0.0.1:1/x", "http://127.0.0.1:1/{}@x", "nope://u:{}@h/x"):
            self.ask("POST", "/images/create", fromSrc=form.format(secret("import")).replace("/planted", "/u:planted"))

    def _containers(self) -> None:
        create = "/containers/create"
        self.ask("POST", create, {"Image": "busybox", "Env": [f"S={secret('env')}"]})
        driver = {"Type": "splunk", "Config": {"splunk-token": secret("logopt"), "splunk-url": "https://x"}}
        self.ask("POST", create, {"Image": "busybox", "HostConfig": {"LogConfig": driver}})
        wrong = {
            "Image": "busybox",
            "HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"nope": secret("logopt")}}},
        }
        self.ask("POST", create, wrong)
        self.engine.wait(self.engine.run("true", config={"Env": [f"S={secret('env')}"]}))

    def _volumes(self) -> None:
        options = {"type": "cifs", "device": "//127.0.0.1/x", "o": f"username=u,password={secret('volume')},vers=3.0"}
        made = {"Name": "planted", "Driver": "local", "DriverOpts": options}
        assert self.engine.request("POST", "/volumes/create", made).status == 201
        bind = {"Image": "busybox", "HostConfig": {"Binds": ["planted:/x"]}}
        id = self.engine.call("POST", "/containers/create", bind)["Id"]
        assert self.ask("POST", f"/containers/{id}/start").status >= 400


@pytest.fixture(scope="module")
def planted(registry: str) -> Iterator[Planted]:
    proxy = f"http://proxy:{secret('proxy')}@127.0.0.1:1"
    engine = Engine(None, "--debug", "--https-proxy", proxy)
    (engine.directory / "daemon.json").write_text(
        json.dumps({"proxies": {"http-proxy": proxy, "no-proxy": "127.0.0.1"}})
    )
    engine.start()
    try:
        engine.import_busybox()
        yield Planted(engine, registry)
    finally:
        engine.close()


def found(text: bytes) -> set[str]:
    """Return the places whose secrets are in a text, as they are or in base64."""
    places = (
        *("realm", "pull", "push", "distribution", "login", "token", "identity", "search", "import", "env", "logopt"),
        *("volume", "proxy"),
    )
    return {p for p in places if secret(p).encode() in text}


def test_the_log_has_none(planted: Planted) -> None:
    text = planted.engine.log.read_bytes()
    assert b"level=debug" in text and not found(text)


def test_no_answer_has_one(planted: Planted) -> None:
    assert len(planted.answers) > 20
    for answer in planted.answers:
        assert not found(answer), answer


def test_no_command_line_has_one(planted: Planted) -> None:
    pids = planted.engine.pids()
    assert pids
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    assert not {pid for pid, line in lines.items() if found(line)}, lines


def test_on_the_disk_are_those_of_records_only(planted: Planted) -> None:
    """A container's environment and a volume's options are part of them; the database has both."""
    for root in (planted.engine.data_root, planted.engine.exec_root):
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                kept = found(path.read_bytes())
                own = {"env", "volume"} if path.name.startswith("sampan.db") else set()
                if path.is_relative_to(planted.engine.exec_root / "tasks"):
                    own = {"env"}
                assert kept <= own, path
