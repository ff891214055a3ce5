"""Clients that stand still: they ask and never read, send half of what they announce and never go on, or vanish.

Whoever stands still holds up nobody else: memory stays bounded, the same request of another client is answered, and
when the clients are gone the daemon has the descriptors and threads that it had before.

Source: Engine API 1.51; Docker Engine 28.5 holds a container's output while an attached client does not read.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from tests.support import busybox
from tests.support.engine import Engine, until
from tests.support.tars import tar_of

pytestmark = pytest.mark.root

CLIENTS = int(os.environ.get("SAMPAN_STALLED_CLIENTS", "12"))
GROWTH_BYTES = 8 * 1024 * 1024  # whatever their number
EACH_BYTES = 3 * 512 * 1024
POOLED = 16  # threads of the loop's own pool, which stay
SOON_S = 30.0
BIG_BYTES = 8 * 1024 * 1024


def connect(engine: Engine, sent: bytes) -> socket.socket:
    """Send this on a connection of its own, and read nothing."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(SOON_S)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(str(engine.socket))
    client.sendall(sent)
    return client


def head(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} /v1.51{path} HTTP/1.1", "Host: d", *headers]
    if body or method != "GET":
        lines += [f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def taken_over(path: str, body: bytes = b"") -> bytes:
    return head("POST", path, "Connection: Upgrade", "Upgrade: tcp", "Content-Type: application/json", body=body)


def chunked(method: str, path: str, begun: bytes, content_type: str = "application/x-tar") -> bytes:
    """A request whose body has begun and never ends."""
    lines = f"{method} /v1.51{path} HTTP/1.1\r\nHost: d\r\nContent-Type: {content_type}\r\n"
    return f"{lines}Transfer-Encoding: chunked\r\n\r\n{len(begun):x}\r\n".encode() + begun + b"\r\n"


@dataclass(frozen=True)
class Use:
    """What the daemon and its children hold."""

    memory: dict[int, int]
    descriptors: int
    threads: int


def use(engine: Engine) -> Use:
    daemon = engine.pid_of("sampand --exec")
    return Use(
        {pid: _anonymous(pid) for pid in engine.pids()},
        len(os.listdir(f"/proc/{daemon}/fd")),
        len(os.listdir(f"/proc/{daemon}/task")),
    )


def _anonymous(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def grown(engine: Engine, before: Use) -> dict[str, int]:
    """By how much each process has grown, by title."""
    titles = engine.pids()
    return {titles[pid]: _anonymous(pid) - before.memory.get(pid, 0) for pid in titles if pid in before.memory}


@contextmanager
def stalled(engine: Engine, *requests: bytes) -> Iterator[list[socket.socket]]:
    """Clients that have sent this, and read nothing; gone at the end of the block."""
    clients = [connect(engine, sent) for sent in requests]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


@pytest.fixture(scope="module")
def own() -> Iterator[Engine]:
    engine = Engine().start()
    try:
        engine.import_busybox()
        fill = f"dd if=/dev/urandom of=/big bs=1M count={BIG_BYTES >> 20} 2>/dev/null"
        loud = "while :; do yes 0123456789abcdef | head -c 2000000; sleep 0.2; done"
        engine.run("sh", "-c", f"{fill}; touch /filled; exec sleep 100000", name="big")
        engine.run("sh", "-c", loud, name="loud", LogConfig={"Type": "json-file", "Config": {"max-size": "20m"}})
        found = "/containers/big/archive?path=/filled"
        until(lambda: engine.request("HEAD", found).status == 200, SOON_S, "the file is written")
        engine.call("POST", "/commit", container="big", repo="large")
        yield engine
        log = engine.log.read_text()
        assert "Traceback" not in log and "level=error" not in log, log[-4000:]
    finally:
        engine.close()


def exec_of(engine: Engine, *command: str, stdin: bool = False) -> str:
    asked = {"Cmd": list(command), "AttachStdin": stdin, "AttachStdout": True, "AttachStderr": True}
    id: str = engine.call("POST", "/containers/big/exec", asked)["Id"]
    return id


def first(engine: Engine, sent: bytes, length: int) -> bytes:
    """What another client gets that reads: the beginning of its answer."""
    client, data = connect(engine, sent), b""
    try:
        while len(data) < length and (piece := client.recv(65536)):
            data += piece
    finally:
        client.close()
    return data


def come_back(engine: Engine, before: Use) -> None:
    """The daemon holds what it held before. Threads of a pool end when they have been idle."""

    def as_before() -> bool:
        now = use(engine)
        return now.descriptors <= before.descriptors + 2 and now.threads <= before.threads + POOLED

    until(as_before, SOON_S, "descriptors and threads come back")


Requests = Callable[[Engine], list[bytes]]


def same(sent: bytes) -> Requests:
    return lambda engine: [sent] * (CLIENTS + 2)


def execs(engine: Engine) -> list[bytes]:
    ids = [exec_of(engine, "sh", "-c", "yes | head -c 3000000") for _ in range(CLIENTS + 2)]
    return [taken_over(f"/exec/{id}/start", b"{}") for id in ids]


def builds(engine: Engine) -> list[bytes]:
    context = tar_of({"Dockerfile": b"FROM busybox\nRUN yes 0123456789abcdef | head -c 4000000\n"})
    made = head("POST", "/build?nocache=1&version=1", "Content-Type: application/x-tar", body=context)
    return [made] * 8  # more than run at once on a small machine


READERS: dict[str, tuple[Requests, int]] = {
    "attach": (same(taken_over("/containers/loud/attach?stream=1&stdout=1&stderr=1")), 1_000),
    "exec": (execs, 3_000_000),
    "logs": (same(head("GET", "/containers/loud/logs?stdout=1&stderr=1&follow=1")), 1_000_000),
    "events": (same(head("GET", "/events?since=1")), 1_000),
    "stats": (same(head("GET", "/containers/loud/stats?stream=1")), 1_000),
    "wait": (same(head("POST", "/containers/loud/wait")), 100),
    "top": (same(head("GET", "/containers/loud/top")), 100),
    "export": (same(head("GET", "/containers/big/export")), BIG_BYTES),
    "archive": (same(head("GET", "/containers/big/archive?path=/big")), BIG_BYTES),
    "save": (same(head("GET", "/images/large/get")), BIG_BYTES),
    "df": (same(head("GET", "/system/df")), 100),
    "session": (same(head("POST", "/session", "Connection: Upgrade", "Upgrade: h2c")), 10),
    "build": (builds, 2_500_000),
}
"""Route → its requests, and how much of an answer another client gets meanwhile."""


@pytest.mark.parametrize("route", READERS)
def test_readers_that_do_not_read(own: Engine, route: str) -> None:
    requests, length = READERS[route]
    warm, other, *sent = requests(own)
    with stalled(own, warm):
        first(own, other, 100) if route not in ("exec", "attach") else None
    before = use(own)
    with stalled(own, *sent):
        if route == "events":
            for _ in range(100):
                own.call("POST", "/containers/big/exec", {"Cmd": ["true"], "Env": ["A=" + "x" * 3000]})
        if route != "attach":  # there the container waits for the one that does not read, as in Docker
            assert len(first(own, other, length)) >= length
        assert own.request("GET", "/_ping").status == 200
        assert own.call("GET", "/containers/big/json")["State"]["Running"]
        for title, by in grown(own, before).items():
            assert by < GROWTH_BYTES + EACH_BYTES * len(sent) * (2 if route == "build" else 1), (title, by)
    come_back(own, before)


def test_the_container_goes_on_when_the_client_that_does_not_read_has_gone(own: Engine) -> None:
    def size() -> int:
        return len(own.logs("loud", tail="3", timestamps="1"))

    with stalled(own, taken_over("/containers/loud/attach?stream=1&stdout=1")):
        pass
    last = own.logs("loud", tail="1", timestamps="1")
    until(lambda: own.logs("loud", tail="1", timestamps="1") != last, SOON_S, "it writes")
    assert size()


def test_more_saves_that_stand_still_than_there_are_threads(own: Engine) -> None:
    before = use(own)
    save = head("GET", "/images/large/get")
    with stalled(own, *[save] * 70):
        archive = own.request("GET", "/images/large/get").raw
        assert len(archive) > BIG_BYTES
        loaded = own.request("POST", "/images/load", archive, headers={"Content-Type": "application/x-tar"})
        assert b"Loaded image: large" in loaded.raw
        context = tar_of({"Dockerfile": b"FROM busybox\nRUN echo built\n"})
        built = own.request("POST", "/build", context, headers={"Content-Type": "application/x-tar"}, nocache="1")
        assert b"Successfully built" in built.raw
        until(lambda: use(own).threads < before.threads + 40, SOON_S, "those who stand still hold no thread")
    come_back(own, before)


HALF_A_TAR = busybox.root_tar()[:200_000]

WRITERS: dict[str, Requests] = {
    "nothing": same(b""),
    "half a head": same(b"GET /v1.51/info HTTP/1.1\r\nHost: d\r\nX-Some"),
    "half of a JSON body": same(head("POST", "/containers/create", body=b"{}").replace(b": 2", b": 2000000")),
    "archive": same(chunked("PUT", "/containers/big/archive?path=/tmp", HALF_A_TAR)),
    "load": same(chunked("POST", "/images/load", HALF_A_TAR)),
    "import": same(chunked("POST", "/images/create?fromSrc=-&repo=half", HALF_A_TAR)),
    "build": same(chunked("POST", "/build", HALF_A_TAR)),
    "buildkit": same(chunked("POST", "/build?version=2", HALF_A_TAR)),
    "stdin": lambda engine: [
        taken_over(f"/exec/{exec_of(engine, 'sleep', '1000', stdin=True)}/start", b"{}") + b"x" * 100_000
        for _ in range(CLIENTS + 2)
    ],
}


@pytest.mark.parametrize("body", WRITERS)
def test_writers_that_stop_in_the_middle(own: Engine, body: str) -> None:
    warm, _, *sent = WRITERS[body](own)
    with stalled(own, warm):
        own.request("GET", "/_ping")
    before = use(own)
    with stalled(own, *sent):
        archive = tar_of({"new": body.encode()})
        headers = {"Content-Type": "application/x-tar"}
        assert own.request("PUT", "/containers/big/archive?path=/tmp", archive, headers=headers).status == 200
        assert (
            b"errorDetail"
            not in own.request("POST", "/images/create", archive, headers=headers, fromSrc="-", repo="whole").raw
        )
        built = own.request("POST", "/build", tar_of({"Dockerfile": b"FROM busybox\n"}), headers=headers)
        assert b"Successfully built" in built.raw
        for title, by in grown(own, before).items():
            assert by < GROWTH_BYTES + EACH_BYTES * len(sent), (title, by)
    come_back(own, before)
    assert not own.call("GET", "/images/json", filters='{"reference": ["half"]}')


POINTS = ("before the head", "in the head", "after the head", "in the body", "after it all", "after an answer")


def left_at(own: Engine, sent: bytes, point: str) -> None:
    """Leave at a point of a request."""
    end = sent.index(b"\r\n\r\n") + 4 if b"\r\n\r\n" in sent else len(sent)
    cut = {"before the head": 0, "in the head": end // 2, "after the head": end, "in the body": (end + len(sent)) // 2}
    client = connect(own, sent[: cut.get(point, len(sent))])
    if point == "after an answer":
        with suppress(TimeoutError):
            client.settimeout(0.3)
            client.recv(1)
            client.recv(10_000)
    client.close()


@pytest.mark.parametrize("route", [*READERS, *(f"writer: {body}" for body in WRITERS)])
def test_clients_that_leave(own: Engine, route: str) -> None:
    requests = READERS[route][0] if route in READERS else WRITERS[route.removeprefix("writer: ")]
    before, logged = use(own), own.log.stat().st_size
    sent = requests(own)
    for point in POINTS:
        left_at(own, sent.pop(), point)
        own.request("GET", "/_ping")
    come_back(own, before)
    with own.log.open() as log:
        log.seek(logged)
        told = log.read()
    assert "Traceback" not in told and "level=error" not in told and "never retrieved" not in told, told
