"""An answer that ends something follows the record; a restart, a removal and a start that meet agree; who called a
container's end is told from the end itself. On fakes, with ends that come late.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sampan.engine.containers import remove, restart
from sampan.engine.containers.attach import AttachSession
from sampan.engine.containers.attaching import AttachOptions
from sampan.engine.layers.snapshots.trash import discard
from sampan.errors import Conflict, Unavailable
from sampan.supervisor.client import TaskFailed
from tests.support.container_fakes import FakeSupervisor, Room, open_room
from tests.unit.test_containers_lifecycle import actions, create, reborn, settled, state, until


class LateSupervisor(FakeSupervisor):
    """Its processes end a while after the signal, as real ones do."""

    def end(self, id: str, status: int, *, oom_killed: bool = False, at_ns: int = 2_000_000_000) -> None:
        loop, told = asyncio.get_running_loop(), super().end
        loop.call_later(0.02, lambda: told(id, status, oom_killed=oom_killed, at_ns=at_ns))


@pytest_asyncio.fixture
async def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Room]:
    monkeypatch.setattr(restart, "FIRST_DELAY_S", 0.0)
    opened = await open_room(tmp_path, supervisor=LateSupervisor())
    yield opened
    await opened.close()


@pytest.mark.parametrize("signal", ["", "KILL", "9", "SIGKILL"])
@pytest.mark.asyncio
async def test_kill_answers_when_the_end_is_recorded(late: Room, signal: str) -> None:
    await create(late)
    await late.containers.start("c1")
    await late.containers.kill("c1", signal)
    assert state(late) == "exited"
    await late.containers.remove("c1")


@pytest.mark.asyncio
async def test_another_signal_is_not_waited_for(late: Room) -> None:
    await create(late)
    await late.containers.start("c1")
    await late.containers.kill("c1", "USR1")
    assert state(late) == "running"


@pytest.mark.asyncio
async def test_a_die_event_is_of_a_container_that_has_ended(late: Room) -> None:
    await create(late)
    async with late.events.subscribe(filters={"event": ["die"]}) as dies:
        await late.containers.start("c1")
        killing = asyncio.ensure_future(late.containers.kill("c1"))
        await anext(dies)
        assert state(late) == "exited"
        await killing


@pytest.mark.asyncio
async def test_the_end_of_output_follows_the_record(late: Room) -> None:
    id = await create(late)
    session = await late.containers.attach("c1", AttachOptions(stream=True, stdout=True))
    assert session.settle is not None
    session.abandon()
    await late.containers.start("c1")
    late.supervisor.end(id, 4)
    await session.settle()
    assert state(late) == "exited" and late.containers.get("c1").status.exit_status == 4
    await late.containers.start("c1")
    began = time.monotonic()
    await session.settle()  # the output ended although the container goes on
    assert state(late) == "running" and time.monotonic() - began < 2


@pytest.mark.asyncio
async def test_a_removal_lets_listeners_look_first(late: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSupervisor, "end", _ends_now)
    id = await create(late)
    await late.containers.start("c1")
    async with late.events.subscribe(filters={"event": ["die"]}) as dies:
        removing = asyncio.ensure_future(late.containers.remove("c1", force=True))
        await anext(dies)
        await asyncio.sleep(remove.LOOK_S / 3)
        assert late.containers.get(id).status.state.value == "exited"
        await removing
    await create(late)
    await late.containers.start("c1")
    began = time.monotonic()
    await late.containers.remove("c1", force=True)
    assert time.monotonic() - began < remove.LOOK_S  # nobody listens


def _ends_now(self: FakeSupervisor, id: str, status: int, *, oom_killed: bool = False, at_ns: int = 0) -> None:
    _end(self, id, status, oom_killed=oom_killed, at_ns=time.time_ns())


_end = FakeSupervisor.end


@pytest.mark.asyncio
async def test_a_commit_of_a_container_that_is_just_ending_is_no_failure(late: Room) -> None:
    await create(late)
    await late.containers.start("c1")

    async def ended(id: str) -> None:
        raise Conflict(f"task {id} is stopped, not running")

    async def commit(*args: object, **kwargs: object) -> str:
        return "sha256:" + "c" * 64

    late.supervisor.pause = ended  # type: ignore[method-assign]
    late.images.commit = commit  # type: ignore[attr-defined]
    assert await late.containers.commit("c1", None) == "sha256:" + "c" * 64


@pytest.mark.asyncio
async def test_a_forced_removal_wins_against_a_start(late: Room) -> None:
    for n in range(20):
        await create(late, f"r{n}")
        starting = asyncio.ensure_future(late.containers.start(f"r{n}"))
        for _ in range(n % 7):
            await asyncio.sleep(0)
        await late.containers.remove(f"r{n}", force=True)
        await asyncio.gather(starting, return_exceptions=True)
    assert not late.supervisor.tasks and not late.containers.ids()


@pytest.mark.asyncio
async def test_a_removal_without_force_says_that_a_start_was_faster(late: Room) -> None:
    await create(late)
    starting = asyncio.ensure_future(late.containers.start("c1"))
    await asyncio.sleep(0)
    with pytest.raises(Conflict, match='cannot remove container "c1": container is running: stop the container'):
        await late.containers.remove("c1")
    await starting


@pytest.mark.asyncio
async def test_a_restart_of_a_container_with_rm_keeps_it(late: Room, caplog: pytest.LogCaptureFixture) -> None:
    await create(late, AutoRemove=True)
    await late.containers.start("c1")
    for _ in range(10):
        await late.containers.restart("c1")
        await settled(late)
    await asyncio.gather(*(late.containers.restart("c1") for _ in range(3)))
    await settled(late)
    assert state(late) == "running" and not caplog.records


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.asyncio
async def test_an_error_after_the_takeover_is_a_piece_of_the_stream(tty: bool) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"before\n"
        raise Unavailable("the log cannot be read")

    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    session = AttachSession("id", tty=tty, stdin=False, stdout=True, stderr=True, detach_keys=b"", stream=False)
    session.history = broken()
    await session.run(reader, writer)
    writer.close()
    await writer.wait_closed()
    text = b"the log cannot be read\r\n"
    assert theirs.recv(1000) == b"before\n" + (text if tty else b"\x01\0\0\0\0\0\0" + bytes([len(text)]) + text)
    theirs.close()


# --- signals and restart policies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status", "stays_down"),
    [
        ("HUP", 137, False),  # handled; killed by something else later
        ("USR1", 1, False),
        ("TERM", 137, False),
        ("TERM", 0, True),
        ("TERM", 143, True),
        ("INT", 3, True),
        ("HUP", 129, True),
        ("KILL", 137, True),
    ],
)
@pytest.mark.asyncio
async def test_a_signal_calls_restarts_off_when_the_container_ends_by_it(
    room: Room, sent: str, status: int, stays_down: bool
) -> None:
    id = await create(room, RestartPolicy={"Name": "always"})
    await room.containers.start("c1")
    room.supervisor.obeys = frozenset({9})
    await room.containers.kill("c1", sent)
    if sent != "KILL":
        room.supervisor.end(id, status)
    if stays_down:
        await until(room, "exited")
        await settled(room)
        assert state(room) == "exited"
    else:
        await until(room, "running", restarts=1)


@pytest_asyncio.fixture
async def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Room]:
    monkeypatch.setattr(restart, "FIRST_DELAY_S", 0.0)
    opened = await open_room(tmp_path)
    yield opened
    await opened.close()


# --- frozen ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_freeze_whose_answer_was_lost_is_seen(room: Room) -> None:
    id = await create(room)
    await room.containers.start("c1")
    done, lost = room.supervisor.pause, Unavailable("the supervisor went away")

    async def loses(id: str) -> None:
        await done(id)
        raise lost

    room.supervisor.pause = loses  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await room.containers.pause("c1")
    assert state(room) == "paused" and actions(room)[-1] == "pause"
    await room.containers.unpause("c1")
    assert room.supervisor.tasks[id].status == "running"


@pytest.mark.parametrize("paused", [True, False])
@pytest.mark.asyncio
async def test_a_record_follows_the_freezer_after_a_death(tmp_path: Path, paused: bool) -> None:
    first = await open_room(tmp_path)
    id = await create(first)
    await first.containers.start("c1")
    if not paused:
        await first.containers.pause("c1")
    await (first.supervisor.pause if paused else first.supervisor.resume)(id)  # the record was never written
    second = await reborn(first, tmp_path)
    try:
        assert state(second) == ("paused" if paused else "running")
        await second.containers.remove("c1", force=True)
    finally:
        await second.close()


@pytest.mark.asyncio
async def test_a_record_follows_the_freezer_when_the_supervisor_comes_back(room: Room) -> None:
    id = await create(room)
    await room.containers.start("c1")
    await room.supervisor.pause(id)
    room.supervisor.reconnect()
    await until(room, "paused")
    await room.supervisor.resume(id)
    room.supervisor.reconnect()
    await until(room, "running")


# --- what passes -----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_restart_that_finds_no_room_is_tried_again(late: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    id = await create(late, RestartPolicy={"Name": "always"})
    await late.containers.start("c1")
    make, failures = late.supervisor.create, [TaskFailed("task", errno.ENOSPC, "no room")] * 3

    async def full(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return await make(*args, **kwargs)

    monkeypatch.setattr(late.supervisor, "create", full)
    late.supervisor.end(id, 1)
    await until(late, "running", restarts=1)
    assert not failures


@pytest.mark.asyncio
async def test_a_restart_that_cannot_be_is_given_up(late: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    id = await create(late, RestartPolicy={"Name": "always"})
    await late.containers.start("c1")

    async def refuses(*args: Any, **kwargs: Any) -> Any:
        raise TaskFailed("exec", errno.ENOENT, "no such program")

    monkeypatch.setattr(late.supervisor, "create", refuses)
    late.supervisor.end(id, 1)
    await until(late, "exited")


def test_a_trash_without_room_for_a_name_empties_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    (tmp_path / "tree/inside").mkdir(parents=True)
    monkeypatch.setattr(os, "rename", full)
    discard(str(tmp_path / "tree"), str(tmp_path / "trash"))
    assert not (tmp_path / "tree").exists()
