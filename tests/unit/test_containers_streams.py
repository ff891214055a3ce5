"""What clients see of a container: detach keys, words for time, ps, filters, stats, events."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest
from msgspec.structs import replace

from sampan.engine.containers import inspect, listing, stats, top
from sampan.engine.containers.attach import DetachScanner, parse_detach_keys
from sampan.engine.containers.logs import parse_tail, parse_time
from sampan.engine.containers.records import Container, Status, rfc3339
from sampan.engine.containers.states import State
from sampan.engine.events import Events, matches
from sampan.engine.tasks.failures import of_exec, of_start
from sampan.errors import Internal, InvalidArgument
from sampan.spec.engine_api.container import ContainerConfig


def container(name: str = "web", **status: Any) -> Container:
    return Container(
        id="ab" * 32,
        name=name,
        created_ns=10**18,
        path="sh",
        args=["-c", "echo a b"],
        config=ContainerConfig(labels={"a": "b"}, image="busybox", exposed_ports={"80/tcp": {}}),
        status=Status(**status),
    )


# --- detach keys -----------------------------------------------------------------------------------------------------


def test_detach_keys_as_users_write_them() -> None:
    assert parse_detach_keys("") == b"\x10\x11"
    assert parse_detach_keys("ctrl-a,x,ctrl-[") == b"\x01x\x1b"
    with pytest.raises(InvalidArgument, match="Unknown character: 'zz'"):
        parse_detach_keys("zz")


@pytest.mark.parametrize("cuts", [[b"ls\x10\x11rest"], [b"ls\x10", b"\x11rest"], [b"ls", b"\x10", b"\x11"]])
def test_detach_keys_are_found_across_reads(cuts: list[bytes]) -> None:
    scanner, forwarded, found = DetachScanner(b"\x10\x11"), b"", False
    for cut in cuts:
        data, found = scanner.feed(cut)
        forwarded += data
    assert (forwarded, found) == (b"ls", True)


def test_half_of_the_detach_keys_is_passed_on_when_it_was_not_them() -> None:
    scanner = DetachScanner(b"\x10\x11")
    assert scanner.feed(b"a\x10") == (b"a", False)
    assert scanner.feed(b"\x10b") == (b"\x10\x10b", False)


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (150, "2 minutes"),
        (3600, "About an hour"), (7200, "2 hours"), (86400 * 3, "3 days"), (86400 * 20, "2 weeks"),
        (86400 * 90, "3 months"),
        (86400 * 800, "2 years"),
    ],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert inspect.duration(seconds) == words


def test_status_texts() -> None:
    now = 10**18 + 120 * 10**9
    texts = {
        "created": container(),
        "up": container(state=State.RUNNING, started_ns=10**18),
        "paused": container(state=State.PAUSED, started_ns=10**18),
        "exited": container(state=State.EXITED, started_ns=1, finished_ns=10**18, exit_status=3),
        "restarting": container(state=State.RESTARTING, started_ns=1, finished_ns=10**18, exit_status=1),
        "dead": container(state=State.DEAD),
    }
    assert {k: inspect.status_text(c, "none", now) for k, c in texts.items()} == {
        "created": "Created",
        "up": "Up 2 minutes",
        "paused": "Up 2 minutes (Paused)",
        "exited": "Exited (3) 2 minutes ago",
        "restarting": "Restarting (1) 2 minutes ago",
        "dead": "Dead",
    }
    assert inspect.status_text(texts["up"], "starting", now) == "Up 2 minutes (health: starting)"
    assert inspect.command(container()) == "sh -c 'echo a b'"


def test_times_as_go_prints_them() -> None:
    assert rfc3339(0) == "0001-01-01T00:00:00Z"
    assert rfc3339(1767323045123456780) == "2026-01-02T03:04:05.12345678Z"
    assert rfc3339(1767323045 * 10**9) == "2026-01-02T03:04:05Z"


def test_log_queries() -> None:
    assert parse_time("1.5") == 1_500_000_000 and parse_time("") == 0
    with pytest.raises(Internal, match=r'strconv\.ParseInt: parsing "zz": invalid syntax'):
        parse_time("zz")
    assert (parse_tail("5"), parse_tail("all"), parse_tail("-5"), parse_tail("zz")) == (5, None, None, None)
    assert parse_tail("9" * 5000) is None and parse_tail("٣") is None


def test_failures_in_docker_words() -> None:
    refused = of_start("exec", 13, 'exec: "/x": permission denied')
    assert (refused.exit_status, refused.error.status) == (126, 400)
    assert of_start("user", 0, "unable to find user ghost: no matching entries in passwd file").error.status == 500
    assert of_exec("exec", 2, 'exec: "/x": stat /x: no such file or directory').exit_status == 127
    assert (
        "Are you trying to mount a directory onto a file" in of_start("mount", 20, "x: not a directory").error.message
    )


# --- ps --------------------------------------------------------------------------------------------------------------


def test_ps_columns_and_refusals() -> None:
    assert [h for _, h in top.parse("-ef")] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert [h for _, h in top.parse("aux")][:4] == ["USER", "PID", "%CPU", "%MEM"]
    assert [h for _, h in top.parse("-o pid,args")] == ["PID", "COMMAND"]
    assert [h for _, h in top.parse("axo pid,ppid")] == ["PID", "PPID"]
    with pytest.raises(Internal, match="unsupported option"):
        top.parse("zz")
    with pytest.raises(Internal, match="unknown user-defined format specifier"):
        top.parse("-o nope")


def test_ps_of_this_process() -> None:
    p = top.read(os.getpid())
    assert p is not None
    now = time.time()
    boot = now - time.clock_gettime(time.CLOCK_BOOTTIME)
    for name, _ in top.parse("-ef") + top.parse("aux") + top.parse("-l"):
        assert top.value(p, name, now_s=now, boot_s=boot)
    assert top.value(p, "pid", now_s=now, boot_s=boot) == str(os.getpid())
    assert top.read(2**22 + 1) is None


# --- filters ---------------------------------------------------------------------------------------------------------


def passes(c: Container, filters: dict[str, list[str]]) -> bool:
    tests = listing.tests(
        filters,
        find=lambda ref: container() if ref == "web" else None,
        image_ids=lambda ref: frozenset({""}),
        health=lambda c: "none",
        networks=lambda c: ({"bridge"}, {"5c0ffee"}),
        ports=lambda c: listing.ports_of({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "32768"}], "99/udp": None}),
    )
    return all(test(c) for test in tests)


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        ({"name": ["we"]}, True), ({"name": ["^/web$"]}, True), ({"name": ["x"]}, False), ({"label": ["a"]}, True),
        ({"label": ["a=b"]}, True), ({"label": ["a=c"]}, False), ({"status": ["created"]}, True),
        ({"status": ["exited"]}, False),
        ({"expose": ["80"]}, True), ({"expose": ["70-90/tcp"]}, True), ({"publish": ["80"]}, False),
        ({"publish": ["32768"]}, True), ({"publish": ["32760-32770"]}, True), ({"publish": ["32768/udp"]}, False),
        ({"expose": ["99"]}, False), ({"expose": ["99/udp"]}, True), ({"network": ["5c0"]}, True),
        ({"network": ["brid"]}, False), ({"network": [""]}, False), ({"id": ["aba"]}, True), ({"id": ["bab"]}, False),
        ({"id": [""]}, False), ({"name": [""]}, True), ({"name": ["["]}, False), ({"name": ["^/w.b$"]}, True),
        ({"id": ["abab"]}, True),
        ({"network": ["bridge"]}, True), ({"since": ["web"]}, False), ({"ancestor": ["x"]}, True),
        ({"health": ["none"]}, True),
    ],
)  # fmt: skip
def test_filters(filters: dict[str, list[str]], passing: bool) -> None:
    assert passes(container(), filters) is passing


def test_wrong_filters_in_docker_words() -> None:
    with pytest.raises(InvalidArgument, match="invalid filter 'nope'"):
        passes(container(), {"nope": ["x"]})
    with pytest.raises(
        InvalidArgument, match=r"invalid filter 'status=nope': invalid value for state \(nope\): must be one of"
    ):
        passes(container(), {"status": ["nope"]})
    with pytest.raises(
        InvalidArgument, match=r"^invalid filter 'exited=x': strconv.Atoi: parsing \"x\": invalid syntax$"
    ):
        passes(container(), {"exited": ["x"]})
    with pytest.raises(
        Internal, match=r"^error while looking up for publish x: strconv.ParseUint: parsing \"x\": invalid syntax$"
    ):
        passes(container(), {"publish": ["x"]})


def test_containers_of_one_time_have_an_order() -> None:
    first, second = (replace(container(), id=id * 32) for id in ("1a", "2b"))
    assert sorted([second, first], key=listing.age) == [first, second]
    for name, passing in (("before", (True, False)), ("since", (False, False))):
        test = listing._around(name, ["x"], lambda ref: second)
        assert (test(first), test(second)) == passing


def test_prune_filters() -> None:
    assert all(t(container()) for t in listing.prune_tests({"label": ["a"], "until": ["10m"]}))
    assert not all(t(container()) for t in listing.prune_tests({"label!": ["a=b"]}))


# --- stats -----------------------------------------------------------------------------------------------------------


def test_stats_carry_the_previous_sample() -> None:
    raw = {
        "version": 1,
        "cpu": {"usage_ns": 5, "user_ns": 2, "kernel_ns": 3, "percpu_ns": [5]},
        "memory": {"usage": 7, "max_usage": 9, "limit": 0, "stats": {}},
        "pids": {"current": 1, "limit": 0},
        "networks": {"eth0": {"rx_bytes": 4}},
    }
    c = container()
    first = stats.render(c, raw, None, now_ns=10**18, system_ns=100, cpus=2)
    second = stats.render(c, raw, first, now_ns=10**18 + 10**9, system_ns=200, cpus=2)
    assert first["preread"] == "0001-01-01T00:00:00Z" and second["preread"] == first["read"]
    assert second["precpu_stats"]["cpu_usage"]["total_usage"] == 5 and second["networks"]["eth0"]["rx_bytes"] == 4
    assert first["pids_stats"] == {"current": 1} and first["memory_stats"]["limit"] > 7


# --- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_events_replay_follow_and_end() -> None:
    events = Events()
    events.publish("container", "create", "id1", {"image": "busybox", "name": "web"})
    since = time.time_ns() - 10**9
    async with events.subscribe(since_ns=since, until_ns=time.time_ns()) as past:
        assert [e["Action"] async for e in past] == ["create"]
    async with events.subscribe(filters={"type": ["container"], "event": ["start"]}) as live:
        events.publish("network", "connect", "n", {})
        events.publish("container", "start", "id1", {"image": "busybox", "name": "web"})
        found = await asyncio.wait_for(anext(live), 5)
    assert (found["status"], found["id"], found["from"], found["Actor"]["ID"]) == ("start", "id1", "busybox", "id1")
    assert not events._subscriptions


def test_event_filters() -> None:
    event = {
        "Type": "container",
        "Action": "exec_create: sh",
        "Actor": {"ID": "abc123", "Attributes": {"name": "web", "image": "busybox:1", "a": "b"}},
        "scope": "local",
    }
    for filters, passing in (
        ({"event": ("exec_create",)}, True), ({"container": ("web",)}, True), ({"container": ("abc",)}, True),
        ({"container": ("x",)}, False), ({"image": ("busybox",)}, True), ({"label": ("a=b",)}, True),
        ({"label": ("a=c",)}, False),
        ({"type": ("image",)}, False), ({"scope": ("swarm",)}, False),
    ):  # fmt: skip
        assert matches(event, filters) is passing, filters
    joined = {
        "Type": "network",
        "Action": "connect",
        "Actor": {"ID": "n1", "Attributes": {"name": "net", "container": "abc123"}},
        "scope": "local",
    }
    assert not matches(joined, {"container": ("abc123",)})  # what happens to another object is that one's event
    assert matches(joined, {"network": ("n",)})
