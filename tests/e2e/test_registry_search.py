"""`search`: an index on loopback through the API and both clients; words and filters are those of Docker Engine
28.5.
"""

from __future__ import annotations

import http.server
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import registry
from tests.support.engine import Engine
from tests.support.registry import Server, send

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]

RESULTS = [
    {"name": "busybox", "description": "A base image with words that do not all fit the column\nof the table",
     "star_count": 3300, "is_official": True, "is_automated": False},
    {"name": "bob/app", "description": "An app", "star_count": 5, "is_official": False, "is_automated": True},
    {"name": "bob/none", "description": "", "star_count": 0, "is_official": False, "is_automated": False},
]  # fmt: skip


def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
    if "q=broken" in handler.path:
        return send(handler, 503)
    if "q=junk" in handler.path:
        return send(handler, 200, b"junk")
    if "q=empty" in handler.path:
        return send(handler, 200, b'{"num_results": 0}')
    return send(handler, 200, json.dumps({"num_results": 3, "results": RESULTS}).encode())


@pytest.fixture(scope="module")
def index() -> Iterator[Server]:
    server = Server(answer)
    yield server
    server.close()


def found(engine: Engine, term: str, **query: str) -> list[str]:
    return [item["name"] for item in engine.call("GET", "/images/search", term=term, **query)]


def test_results_and_filters(shared_engine: Engine, index: Server) -> None:
    term = f"{index.host}/some words"
    whole = shared_engine.call("GET", "/images/search", term=term)
    assert whole == [{**item, "is_automated": False} for item in RESULTS]
    assert index.requests[-1][1] == "/v1/search?q=some+words&n=25"
    assert found(shared_engine, term, limit="2") == ["busybox", "bob/app", "bob/none"]  # the index decides
    assert index.requests[-1][1] == "/v1/search?q=some+words&n=2"
    assert found(shared_engine, term, filters='{"stars":["3"]}') == ["busybox", "bob/app"]
    assert found(shared_engine, term, filters='{"is-official":["true"]}') == ["busybox"]
    assert found(shared_engine, term, filters='{"is-official":["false"]}') == ["bob/app", "bob/none"]
    assert found(shared_engine, term, filters='{"is-automated":["true"]}') == []
    assert found(shared_engine, f"{index.host}/empty") == []


def test_credentials_go_to_the_index(shared_engine: Engine, index: Server) -> None:
    shared_engine.request("GET", "/images/search", term=f"{index.host}/x", headers=registry.header())
    assert index.requests[-1][2]["authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("term", "query", "status", "words"),
    [
        ("{index}/x", {"limit": "101"}, 400, "limit 101 is outside the range of [1, 100]"),
        ("{index}/x", {"limit": "abc"}, 400,
         'invalid limit specified: strconv.Atoi: parsing "abc": invalid syntax'),
        ("http://{index}/x", {}, 400,
         "invalid repository name: repository name (http://{index}/x) should not have a scheme"),
        ("{index}/x", {"filters": '{"stars":["x"]}'}, 400,
         'invalid filter \'stars=x\': strconv.Atoi: parsing "x": invalid syntax'),
        ("{index}/x", {"filters": '{"is-official":["maybe"]}'}, 400, "invalid filter 'is-official=[maybe]'"),
        ("{index}/x", {"filters": '{"foo":["x"]}'}, 400, "invalid filter 'foo'"),
        ("{index}/broken", {}, 500, "Unexpected status code 503"),
        ("{index}/junk", {}, 500,
         "error decoding registry search results: invalid character 'j' looking for beginning of value"),
        ("{nobody}/x", {}, 400,
         'invalid registry endpoint "http://{nobody}/v1/". HTTPS attempt: Get "https://{nobody}/v1/_ping": dial tcp '
         '{nobody}: connect: connection refused. HTTP attempt: Get "http://{nobody}/v1/_ping": dial tcp {nobody}: '
         "connect: connection refused"),
    ],
)  # fmt: skip
def test_refusals(
    shared_engine: Engine, index: Server, term: str, query: dict[str, Any], status: int, words: str
) -> None:
    hosts = {"index": index.host, "nobody": f"127.0.0.1:{registry.free_port()}"}
    refused = shared_engine.request("GET", "/images/search", term=term.format(**hosts), **query)
    said = words.replace("{index}", hosts["index"]).replace("{nobody}", hosts["nobody"])
    assert (refused.status, refused.message) == (status, said)


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--no-trunc",),
        ("--limit", "2"),
        ("-f", "stars=3", "-f", "is-official=false"),
        ("-f", "is-automated=true"),
        ("-f", "bad=1"),
        ("-f", "stars"),
        ("--limit", "x"),
        ("--format", "json"),
        ("--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}}|{{.Description}}"),
        ("--format", "table {{.Name}}\t{{.IsOfficial}}"),
        ("--format", "table", "--no-trunc"),
    ],
)
def test_both_clients_say_the_same(shared_engine: Engine, index: Server, docker: str, flags: tuple[str, ...]) -> None:
    runs = []
    for program in ("docker", "sampan"):
        done = shared_engine.cli(program, "search", *flags, f"{index.host}/busy", check=False)
        runs.append((done.returncode, done.stdout, done.stderr.replace("sampan", "docker")))
    assert runs[0] == runs[1]
