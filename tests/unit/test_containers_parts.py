"""Parts of the container service by themselves: waiting, sessions before a start, health checks, back-off, memory."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sampan.api.handlers import containers as handlers
from sampan.engine.background import Background
from sampan.engine.containers import restart
from sampan.engine.containers.attach import AttachSession, PendingSessions
from sampan.engine.containers.attaching import AttachOptions
from sampan.engine.containers.backoff import BackOff
from sampan.engine.containers.live import LiveContainers
from sampan.spec import codec
from sampan.spec.engine_api.container import CreateRequest
from sampan.supervisor.client import TaskFailed, TaskInfo, TaskRequest
from tests.support.container_fakes import FakeSupervisor, Room, open_room

PROBE = {"Test": ["CMD", "probe"], "Interval": 1_000_000, "Retries": 1}


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    opened = await open_room(tmp_path)
    yield opened
    await opened.close()


async def create(room: Room, name: str = "c1", **more: Any) -> str:
    asked = codec.convert(CreateRequest, {"Image": "busybox", "Cmd": ["true"], **more})
    return (await room.containers.create(name, asked.config, asked.host_config, None))[0]


# --- waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_who_waits_for_the_removal_is_not_woken_by_an_exit(room: Room) -> None:
    id = await create(room)
    removed, ended = room.containers.wait("c1", "removed"), room.containers.wait("c1", "next-exit")
    await room.containers.start("c1")
    room.supervisor.end(id, 4)
    assert await ended == (4, "")
    assert not removed.done()
    await room.containers.remove("c1")
    assert await removed == (4, "")


@pytest.mark.asyncio
async def test_a_waiter_that_gives_up_is_forgotten(room: Room) -> None:
    id = await create(room)
    first, second = room.containers.wait("c1", "next-exit"), room.containers.wait("c1", "next-exit")
    first.cancel()
    await asyncio.sleep(0)
    await room.containers.start("c1")
    room.supervisor.end(id, 0)
    assert await second == (0, "")


@pytest.mark.asyncio
async def test_the_log_is_followed_across_a_restart_and_ends_with_the_container(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "FIRST_DELAY_S", 0.0)
    id = await create(room, HostConfig={"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}})
    log = Path(room.containers._launcher.directory(id)) / f"{id}-json.log"
    log.write_text("")
    await room.containers.start("c1")
    followed = await room.containers.logs("c1", stdout=True, stderr=True, follow=True)
    ends = asyncio.ensure_future(anext(followed.chunks, b"end"))
    restarted = room.containers.wait("c1", "next-exit")
    room.supervisor.end(id, 1)
    await restarted
    while room.containers.get("c1").status.state.value != "running":  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert not ends.done()
    room.supervisor.end(id, 1)
    assert await ends == b"end"


# --- attach ----------------------------------------------------------------------------------------------------------


def session(id: str = "c") -> AttachSession:
    return AttachSession(id, tty=False, stdin=False, stdout=True, stderr=True, detach_keys=b"")


@pytest.mark.asyncio
async def test_every_session_that_waits_is_given_up_with_its_container() -> None:
    pending = PendingSessions()
    waiting = [session() for _ in range(3)]
    for each in waiting:
        pending.add(each)
    assert pending.any("c") and not pending.any("another")
    pending.abandon("c")
    assert not pending.any("c")
    assert all(each._attachment.done() for each in waiting)


class SlowSupervisor(FakeSupervisor):
    """Makes a task only after `leave` has been called."""

    def __init__(self) -> None:
        super().__init__()
        self.leave: Any = None

    async def create(self, request: TaskRequest, *, start: bool) -> TaskInfo:
        self.leave()
        return await super().create(request, start=start)


@pytest.mark.asyncio
async def test_a_client_that_leaves_during_the_start_does_not_keep_the_container_from_running(tmp_path: Path) -> None:
    supervisor = SlowSupervisor()
    room = await open_room(tmp_path, supervisor=supervisor)
    id = await create(room)
    attached = await room.containers.attach("c1", AttachOptions(stream=True, stdout=True))
    supervisor.leave = attached.abandon
    await room.containers.start("c1")
    assert supervisor.tasks[id].status == "running"
    await room.close()


# --- health ----------------------------------------------------------------------------------------------------------


class ProbedSupervisor(FakeSupervisor):
    """Refuses every probe."""

    async def exec_attached(self, *_: Any, **__: Any) -> tuple[int, Any]:
        raise TaskFailed("exec", 2, 'exec: "probe": executable file not found in $PATH')


async def health(room: Room, wanted: str) -> dict[str, Any]:
    while True:
        shown: dict[str, Any] = (await room.containers.inspect("c1"))["State"].get("Health") or {}
        if shown.get("Status") == wanted:
            return shown
        await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_health_follows_the_container(tmp_path: Path) -> None:
    supervisor = ProbedSupervisor()
    room = await open_room(tmp_path, supervisor=supervisor)
    id = await create(room, Healthcheck=PROBE)
    await room.containers.start("c1")
    assert (await health(room, "starting"))["FailingStreak"] == 0
    shown = await health(room, "unhealthy")
    assert shown["Log"][0]["ExitCode"] == 127 and "executable file not found" in shown["Log"][0]["Output"]
    assert {"health_status: unhealthy"} < {e["Action"] for e in room.events._ring}
    ended = room.containers.wait("c1")
    supervisor.end(id, 0)
    await ended
    shown = await health(room, "unhealthy")
    await asyncio.sleep(0.01)
    assert (await health(room, "unhealthy"))["Log"] == shown["Log"]  # nothing is probed any more
    supervisor.obeys = frozenset()
    room.supervisor.tasks.clear()
    await room.containers.start("c1")
    await health(room, "unhealthy")
    supervisor.end(id, 0)
    await room.close()


@pytest.mark.asyncio
async def test_a_container_that_an_earlier_daemon_started_is_probed(tmp_path: Path) -> None:
    supervisor = ProbedSupervisor()
    first = await open_room(tmp_path, supervisor=supervisor)
    await create(first, Healthcheck={**PROBE, "Interval": 3_600_000_000_000})
    await first.containers.start("c1")
    await first.close()
    second = await open_room(tmp_path, supervisor=supervisor, roots=first.roots, networks=first.networks)
    assert await health(second, "starting")
    assert (await second.containers.list(filters={"health": ["starting"]}))[0]["Names"] == ["/c1"]
    await second.close()


@pytest.mark.asyncio
async def test_health_outlives_the_daemon_and_goes_with_the_container(tmp_path: Path) -> None:
    supervisor = ProbedSupervisor()
    first = await open_room(tmp_path, supervisor=supervisor)
    id = await create(first, Healthcheck=PROBE)
    await first.containers.start("c1")
    before = await health(first, "unhealthy")
    await first.close()
    second = await open_room(tmp_path, supervisor=supervisor, roots=first.roots, networks=first.networks)
    shown = await health(second, "unhealthy")
    assert shown["FailingStreak"] >= before["FailingStreak"] and len(shown["Log"]) >= len(before["Log"])
    ended = second.containers.wait("c1")
    supervisor.end(id, 0)
    await ended
    shown = await health(second, "unhealthy")
    await second.close()
    third = await open_room(tmp_path, supervisor=supervisor, roots=first.roots, networks=first.networks)
    assert (await health(third, "unhealthy"))["Log"] == shown["Log"], "of one that has ended, too"
    await third.containers.remove("c1")
    await asyncio.sleep(0.01)
    assert not third.containers._health._kept.all()
    await third.close()


# --- back-off and memory ---------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_delay_grows_is_called_off_and_begins_anew() -> None:
    background = Background()
    live = LiveContainers()
    back_off = BackOff(live, background)
    due: asyncio.Queue[str] = asyncio.Queue()
    back_off.schedule("c", due.put)
    back_off.cancel("c")
    for _ in range(3):
        back_off.lengthen("c", ran_s=0.0)
    assert back_off._delays_s["c"] == restart.FIRST_DELAY_S * 8
    back_off.begin_anew("c")
    back_off._delays_s["c"] = 0.0
    back_off.schedule("c", due.put)
    assert await due.get() == "c" and due.empty()
    live.forget("c")
    assert not back_off._delays_s and not back_off._timers
    await background.close()


def test_what_is_noted_of_a_container_goes_with_its_record() -> None:
    live = LiveContainers()
    notes: dict[str, int] = live.notes({})
    notes |= {"a": 1, "b": 2}
    lock = live.lock("a")
    assert live.lock("a") is lock
    live.forget("a")
    assert notes == {"b": 2}
    assert live.lock("a") is lock  # somebody holds it still
    forgotten = weakref.ref(lock)
    del lock
    gc.collect()
    assert forgotten() is None


# --- the service -----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_service_has_every_verb_that_the_api_calls(room: Room) -> None:
    called = {
        verb
        for path in Path(handlers.__file__).parent.glob("*.py")
        for verb in re.findall(r"\bcontainers\.(\w+)\(", path.read_text())
    }
    assert len(called) > 30
    assert not [verb for verb in sorted(called) if not callable(getattr(room.containers, verb, None))]
