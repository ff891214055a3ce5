"""What a client may rely on after an answer, on a whole engine: the next call sees the state that the answer tells of.

Answers marked so were given by Docker Engine 28.5.2 to the same request.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.engine import Engine, until

ROUNDS = 12


def create(engine: Engine, name: str, *command: str, **config: object) -> str:
    body = {"Image": "busybox", "Cmd": list(command), **config}
    id: str = engine.call("POST", "/containers/create", body, name=name)["Id"]
    return id


def start(engine: Engine, name: str, *command: str, **config: object) -> str:
    id = create(engine, name, *command, **config)
    engine.call("POST", f"/containers/{name}/start")
    return id


def state(engine: Engine, name: str) -> str:
    status: str = engine.call("GET", f"/containers/{name}/json")["State"]["Status"]
    return status


@pytest.mark.parametrize("how", ["kill", "stop?t=0", "restart?t=0"])
def test_what_ends_a_container_answers_after_it(shared_engine: Engine, how: str) -> None:
    network = shared_engine.call("POST", "/networks/create", {"Name": "ends"})["Id"]
    try:
        for _ in range(ROUNDS):
            start(shared_engine, "ends", "sleep", "1000", HostConfig={"NetworkMode": "ends"})
            shared_engine.call("POST", f"/containers/ends/{how}")
            if how.startswith("restart"):
                assert state(shared_engine, "ends") == "running"
                shared_engine.call("POST", "/containers/ends/kill")
            assert state(shared_engine, "ends") == "exited"
            assert shared_engine.request("DELETE", "/containers/ends").status == 204
            shared_engine.call("POST", "/networks/create", {"Name": "ends2"})
            assert shared_engine.request("DELETE", "/networks/ends2").status == 204
        assert shared_engine.request("DELETE", f"/networks/{network}").status == 204
    finally:
        shared_engine.request("DELETE", "/containers/ends", force=1)
        shared_engine.request("DELETE", f"/networks/{network}")


def test_a_network_can_go_right_after_its_last_container_was_stopped(shared_engine: Engine) -> None:
    for _ in range(ROUNDS):
        shared_engine.call("POST", "/networks/create", {"Name": "last"})
        start(shared_engine, "last", "sleep", "1000", HostConfig={"NetworkMode": "last"})
        shared_engine.call("POST", "/containers/last/stop", t=0)
        assert shared_engine.request("DELETE", "/networks/last").status == 204
        shared_engine.call("DELETE", "/containers/last")


def test_a_removal_by_force_and_a_start_agree(shared_engine: Engine) -> None:
    def both(n: int) -> tuple[int, int]:
        name = f"meet-{n}"
        create(shared_engine, name, "sleep", "1000")
        with ThreadPoolExecutor(1) as beside:
            starting = beside.submit(shared_engine.request, "POST", f"/containers/{name}/start")
            time.sleep(0.002 * (n % 8))
            removed = shared_engine.request("DELETE", f"/containers/{name}", force=1).status
        return removed, starting.result().status

    answers = [both(n) for n in range(24)]
    assert {removed for removed, _ in answers} == {204}
    assert {started for _, started in answers} <= {204, 404, 409, 500}
    assert not shared_engine.call("GET", "/containers/json", all=1, filters='{"name":["meet-"]}')


def test_a_commit_meets_an_end(shared_engine: Engine) -> None:
    for n in range(ROUNDS):
        start(shared_engine, "leaving", "sh", "-c", f"sleep 0.{n % 3}")
        answer = shared_engine.request("POST", "/commit", {}, container="leaving", repo="left", tag=str(n))
        assert answer.status == 201, answer.message
        shared_engine.call("DELETE", "/containers/leaving", force=1)
        shared_engine.call("DELETE", f"/images/left:{n}")


def test_who_is_told_of_an_end_can_ask_how_it_was(shared_engine: Engine) -> None:
    """docker compose up inspects a container at its die event, and stops with a panic when it is gone already."""
    found: list[tuple[int, bool]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.connect(str(shared_engine.socket))
    query = "filters=%7B%22event%22%3A%5B%22die%22%5D%2C%22label%22%3A%5B%22told%22%5D%7D"
    listener.sendall(f"GET /events?{query} HTTP/1.1\r\nHost: d\r\n\r\n".encode())

    def follow() -> None:
        for line in listener.makefile():
            if line.startswith("{"):
                answer = shared_engine.request("GET", f"/containers/{json.loads(line)['id']}/json")
                found.append((answer.status, answer.json["State"]["Running"]))

    following = threading.Thread(target=follow)
    following.start()
    try:
        for n in range(ROUNDS):
            start(shared_engine, f"told-{n}", "sleep", "1000", Labels={"told": "1"})
            shared_engine.call("DELETE", f"/containers/told-{n}", force=1)
            assert shared_engine.request("GET", f"/containers/told-{n}/json").status == 404
        until(lambda: len(found) == ROUNDS, 10, "all are told")
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        following.join()
        listener.close()
    assert set(found) == {(200, False)}


# --- create, start, update -------------------------------------------------------------------------------------------


def test_create_makes_the_working_directory(shared_engine: Engine) -> None:
    create(shared_engine, "works", "true", WorkingDir="/made/by/create", User="1000")
    try:
        assert shared_engine.call("GET", "/containers/works/changes") == [  # as Docker answered
            {"Path": "/made", "Kind": 1},
            {"Path": "/made/by", "Kind": 1},
            {"Path": "/made/by/create", "Kind": 1},
        ]
        archive = shared_engine.request("GET", "/containers/works/archive?path=/made").raw
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            assert [(m.name, m.mode & 0o7777, m.uid) for m in tar] == [
                ("made", 0o755, 0),
                ("made/by", 0o755, 0),
                ("made/by/create", 0o755, 0),
            ]
        refused = shared_engine.request("POST", "/containers/create", {"Image": "busybox", "WorkingDir": "/bin/sh"})
        assert (refused.status, refused.message) == (500, "Cannot mkdir: /bin/sh is not a directory")
    finally:
        shared_engine.call("DELETE", "/containers/works")


@pytest.mark.parametrize(
    ("body", "status"),  # as Docker answered
    [(b"{}", 204), (b"null", 204), (b"1234567", 204), (b'{"a":1}', 204), (b'{"ab":1}', 400), (b"12345678", 400)],
)
def test_a_start_with_a_body(shared_engine: Engine, body: bytes, status: int) -> None:
    create(shared_engine, "body", "true")
    try:
        assert shared_engine.request("POST", "/containers/body/start", body).status == status
    finally:
        shared_engine.call("DELETE", "/containers/body", force=1)


@pytest.mark.parametrize(("asked", "shown"), [(0, None), (-1, None), (5, 5), (None, None)])
def test_a_limit_of_processes_as_docker_shows_it(shared_engine: Engine, asked: object, shown: object) -> None:
    def limit() -> object:
        found: object = shared_engine.call("GET", "/containers/pids/json")["HostConfig"]["PidsLimit"]
        return found

    create(shared_engine, "pids", "true", HostConfig={"PidsLimit": asked})
    try:
        assert limit() == shown
        for value, then in ((-1, 0), (7, 7), (0, 0)):
            shared_engine.call("POST", "/containers/pids/update", {"PidsLimit": value})
            assert limit() == then
    finally:
        shared_engine.call("DELETE", "/containers/pids")


def test_what_was_given_empty_is_shown_as_docker_shows_it(shared_engine: Engine) -> None:
    lists = ("Binds", "BlkioWeightDevice", "CapAdd", "Devices", "Dns", "ExtraHosts", "GroupAdd", "Links", "Ulimits")
    body = {"Env": [], "Entrypoint": [], "Volumes": {}, "OnBuild": [], "HostConfig": {name: [] for name in lists}}
    create(shared_engine, "empty", "true", **body)
    create(shared_engine, "absent", "true")
    try:
        found = shared_engine.call("GET", "/containers/empty/json")
        config, host = found["Config"], found["HostConfig"]
        assert (config["Entrypoint"], config["Volumes"], config["OnBuild"]) == ([], None, [])
        assert {name: host[name] for name in lists} == {**{name: [] for name in lists}, "Links": None}
        found = shared_engine.call("GET", "/containers/absent/json")
        assert {name: found["HostConfig"][name] for name in lists} == dict.fromkeys(lists)
        assert (found["Config"]["Entrypoint"], found["Config"]["Volumes"], found["Config"]["OnBuild"]) == (None,) * 3
    finally:
        for name in ("empty", "absent"):
            shared_engine.call("DELETE", f"/containers/{name}")


def test_whole_answers_are_not_escaped_for_html(shared_engine: Engine) -> None:
    create(shared_engine, "plain", "echo", "<a>&b", Labels={"x": "<&>"})
    try:
        for path in ("/containers/plain/json", "/containers/json?all=1"):
            raw = shared_engine.request("GET", path).raw
            assert b"<&>" in raw and b"\\u003c" not in raw
        missing = shared_engine.request("GET", "/containers/%3Cnope%3E/json").raw
        assert missing == b'{"message":"No such container: <nope>"}\n'
    finally:
        shared_engine.call("DELETE", "/containers/plain")


@pytest.mark.parametrize(
    ("path", "status", "message"),  # as Docker answered
    [
        ("/containers/asked/exec", 400, "No exec command specified"),
        (
            "/commit?container=nope&repo=UPPER",
            400,
            "invalid reference format: repository name (library/UPPER) must be lowercase",
        ),
        (
            "/containers/create?platform=bogus/x/y/z",
            400,
            '"bogus/x/y/z": cannot parse platform specifier: invalid argument',
        ),
        ("/containers/create?platform=lin*", 400, '"lin*": wildcards not yet supported: invalid argument'),
        (
            "/containers/create?platform=linux/a%20b",
            400,
            '"a b" is an invalid component of "linux/a b": platform specifier component must match'
            ' "^[A-Za-z0-9_.-]+$": invalid argument',
        ),
        (
            "/containers/create?platform=%20",
            400,
            '" " is an invalid OS component of " ": OSAndVersion specifier component must match'
            r' "^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+[A-Za-z0-9_.%-]+)*)\\))?$": invalid argument',
        ),
    ],
)
def test_refusals_in_dockers_words_and_order(shared_engine: Engine, path: str, status: int, message: str) -> None:
    start(shared_engine, "asked", "sleep", "100")
    try:
        body = {"Image": "busybox", "Cmd": ["true"]} if "create" in path else None
        answer = shared_engine.request("POST", path, body)
        assert (answer.status, answer.message) == (status, message)
    finally:
        shared_engine.call("DELETE", "/containers/asked", force=1)


# --- clients that stall ----------------------------------------------------------------------------------------------


def test_stalled_archives_stop_nobody(shared_engine: Engine) -> None:
    start(shared_engine, "stalled", "sh", "-c", "head -c 50000000 /dev/zero >/big; sleep 1000")
    clients = []
    try:
        size = "/containers/stalled/archive?path=/big"
        until(lambda: b"50000000" in base64.b64decode(stat(shared_engine, size)), 20, "the file")
        for request in (
            f"GET {size} HTTP/1.1\r\nHost: d\r\n\r\n",
            "GET /containers/stalled/export HTTP/1.1\r\nHost: d\r\n\r\n",
            "PUT /containers/stalled/archive?path=/ HTTP/1.1\r\nHost: d\r\nContent-Length: 100000\r\n\r\n0000",
        ):
            for _ in range(16):
                client = socket.socket(socket.AF_UNIX)
                client.connect(str(shared_engine.socket))
                client.sendall(request.encode())
                clients.append(client)
        time.sleep(0.5)
        began = time.monotonic()
        create(shared_engine, "beside", "true", HostConfig={"Binds": ["stalled-volume:/bin"]})
        assert shared_engine.request("GET", "/containers/stalled/archive?path=/bin/sh").status == 200
        archive = io.BytesIO()
        tarfile.open(fileobj=archive, mode="w").close()
        put = shared_engine.request("PUT", "/containers/beside/archive?path=/", archive.getvalue())
        assert put.status == 200
        assert time.monotonic() - began < 10
    finally:
        for client in clients:
            client.close()
        for name in ("stalled", "beside"):
            shared_engine.request("DELETE", f"/containers/{name}", force=1)
        shared_engine.request("DELETE", "/volumes/stalled-volume")


def stat(engine: Engine, path: str) -> str:
    return engine.request("HEAD", path).headers["X-Docker-Container-Path-Stat"] or ""


# --- probes ----------------------------------------------------------------------------------------------------------


def _processes(of: str) -> Callable[[], int]:
    def count() -> int:
        found = 0
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found += of in file.read_text(errors="replace").replace("\0", " ")
            except OSError:
                continue
        return found

    return count


def test_a_probe_that_takes_too_long_is_ended_with_its_children(shared_engine: Engine) -> None:
    probe = {"Test": ["CMD-SHELL", "echo said; sleep 4329 & (sleep 4329; true); true"], "Retries": 1}
    times = {"Interval": 300_000_000, "Timeout": 1_500_000_000}
    start(shared_engine, "probed", "sleep", "1000", Healthcheck={**probe, **times})
    sleeping = _processes("sleep 4329")
    try:

        def health() -> dict[str, object]:
            found: dict[str, object] = shared_engine.call("GET", "/containers/probed/json")["State"]["Health"]
            return found

        until(lambda: health()["Status"] == "unhealthy", 15, "the verdict")
        first = shared_engine.call("GET", "/containers/probed/json")["State"]["Health"]["Log"][0]
        assert first["ExitCode"] == -1
        assert first["Output"] == "Health check exceeded timeout (1.5s): said\n"
        time.sleep(2)
        assert sleeping() <= 4  # those of the probe that runs now: the shell's text names it, too
    finally:
        shared_engine.call("DELETE", "/containers/probed", force=1)
    until(lambda: sleeping() == 0, 5, "no probe is left")


# --- ps and events ---------------------------------------------------------------------------------------------------


def test_ancestors_are_images_that_an_image_was_made_from(shared_engine: Engine) -> None:
    def listed(ancestor: str) -> set[str]:
        filters = f'{{"ancestor":["{ancestor}"],"name":["^anc-"]}}'
        return {row["Names"][0] for row in shared_engine.call("GET", "/containers/json", all=1, filters=filters)}

    for tag, text in (
        ("label", "FROM busybox\nLABEL only=1\n"),
        ("run", "FROM busybox\nRUN echo 1 >/made\n"),
        ("bare", "FROM scratch\nLABEL bare=1\n"),
    ):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        headers = {"Content-Type": "application/x-tar"}
        built = shared_engine.request("POST", "/build", archive.getvalue(), headers=headers, t=f"anc:{tag}")
        assert built.status == 200 and b"errorDetail" not in built.raw, built.raw
        shared_engine.call("POST", "/containers/create", {"Image": f"anc:{tag}", "Cmd": ["true"]}, name=f"anc-{tag}")
    create(shared_engine, "anc-base", "true")
    try:
        assert listed("busybox") == {"/anc-base", "/anc-label", "/anc-run"}
        assert listed("anc:label") == {"/anc-label"}
        assert listed("anc:run") == {"/anc-run"}
        assert listed("anc:bare") == {"/anc-bare"}
    finally:
        for name in ("label", "run", "bare", "base"):
            shared_engine.call("DELETE", f"/containers/anc-{name}")
        for tag in ("label", "run", "bare"):
            shared_engine.call("DELETE", f"/images/anc:{tag}")


def test_a_container_that_left_its_network_stays_off_it(shared_engine: Engine) -> None:
    """Docker Engine 28.5.2 has such a container on no network after a restart, also when its network is gone."""
    try:
        for name in ("left", "left2"):
            shared_engine.call("POST", "/networks/create", {"Name": name})
        start(shared_engine, "leaver", "sleep", "1000", HostConfig={"NetworkMode": "left"})
        shared_engine.call("POST", "/networks/left/disconnect", {"Container": "leaver"})
        shared_engine.call("POST", "/containers/leaver/restart?t=0")
        shown = shared_engine.inspect("leaver")
        assert (shown["State"]["Status"], shown["NetworkSettings"]["Networks"]) == ("running", {})
        shared_engine.call("DELETE", "/networks/left")
        shared_engine.call("POST", "/containers/leaver/restart?t=0")
        shared_engine.call("POST", "/networks/left2/connect", {"Container": "leaver"})
        assert shared_engine.inspect("leaver")["NetworkSettings"]["Networks"]["left2"]["IPAddress"]
        refused = shared_engine.request("POST", "/containers/leaver/restart?t=0")
        assert (refused.status, refused.message) == (
            404,
            "Cannot restart container leaver: failed to set up container networking: could not find a network matching"
            " network mode left: network left not found",
        )
    finally:
        shared_engine.request("DELETE", "/containers/leaver", force=1)
        for name in ("left", "left2"):
            shared_engine.request("DELETE", f"/networks/{name}")


def together(*works: Callable[[], object]) -> list[object]:
    """Do these at the same time."""
    with ThreadPoolExecutor(len(works)) as threads:
        return [done.result() for done in [threads.submit(work) for work in works]]


def test_clients_beside_each_other_all_get_what_they_were_told(shared_engine: Engine) -> None:
    """Restarts leave it running, copies of one file all succeed, one that asks for it has the volumes removed."""
    sent = io.BytesIO()
    with tarfile.open(fileobj=sent, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = 1000
        tar.addfile(info, io.BytesIO(bytes(1000)))
    try:
        for _ in range(ROUNDS // 2):
            start(shared_engine, "many", "sleep", "1000", Volumes={"/v": {}}, HostConfig={"NetworkMode": "none"})
            restart = lambda: shared_engine.request("POST", "/containers/many/restart?t=0").status  # noqa: E731
            assert together(restart, restart, restart) == [204] * 3
            assert state(shared_engine, "many") == "running"
            put = lambda: shared_engine.request("PUT", "/containers/many/archive?path=/tmp", sent.getvalue())  # noqa: E731
            assert [answer.status for answer in together(*[put] * 6)] == [200] * 6  # type: ignore[attr-defined]
            volume = shared_engine.inspect("many")["Mounts"][0]["Name"]
            told = together(
                lambda: shared_engine.request("DELETE", "/containers/many?force=1").status,
                lambda: shared_engine.request("DELETE", "/containers/many?force=1&v=1").status,
            )
            assert set(told) <= {204, 404, 409} and 204 in told
            if told[1] == 204:
                assert shared_engine.request("GET", f"/volumes/{volume}").status == 404
            else:
                shared_engine.request("DELETE", f"/volumes/{volume}")
    finally:
        shared_engine.request("DELETE", "/containers/many", force=1, v=1)
