"""An answer that ends or changes something follows the record: the next call, sent at once on another connection, finds
the new state. Every way to learn of it × every call that may come next: all pairs with `SAMPAN_ROUNDS=50`, that often;
else each way with a few of the calls.
"""

from __future__ import annotations

import json
import os
import socket
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.engine import Answer, Engine, UnixConnection

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root"), pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("SAMPAN_ROUNDS", "0"))
NAME = "follows"
PROGRAM = ["sh", "-c", "trap 'exit 5' TERM; while :; do usleep 5000; done"]
SHORT = ["sh", "-c", "usleep 100000; exit 5"]


class Wire:
    """A connection that is kept: a request costs no connecting."""

    def __init__(self, path: str) -> None:
        self._connection = UnixConnection(path)
        self("GET", "/_ping")

    def __call__(self, method: str, path: str, body: object = None, **query: object) -> Answer:
        url = f"/v1.51{path}" + ("?" + urllib.parse.urlencode(query) if query else "")
        headers = {} if body is None else {"Content-Type": "application/json"}
        self._connection.request(method, url, None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def close(self) -> None:
        self._connection.close()


class Place:
    """Two connections to one engine, and the container that a case is about."""

    def __init__(self, engine: Engine) -> None:
        self.path = str(engine.socket)
        self.first, self.second = Wire(self.path), Wire(self.path)
        self.id = ""

    def close(self) -> None:
        self.clear()
        self.first.close()
        self.second.close()

    def clear(self) -> None:
        for name in (NAME, f"{NAME}-2"):
            self.first("DELETE", f"/containers/{name}", force=1, v=1)

    def create(self, *command: str, **host: object) -> None:
        body = {"Image": "busybox", "Cmd": command or PROGRAM, "Labels": {NAME: ""}, "HostConfig": host}
        answer = self.first("POST", "/containers/create", body, name=NAME)
        assert answer.status == 201, answer.raw
        self.id = answer.json["Id"]

    def run(self, *command: str, **host: object) -> None:
        self.create(*command, **host)
        self.ok("POST", f"/containers/{NAME}/start")

    def ok(self, method: str, path: str, body: object = None, **query: object) -> Answer:
        answer = self.first(method, path, body, **query)
        assert answer.status < 300, (path, answer.status, answer.raw)
        return answer

    @contextmanager
    def stream(self, method: str, path: str, body: object = None, **query: object) -> Iterator[Callable[[], None]]:
        """Open a stream; the yielded function reads it to its end."""
        connection = UnixConnection(self.path)
        data = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, f"/v1.51{path}?{urllib.parse.urlencode(query)}", data, headers)
        response = connection.getresponse()
        assert response.status == 200, response.read()

        def read() -> None:
            while response.read1():
                pass

        try:
            yield read
        finally:
            connection.close()

    @contextmanager
    def event(self, action: str) -> Iterator[Callable[[], None]]:
        """Listen; the yielded function returns when the container's event has come."""
        listener = socket.socket(socket.AF_UNIX)
        listener.settimeout(30)
        listener.connect(self.path)
        filters = urllib.parse.quote(json.dumps({"container": [self.id], "event": [action]}))
        listener.sendall(f"GET /v1.51/events?filters={filters} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += listener.recv(4096)

        def come() -> None:
            nonlocal received
            while b'"Action"' not in received:
                data = listener.recv(65536)
                assert data, received
                received += data

        try:
            yield come
        finally:
            listener.close()


# --- what ends or changes a container, and the state that it is in then ---------------------------------------------


def kill(signal: str) -> Callable[[Place], None]:
    def end(place: Place) -> None:
        place.run()
        place.ok("POST", f"/containers/{NAME}/kill", **({"signal": signal} if signal else {}))

    return end


def stop(**query: object) -> Callable[[Place], None]:
    def end(place: Place) -> None:
        place.run()
        place.ok("POST", f"/containers/{NAME}/stop", **query)

    return end


def wait(condition: str) -> Callable[[Place], None]:
    def end(place: Place) -> None:
        place.run(*SHORT, AutoRemove=condition == "removed")
        place.ok("POST", f"/containers/{NAME}/wait", **({"condition": condition} if condition else {}))

    return end


def attach(place: Place) -> None:
    place.create(*SHORT)
    with place.stream("POST", f"/containers/{NAME}/attach", stream=1, stdout=1, stderr=1) as read:
        place.ok("POST", f"/containers/{NAME}/start")
        read()


def follow(place: Place) -> None:
    place.run(*SHORT)
    with place.stream("GET", f"/containers/{NAME}/logs", follow=1, stdout=1) as read:
        read()


def told(action: str, *command: str, first: str = "", **query: object) -> Callable[[Place], None]:
    """Learn of a change from its event; another connection causes it."""

    def end(place: Place) -> None:
        place.run(*command)
        if first:
            place.ok("POST", f"/containers/{NAME}/{first}")
        verb = {"destroy": "", "die": "", "oom": ""}.get(action, action)
        with place.event(action) as come:
            causing = Wire(place.path)
            if action == "destroy":
                causing._connection.request("DELETE", f"/v1.51/containers/{NAME}?force=1")
            elif verb:
                url = f"/v1.51/containers/{NAME}/{verb}?{urllib.parse.urlencode(query)}"
                causing._connection.request("POST", url)
            come()
        if verb or action == "destroy":
            causing._connection.getresponse().read()
        causing.close()

    return end


def restart(place: Place) -> None:
    place.run()
    place.ok("POST", f"/containers/{NAME}/restart", t=0)


def verbs(*names: str) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        place.run()
        for name in names:
            place.ok("POST", f"/containers/{NAME}/{name}")

    return change


def remove(*, force: bool) -> Callable[[Place], None]:
    def end(place: Place) -> None:
        place.run()
        if not force:
            place.ok("POST", f"/containers/{NAME}/kill")
        place.ok("DELETE", f"/containers/{NAME}", **({"force": 1} if force else {}))

    return end


def prune(place: Place) -> None:
    place.run()
    place.ok("POST", f"/containers/{NAME}/kill")
    answer = place.ok("POST", "/containers/prune", filters=json.dumps({"label": [NAME]}))
    assert answer.json["ContainersDeleted"] == [place.id]


CHANGES: dict[str, tuple[Callable[[Place], None], str]] = {
    "kill": (kill(""), "exited"),
    "kill -s 9": (kill("9"), "exited"),
    "kill -s SIGKILL": (kill("SIGKILL"), "exited"),
    "stop -t 0": (stop(t=0), "exited"),
    "stop": (stop(t=1), "exited"),
    "stop -s KILL": (stop(signal="KILL"), "exited"),
    "wait": (wait(""), "exited"),
    "wait not-running": (wait("not-running"), "exited"),
    "wait next-exit": (wait("next-exit"), "exited"),
    "attach": (attach, "exited"),
    "logs -f": (follow, "exited"),
    "event die": (told("die", *SHORT), "exited"),
    "event stop": (told("stop", t=0), "exited"),
    "restart": (restart, "running"),
    "event restart": (told("restart", t=0), "running"),
    "unpause": (verbs("pause", "unpause"), "running"),
    "event unpause": (told("unpause", first="pause"), "running"),
    "pause": (verbs("pause"), "paused"),
    "event pause": (told("pause"), "paused"),
    "rm -f": (remove(force=True), ""),
    "rm": (remove(force=False), ""),
    "prune": (prune, ""),
    "wait removed": (wait("removed"), ""),
    "event destroy": (told("destroy"), ""),
}


# --- what may come next --------------------------------------------------------------------------------------------


def inspected(place: Place, state: str) -> None:
    answer = place.second("GET", f"/containers/{place.id}/json")
    if not state:
        assert answer.status == 404, answer.raw
        return
    found = answer.json["State"]
    assert (found["Status"], found["Running"]) == (state, state != "exited"), found
    assert (found["Pid"] == 0) == (state == "exited"), found
    assert found["FinishedAt"] > found["StartedAt"] or state != "exited", found


def listed(place: Place, state: str) -> None:
    active = {row["Id"]: row["State"] for row in place.second("GET", "/containers/json").json}
    assert active.get(place.id) == (state if state not in ("", "exited") else None)
    every = {row["Id"]: row["State"] for row in place.second("GET", "/containers/json", all=1).json}
    assert every.get(place.id, "") == state


def answers(method: str, path: str, body: object = None, **statuses: int) -> Callable[[Place, str], None]:
    """One request, and its status by the container's state."""

    def ask(place: Place, state: str) -> None:
        answer = place.second(method, path.format(id=place.id), body)
        assert answer.status == statuses[state or "gone"], (state, answer.status, answer.raw)

    return ask


def committed(place: Place, state: str) -> None:
    answer = place.second("POST", "/commit", {}, container=place.id)
    assert answer.status == (201 if state else 404), answer.raw
    if state:
        place.ok("DELETE", f"/images/{answer.json['Id']}")


def executed(place: Place, state: str) -> None:
    body = {"Cmd": ["true"], "AttachStdout": True}
    answer = place.second("POST", f"/containers/{place.id}/exec", body)
    assert answer.status == {"running": 201, "": 404}.get(state, 409), (state, answer.raw)
    if state == "running":
        exec_ = answer.json["Id"]
        with place.stream("POST", f"/exec/{exec_}/start", {"Detach": False}) as read:
            read()
        found = place.second("GET", f"/exec/{exec_}/json").json  # an exec's end is an end too
        assert (found["Running"], found["ExitCode"]) == (False, 0)


def named_again(place: Place, state: str) -> None:
    answer = place.second("POST", "/containers/create", {"Image": "busybox"}, name=NAME)
    assert answer.status == (409 if state else 201), answer.raw


NEXT: dict[str, Callable[[Place, str], None]] = {
    "inspect": inspected,
    "ps": listed,
    "rm": answers("DELETE", "/containers/{id}", exited=204, running=409, paused=409, gone=404),
    "commit": committed,
    "start": answers("POST", "/containers/{id}/start", exited=204, running=304, paused=409, gone=404),
    "exec": executed,
    "kill": answers("POST", "/containers/{id}/kill", exited=409, running=204, paused=204, gone=404),
    "stop": answers("POST", "/containers/{id}/stop?t=0", exited=304, running=204, paused=204, gone=404),
    "create": named_again,
}


@pytest.fixture(scope="module")
def place(shared_engine: Engine) -> Iterator[Place]:
    made = Place(shared_engine)
    yield made
    made.close()


@pytest.mark.parametrize("change", CHANGES)
def test_what_comes_next_finds_the_new_state(place: Place, change: str) -> None:
    make, state = CHANGES[change]
    names = [*NEXT]
    at = [*CHANGES].index(change) % (len(names) - 1) + 1
    for name in names * ROUNDS or ["inspect", names[at]]:
        place.clear()
        make(place)
        NEXT[name](place, state)
    place.clear()


# --- other answers ---------------------------------------------------------------------------------------------------


def test_an_execs_end_is_seen(place: Place) -> None:
    place.clear()
    place.run()
    for n in range(2 + 2 * ROUNDS):
        body = {"Cmd": ["sh", "-c", "exit 7"], "AttachStdout": True}
        exec_ = place.ok("POST", f"/containers/{NAME}/exec", body).json["Id"]
        with place.event("exec_die") as come:
            if n % 2:
                place.ok("POST", f"/exec/{exec_}/start", {"Detach": True})
                come()
            else:
                with place.stream("POST", f"/exec/{exec_}/start", {"Detach": False}) as read:
                    read()
        found = place.second("GET", f"/exec/{exec_}/json").json
        assert (found["Running"], found["ExitCode"]) == (False, 7)
        shown = place.second("GET", f"/containers/{NAME}/json").json["ExecIDs"] or []
        assert exec_ not in shown or os.environ.get("SAMPAN_TEST_SOCKET")
    place.clear()


def test_changes_without_an_end_are_seen(place: Place) -> None:
    """rename, update, connect, disconnect, tag, untag, and the removals of networks, volumes and images."""
    place.clear()
    first, second = place.ok, place.second
    for _ in range(1 + ROUNDS):
        place.run()
        first("POST", f"/containers/{NAME}/rename", name=f"{NAME}-2")
        assert second("GET", f"/containers/{NAME}/json").status == 404
        assert second("GET", f"/containers/{NAME}-2/json").json["Name"] == f"/{NAME}-2"
        first("POST", f"/containers/{NAME}-2/rename", name=NAME)
        first("POST", f"/containers/{NAME}/update", {"Memory": 64 << 20, "MemorySwap": -1})
        assert second("GET", f"/containers/{NAME}/json").json["HostConfig"]["Memory"] == 64 << 20
        network = first("POST", "/networks/create", {"Name": NAME}).json["Id"]
        assert NAME in {n["Name"] for n in second("GET", "/networks").json}
        first("POST", f"/networks/{NAME}/connect", {"Container": NAME})
        assert NAME in second("GET", f"/containers/{NAME}/json").json["NetworkSettings"]["Networks"]
        assert place.id in second("GET", f"/networks/{NAME}").json["Containers"]
        first("POST", f"/networks/{NAME}/disconnect", {"Container": NAME})
        assert NAME not in second("GET", f"/containers/{NAME}/json").json["NetworkSettings"]["Networks"]
        assert second("DELETE", f"/networks/{network}").status == 204
        assert first("GET", "/networks", filters=json.dumps({"name": [NAME]})).json == []
        first("POST", "/volumes/create", {"Name": NAME})
        assert second("GET", f"/volumes/{NAME}").status == 200
        first("DELETE", f"/volumes/{NAME}")
        assert second("GET", f"/volumes/{NAME}").status == 404
        first("POST", "/images/busybox/tag", repo=NAME, tag="1")
        assert second("GET", f"/images/{NAME}:1/json").status == 200
        first("DELETE", f"/images/{NAME}:1")
        assert second("GET", f"/images/{NAME}:1/json").status == 404
        first("DELETE", f"/containers/{NAME}", force=1)


def test_what_a_container_held_is_free_when_it_has_gone(place: Place) -> None:
    """The removals of its network, volume and image succeed at once."""
    place.clear()
    for _ in range(1 + ROUNDS):
        place.ok("POST", "/networks/create", {"Name": NAME})
        place.ok("POST", "/images/busybox/tag", repo=NAME, tag="1")
        place.run(NetworkMode=NAME, Binds=[f"{NAME}:/v"])
        made = place.ok("POST", "/commit", {}, container=NAME, repo=f"{NAME}-made").json["Id"]
        place.ok("DELETE", f"/containers/{NAME}", force=1)
        assert place.second("DELETE", f"/networks/{NAME}").status == 204
        assert place.second("DELETE", f"/volumes/{NAME}").status == 204
        assert place.second("DELETE", f"/images/{NAME}:1").status == 200
        assert place.second("DELETE", f"/images/{made}").status == 200
