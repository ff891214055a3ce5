"""Links on the default bridge, on a whole engine: what a container is told of its sources, and that it stays true.

What is expected is what Docker Engine 28.5.2 answers, except in the tests that say otherwise; docs/compatibility.md
has those. `SAMPAN_TEST_SOCKET` with the reference's socket proves the others on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.engine import Engine, until

VARIABLES = """\
A_B.C_PORT=tcp://ADDRESS:80
A_B.C_PORT_80_TCP=tcp://ADDRESS:80
A_B.C_PORT_80_TCP_ADDR=ADDRESS
A_B.C_PORT_80_TCP_PORT=80
A_B.C_PORT_80_TCP_PROTO=tcp
A_B.C_PORT_81_TCP=tcp://ADDRESS:81
A_B.C_PORT_81_TCP_ADDR=ADDRESS
A_B.C_PORT_81_TCP_PORT=81
A_B.C_PORT_81_TCP_PROTO=tcp
A_B.C_PORT_7_SCTP=sctp://ADDRESS:7
A_B.C_PORT_7_SCTP_ADDR=ADDRESS
A_B.C_PORT_7_SCTP_PORT=7
A_B.C_PORT_7_SCTP_PROTO=sctp
A_B.C_PORT_80_TCP_START=tcp://ADDRESS:80
A_B.C_PORT_80_TCP_PORT_START=80
A_B.C_PORT_80_TCP_END=tcp://ADDRESS:81
A_B.C_PORT_80_TCP_PORT_END=81
A_B.C_PORT_9_UDP=udp://ADDRESS:9
A_B.C_PORT_9_UDP_ADDR=ADDRESS
A_B.C_PORT_9_UDP_PORT=9
A_B.C_PORT_9_UDP_PROTO=udp
A_B.C_PORT_10_UDP=udp://ADDRESS:10
A_B.C_PORT_10_UDP_ADDR=ADDRESS
A_B.C_PORT_10_UDP_PORT=10
A_B.C_PORT_10_UDP_PROTO=udp
A_B.C_PORT_9_UDP_START=udp://ADDRESS:9
A_B.C_PORT_9_UDP_PORT_START=9
A_B.C_PORT_9_UDP_END=udp://ADDRESS:10
A_B.C_PORT_9_UDP_PORT_END=10
A_B.C_NAME=/link-dst/a-b.c
A_B.C_ENV_HOMER=1
A_B.C_ENV_EMPTY=
"""


def source(engine: Engine, name: str = "link-src", *ports: str, **host: Any) -> str:
    exposed: dict[str, dict[str, str]] = {port: {} for port in ports}
    config = {"Hostname": "srch", "ExposedPorts": exposed, "Env": ["HOMER=1", "EMPTY=", "HOME=/h", "PATH=/bin"]}
    return engine.run("sleep", "1000", name=name, config=config, **host)


def linked(engine: Engine, *links: str, name: str = "link-dst", **host: Any) -> str:
    return engine.run("sleep", "1000", name=name, Links=list(links), **host)


def address(engine: Engine, name: str) -> str:
    found: str = engine.inspect(name)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    return found


def inside(engine: Engine, name: str, *command: str) -> str:
    return engine.cli("docker", "exec", name, *command).stdout


def hosts(engine: Engine, name: str = "link-dst") -> list[str]:
    """Return the lines of /etc/hosts with IPv4 addresses, after localhost."""
    lines = inside(engine, name, "cat", "/etc/hosts").splitlines()
    shown = [line for line in lines[1:] if ":" not in line.partition("\t")[0]]
    return [line for line in shown if not line.endswith("docker.internal")]


@contextlib.contextmanager
def cleared(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        for row in engine.call("GET", "/containers/json", all="1"):
            if any(name.startswith("/link-") for name in row["Names"]):
                engine.remove(row["Id"])


@pytest.fixture
def shared(shared_engine: Engine) -> Iterator[Engine]:
    with cleared(shared_engine):
        yield shared_engine


def test_what_a_container_is_told(shared: Engine) -> None:
    source(shared, "link-src", "80/tcp", "81/tcp", "7/sctp", "9/udp", "10/udp")
    own = ["A_B.C_PORT_7_SCTP_PORT=mine"]
    linked(shared, "link-src:a-b.c", "link-src", ExtraHosts=["one:1.1.1.1"])
    where = address(shared, "link-src")
    told = inside(shared, "link-dst", "env").splitlines()
    first, last = told.index(f"A_B.C_PORT=tcp://{where}:80"), told.index("A_B.C_ENV_EMPTY=")
    assert told[first : last + 1] == VARIABLES.replace("ADDRESS", where).splitlines()
    assert f"LINK_SRC_PORT_80_TCP_ADDR={where}" in told and "LINK_SRC_NAME=/link-dst/link-src" in told
    mine = [f"{address(shared, 'link-dst')}\t{shared.inspect('link-dst')['Config']['Hostname']}"]
    lines = [f"{where}\ta-b.c srch link-src", f"{where}\tlink-src srch"]
    assert hosts(shared)[0] == "1.1.1.1\tone" and hosts(shared)[3:] == mine
    assert sorted(hosts(shared)[1:3]) == lines
    shared.remove("link-dst")
    body = {"Image": "busybox", "Cmd": ["env"], "Env": own, "HostConfig": {"Links": ["link-src:a-b.c"]}}
    shared.call("POST", "/containers/create", body, name="link-dst")
    shared.call("POST", "/containers/link-dst/start")
    shared.wait("link-dst")
    said = shared.logs("link-dst").decode().splitlines()
    assert own[0] in said and f"A_B.C_PORT=tcp://{where}:80" in said  # of the first process as of later ones


def test_names_are_shown_and_found(shared: Engine) -> None:
    id = source(shared)
    linked(shared, f"{id[:12]}:db", "/link-src:/of/other")
    assert shared.inspect("link-dst")["HostConfig"]["Links"] == [
        "/link-src:/link-dst/db",
        "/link-src:/link-dst/other",
    ]
    rows = {row["Id"]: row["Names"] for row in shared.call("GET", "/containers/json", all="1")}
    assert rows[id] == ["/link-dst/db", "/link-dst/other", "/link-src"]
    assert shared.inspect("link-dst/db")["Id"] == id
    shown = shared.cli("docker", "ps", "-a", "--no-trunc", "--filter", f"id={id}", "--format", "{{.Names}}").stdout
    assert shown == "link-dst/db,link-dst/other,link-src\n"
    shared.call("POST", "/containers/link-src/rename", name="link-new")
    shared.call("POST", "/containers/link-dst/rename", name="link-own")
    assert shared.inspect("link-own")["HostConfig"]["Links"][0] == "/link-new:/link-own/db"
    assert "DB_NAME=/link-own/db" in inside(shared, "link-own", "env")
    assert shared.inspect("link-own/db")["Id"] == id
    assert shared.request("GET", "/containers/link-dst/db/json").status == 404


def test_the_source_gets_another_address(shared: Engine) -> None:
    source(shared, "link-src", "80/tcp")
    linked(shared, "link-src:db")
    before = address(shared, "link-src")
    shared.call("POST", "/containers/link-src/stop", t="0")
    shared.run("sleep", "1000", name="link-other")  # takes the address, or the next
    for n in range(16):
        shared.call("POST", "/containers/link-src/start")
        if address(shared, "link-src") != before:
            break
        shared.call("POST", "/containers/link-src/stop", t="0")
        shared.run("sleep", "1000", name=f"link-other-{n}")
    where = address(shared, "link-src")
    assert where != before
    assert hosts(shared)[0] == f"{where}\tdb srch link-src"
    assert f"DB_PORT=tcp://{where}:80" in inside(shared, "link-dst", "env")


def test_what_cannot_be_linked(shared: Engine) -> None:
    def create(*links: str, **host: Any) -> tuple[int, str]:
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"Links": list(links), **host}}
        answer = shared.request("POST", "/containers/create", body, name="link-dst")
        return answer.status, answer.json.get("message", "")

    assert create("a:b:c") == (500, "bad format for links: a:b:c")
    assert create("") == (500, "empty string specified for links")
    assert create(":x") == (400, 'could not get container for : invalid name or ID supplied: ""')
    assert create("nosuch") == (400, "could not get container for nosuch: No such container: nosuch")
    source(shared, "link-src")
    shared.run("sleep", "1000", name="link-host", NetworkMode="host")
    refused = "conflicting options: host type networking can't be used with links. This would result in undefined"
    assert create("link-host:x") == (400, f"{refused} behavior")
    assert create("link-src:")[0] == 201 and shared.inspect("link-dst")["HostConfig"]["Links"] is None
    shared.remove("link-dst")
    assert create("link-src:db", "link-host:db")[0] == 400
    assert create("nosuch:q", NetworkMode="link-net")[0] == 201  # on a user's network they are none
    assert shared.inspect("link-dst")["HostConfig"]["Links"] is None
    shared.remove("link-dst")

    shared.run("sleep", "1000", name="link-none", NetworkMode="none")
    assert create("link-none:o")[0] == 201
    answer = shared.request("POST", "/containers/link-dst/start")
    whose = shared.inspect("link-none")["Id"]
    assert (answer.status, answer.message) == (500, f"container {whose} not attached to default bridge network")
    shared.remove("link-dst")

    assert create("link-src:db")[0] == 201
    shared.call("POST", "/containers/link-src/stop", t="0")
    answer = shared.request("POST", "/containers/link-dst/start")
    assert answer.status == 500
    assert answer.message == "Cannot link to a non running container: /link-src AS /link-dst/db"
    state = shared.inspect("link-dst")["State"]
    assert (state["Status"], state["ExitCode"], state["Error"]) == ("created", 128, answer.message)
    shared.call("POST", "/containers/link-src/start")
    shared.call("POST", "/containers/link-dst/start")


def test_who_shares_a_network_is_linked_to_its_owner(shared: Engine) -> None:
    source(shared)
    shared.run("sleep", "1000", name="link-shares", NetworkMode="container:link-src")
    linked(shared, "link-shares:sh")
    assert shared.inspect("link-dst")["HostConfig"]["Links"] == ["/link-src:/link-dst/sh"]
    assert hosts(shared)[0] == f"{address(shared, 'link-src')}\tsh srch link-src"


def test_a_link_is_removed(shared: Engine) -> None:
    source(shared)
    linked(shared, "link-src:db", "link-src:other")

    def remove(name: str) -> tuple[int, str]:
        answer = shared.request("DELETE", f"/containers/{name}", link="1")
        return answer.status, answer.message if answer.raw else ""

    assert remove("link-dst/nosuch") == (404, "No such container: link-dst/nosuch")
    assert remove("nosuch/db") == (404, "No such container: nosuch/db")
    assert remove("link-dst") == (500, "Conflict, cannot remove the default link name of the container")
    shared.cli("docker", "rm", "--link", "link-dst/db")
    assert shared.inspect("link-dst")["HostConfig"]["Links"] == ["/link-src:/link-dst/other"]
    assert remove("link-dst/db") == (404, "No such container: link-dst/db")
    assert not any("\tdb " in line for line in hosts(shared))
    told = inside(shared, "link-dst", "env")
    assert "DB_NAME" not in told and "OTHER_NAME=/link-dst/other" in told


# ── otherwise than Docker ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_others_live_on_when_a_source_goes(shared_engine: Engine) -> None:
    """Docker refuses every exec in a container with a source that does not run, and forgets lines of others."""
    with cleared(shared_engine) as engine:
        source(engine)
        linked(engine, "link-src:db", "link-src:other")
        engine.cli("docker", "rm", "--link", "link-dst/db")
        assert [line.partition("\t")[2] for line in hosts(engine)[:1]] == ["other srch link-src"]
        engine.call("POST", "/containers/link-src/rename", name="link-new")
        assert [line.partition("\t")[2] for line in hosts(engine)[:1]] == ["other srch link-new"]
        engine.call("POST", "/containers/link-new/stop", t="0")
        assert "OTHER_NAME" not in inside(engine, "link-dst", "env")
        engine.remove("link-new")
        assert "OTHER_NAME" not in inside(engine, "link-dst", "env")
        answer = engine.request("POST", "/containers/link-dst/restart", t="0")
        said = "Cannot link to a non running container: /link-new AS /link-dst/other"
        assert answer.message == f"Cannot restart container link-dst: {said}"


def test_the_host_has_a_name_on_the_default_bridge(shared_engine: Engine) -> None:
    with cleared(shared_engine) as engine:
        engine.run("sleep", "1000", name="link-one")
        engine.run("sleep", "1000", name="link-two", ExtraHosts=["host.docker.internal:9.9.9.9", "gw:host-gateway"])
        gateway = engine.inspect("link-one")["NetworkSettings"]["Networks"]["bridge"]["Gateway"]
        lines = inside(engine, "link-one", "cat", "/etc/hosts").splitlines()
        assert f"{gateway}\thost.docker.internal" in lines and f"{gateway}\tgateway.docker.internal" in lines
        lines = inside(engine, "link-two", "cat", "/etc/hosts").splitlines()
        assert [line for line in lines if "host.docker" in line] == ["9.9.9.9\thost.docker.internal"]
        assert f"{gateway}\tgw" in lines


def test_edited_files_stay_until_the_next_start(shared: Engine) -> None:
    """As Docker: while it runs nobody but the user changes resolv.conf; a start makes the files anew."""
    shared.run("sleep", "1000", name="link-one")
    before = inside(shared, "link-one", "cat", "/etc/resolv.conf")
    inside(shared, "link-one", "sh", "-c", "echo '# mine' >> /etc/resolv.conf; echo '5.5.5.5 mine' >> /etc/hosts")
    shared.call("POST", "/networks/create", {"Name": "link-net"})
    try:
        shared.call("POST", "/networks/link-net/connect", {"Container": "link-one"})
        assert inside(shared, "link-one", "cat", "/etc/resolv.conf") == before + "# mine\n"
        assert "5.5.5.5 mine" in hosts(shared, "link-one")
        shared.call("POST", "/networks/link-net/disconnect", {"Container": "link-one"})
        shared.call("POST", "/containers/link-one/restart", t="0")
        assert inside(shared, "link-one", "cat", "/etc/resolv.conf") == before
        assert "5.5.5.5 mine" not in hosts(shared, "link-one")
    finally:
        shared.remove("link-one")
        shared.call("DELETE", "/networks/link-net")


def test_an_alias_on_a_users_network_follows_its_container(shared_engine: Engine) -> None:
    with cleared(shared_engine) as engine:
        engine.call("POST", "/networks/create", {"Name": "link-net"})
        try:
            engine.run("sleep", "1000", name="link-a", NetworkMode="link-net")
            command = [
                "--name",
                "link-b",
                "--network",
                "link-net",
                "--link",
                "link-a:alias",
                "busybox",
                "sleep",
                "1000",
            ]
            engine.cli("docker", "run", "-d", *command)
            where = engine.inspect("link-a")["NetworkSettings"]["Networks"]["link-net"]["IPAddress"]
            assert where in inside(engine, "link-b", "nslookup", "alias")
            engine.call("POST", "/containers/link-a/rename", name="link-c")
            assert where in inside(engine, "link-b", "nslookup", "alias")
            engine.call("POST", "/containers/link-b/restart", t="0")
            assert where in inside(engine, "link-b", "nslookup", "alias")
            assert engine.inspect("link-b")["NetworkSettings"]["Networks"]["link-net"]["Links"] == ["link-c:alias"]
        finally:
            for name in ("link-a", "link-b", "link-c"):
                engine.request("DELETE", f"/containers/{name}", force="1")
            engine.request("DELETE", "/networks/link-net")


# ── with an engine of its own ───────────────────────────────────────────────────────────────────────────────────────


def reaches(engine: Engine, name: str, where: str, port: int) -> bool:
    done = engine.cli("docker", "exec", name, "nc", "-w", "1", where, str(port), check=False, stdin="")
    return "served" in done.stdout


OWN_NETWORK = ["unshare", "--net", "sh", "-c", 'echo "$0" > /proc/sys/net/bridge/bridge-nf-call-iptables; exec "$@"']


@pytest.mark.parametrize("bridged", ["0", "1"])
def test_a_way_between_containers_that_are_kept_apart(root: None, bridged: str) -> None:
    """bridged: whether the host's firewall sees what passes a bridge; if not, the ports do not see each other."""
    engine = Engine(None, "--icc=false")
    engine.wrapper = [*OWN_NETWORK, bridged]
    engine.start()
    try:
        engine.import_busybox()
        serve = ["sh", "-c", "nc -ll -p 80 -e echo served & exec nc -ll -p 81 -e echo served"]
        engine.run(*serve, name="src", config={"ExposedPorts": {"80/tcp": {}}})
        linked(engine, "src:db", name="dst")
        engine.run("sleep", "1000", name="stranger")
        where = address(engine, "src")
        until(lambda: reaches(engine, "dst", where, 80), 10, "the exposed port is reached")
        assert not reaches(engine, "dst", where, 81) and not reaches(engine, "stranger", where, 80)
        engine.call("POST", "/containers/src/restart", t="0")
        until(lambda: reaches(engine, "dst", "db", 80), 10, "it is reached where it is now")
        engine.cli("docker", "rm", "--link", "dst/db")
        assert not reaches(engine, "dst", address(engine, "src"), 80)
    finally:
        engine.close()


def test_after_the_engine_was_killed(engine: Engine) -> None:
    again: dict[str, Any] = {"RestartPolicy": {"Name": "always"}}
    source(engine, "link-src", "80/tcp", **again)
    linked(engine, "link-src:db", **again)
    engine.kill()
    engine.start()
    assert f"{address(engine, 'link-src')}\tdb srch link-src" in hosts(engine)
    assert "DB_NAME=/link-dst/db" in inside(engine, "link-dst", "env")
    assert engine.inspect("link-dst/db")["Name"] == "/link-src"
    engine.stop()
    engine.start()  # both are started anew, the source first
    until(lambda: engine.inspect("link-dst")["State"]["Running"], 10, "the linked one runs again")
    assert f"{address(engine, 'link-src')}\tdb srch link-src" in hosts(engine)
