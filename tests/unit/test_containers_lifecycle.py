"""Start, exit, restart, removal and recovery, on fakes that keep the contracts: no root, no kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sampan.engine.containers import restart
from sampan.errors import Conflict, Internal, InvalidArgument, SampanError
from sampan.spec import codec
from sampan.spec.engine_api.container import CreateRequest
from sampan.supervisor.client import TaskFailed
from tests.support.container_fakes import FakeSupervisor, Room, open_room


@pytest_asyncio.fixture
async def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Room]:
    monkeypatch.setattr(restart, "FIRST_DELAY_S", 0.0)
    opened = await open_room(tmp_path)
    yield opened
    await opened.close()


async def create(room: Room, name: str = "c1", **host: Any) -> str:
    asked = codec.convert(CreateRequest, {"Image": "busybox", "Cmd": ["true"], "HostConfig": host})
    return (await room.containers.create(name, asked.config, asked.host_config, None))[0]


def state(room: Room, ref: str = "c1") -> str:
    return room.containers.get(ref).status.state.value


async def until(room: Room, wanted: str, ref: str = "c1", restarts: int | None = None) -> None:
    """Let the loop turn until the container is in a state (after so many restarts); else the time limit ends it."""
    while True:
        if state(room, ref) == wanted and restarts in (None, room.containers.get(ref).restart_count):
            return
        await asyncio.sleep(0.001)


async def settled(room: Room) -> None:
    """Let everything that was set off run to its end."""
    for _ in range(50):
        await asyncio.sleep(0)


def actions(room: Room) -> list[str]:
    return [e["Action"] for e in room.events._ring if e["Type"] == "container"]


@pytest.mark.asyncio
async def test_start_exit_wait_remove(room: Room) -> None:
    id = await create(room)
    assert await room.containers.start("c1") is True
    assert await room.containers.start("c1") is False
    ended = room.containers.wait("c1")
    room.supervisor.end(id, 3)
    assert await ended == (3, "")
    await settled(room)
    assert state(room) == "exited"
    assert not room.networks.attached and not room.supervisor.tasks
    await room.containers.remove("c1")
    assert not room.roots.ids
    assert actions(room) == ["create", "start", "die", "destroy"]


@pytest.mark.asyncio
async def test_an_exit_right_after_the_start_is_not_missed(room: Room) -> None:
    id = await create(room)
    waiting = room.containers.wait("c1", "next-exit")
    await room.containers.start("c1")
    room.supervisor.end(id, 0)
    assert await waiting == (0, "")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"DeviceRequests": [{"Driver": "gpu"}]}, "could not select device driver"),
        ({"Ulimits": [{"Name": "zz"}]}, "wrong rlimit value: RLIMIT_ZZ"),
        ({"Tmpfs": {"/t": "nonsense"}}, "invalid tmpfs option"),
        ({"PidMode": "container:other"}, "failed to join PID namespace"),
        ({"Devices": [{"PathOnHost": "/nowhere/dev"}]}, "error gathering device information"),
    ],
)
@pytest.mark.asyncio
async def test_a_start_that_cannot_be_changes_nothing(
    room: Room, tmp_path: Path, host: dict[str, Any], words: str
) -> None:
    await create(room, "other")
    await create(room, Binds=[f"{tmp_path}/made/by/a/start:/made"], **host)
    with pytest.raises(SampanError, match=words):
        await room.containers.start("c1")
    assert not (tmp_path / "made").exists() and not room.networks.attached and not room.supervisor.tasks


@pytest.mark.asyncio
async def test_a_source_that_is_gone_by_the_start_is_not_made(room: Room, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    await create(room, Mounts=[{"Type": "bind", "Source": str(source), "Target": "/x"}])
    source.rmdir()
    with pytest.raises(InvalidArgument, match=f"bind source path does not exist: {source}"):
        await room.containers.start("c1")
    assert not source.exists() and not room.networks.attached


@pytest.mark.asyncio
async def test_a_start_makes_the_directories_that_are_bound(room: Room, tmp_path: Path) -> None:
    await create(room, Binds=[f"{tmp_path}/made/by/a/start:/made"])
    await room.containers.start("c1")
    assert (tmp_path / "made/by/a/start").stat().st_mode & 0o777 == 0o755


@pytest.mark.asyncio
async def test_a_refused_start_leaves_nothing_and_tells_docker_words(room: Room) -> None:
    await create(room)
    room.supervisor.refuse = TaskFailed("exec", 2, 'exec: "/nope": stat /nope: no such file or directory')
    with pytest.raises(InvalidArgument) as refused:
        await room.containers.start("c1")
    assert refused.value.message == (
        "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create"
        " failed: unable to start container process: error during container init:"
        ' exec: "/nope": stat /nope: no such file or directory'
    )
    status = room.containers.get("c1").status
    assert (status.state.value, status.exit_status, status.error) == ("created", 127, refused.value.message)
    assert not room.networks.attached and not room.supervisor.tasks
    await room.containers.remove("c1")


@pytest.mark.asyncio
async def test_exit_status_126_for_what_cannot_be_executed(room: Room) -> None:
    await create(room)
    room.supervisor.refuse = TaskFailed("exec", 13, 'exec: "/etc/passwd": permission denied')
    with pytest.raises(InvalidArgument):
        await room.containers.start("c1")
    assert room.containers.get("c1").status.exit_status == 126


@pytest.mark.asyncio
async def test_auto_remove_takes_the_container_away(room: Room) -> None:
    id = await create(room, AutoRemove=True)
    gone = room.containers.wait("c1", "removed")
    await room.containers.start("c1")
    room.supervisor.end(id, 4)
    assert await gone == (4, "")
    assert not room.roots.ids and not room.networks.attached


@pytest.mark.asyncio
async def test_on_failure_restarts_as_often_as_asked(room: Room) -> None:
    id = await create(room, RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 2})
    await room.containers.start("c1")
    for expected in (1, 2):
        room.supervisor.end(id, 1)
        await until(room, "running", restarts=expected)
    room.supervisor.end(id, 1)
    await until(room, "exited")
    assert room.containers.get("c1").restart_count == 2


@pytest.mark.asyncio
async def test_stop_calls_off_restarts(room: Room) -> None:
    await create(room, RestartPolicy={"Name": "always"})
    await room.containers.start("c1")
    assert await room.containers.stop("c1") is True
    await settled(room)
    assert state(room) == "exited"
    assert await room.containers.stop("c1") is False
    assert [s for _, s in room.supervisor.signals] == [15]


@pytest.mark.asyncio
async def test_stop_kills_what_does_not_obey(room: Room) -> None:
    room.supervisor.obeys = frozenset({9})
    await create(room)
    await room.containers.start("c1")
    assert await room.containers.stop("c1", signal="INT", timeout_s=0) is True
    assert [s for _, s in room.supervisor.signals] == [2, 9]


@pytest.mark.asyncio
async def test_stop_during_back_off(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "FIRST_DELAY_S", 3600.0)
    id = await create(room, RestartPolicy={"Name": "always"})
    await room.containers.start("c1")
    room.supervisor.end(id, 1)
    await until(room, "restarting")
    assert await room.containers.stop("c1") is True
    assert state(room) == "exited"
    await room.containers.remove("c1")


@pytest.mark.asyncio
async def test_pause_and_what_it_forbids(room: Room) -> None:
    await create(room)
    with pytest.raises(Conflict, match="is not running"):
        await room.containers.pause("c1")
    await room.containers.start("c1")
    await room.containers.pause("c1")
    with pytest.raises(Conflict, match="is already paused"):
        await room.containers.pause("c1")
    with pytest.raises(Conflict, match="cannot start a paused container, try unpause instead"):
        await room.containers.start("c1")
    with pytest.raises(Conflict, match='cannot remove container "c1": container is paused and must be unpaused first'):
        await room.containers.remove("c1")
    await room.containers.unpause("c1")
    with pytest.raises(Internal, match="is not paused"):
        await room.containers.unpause("c1")
    with pytest.raises(Conflict, match='cannot remove container "c1": container is running: stop the container before'):
        await room.containers.remove("c1")
    await room.containers.remove("c1", force=True)
    assert not room.supervisor.tasks


@pytest.mark.asyncio
async def test_kill_in_docker_words(room: Room) -> None:
    id = await create(room)
    with pytest.raises(Conflict, match=f"cannot kill container: c1: container {id} is not running"):
        await room.containers.kill("c1")
    await room.containers.start("c1")
    with pytest.raises(InvalidArgument, match="cannot kill container: c1: invalid signal: NOPE"):
        await room.containers.kill("c1", "NOPE")
    await room.containers.pause("c1")
    await room.containers.kill("c1", "USR1")
    assert state(room) == "running"
    await room.containers.kill("c1")
    await settled(room)
    assert room.containers.get("c1").status.exit_status == 137


@pytest.mark.asyncio
async def test_concurrent_starts_make_one_task(room: Room) -> None:
    await create(room)
    assert sorted(await asyncio.gather(*(room.containers.start("c1") for _ in range(5)))) == [False] * 4 + [True]


# --- the daemon dies -------------------------------------------------------------------------------------------------


async def reborn(room: Room, tmp_path: Path) -> Room:
    await room.close()
    return await open_room(tmp_path, supervisor=room.supervisor, roots=room.roots, networks=room.networks)


@pytest.mark.asyncio
async def test_a_running_container_is_adopted(tmp_path: Path) -> None:
    first = await open_room(tmp_path)
    id = await create(first)
    await first.containers.start("c1")
    second = await reborn(first, tmp_path)
    try:
        assert state(second) == "running" and second.networks.attached
        ended = second.containers.wait("c1")
        second.supervisor.end(id, 5)
        assert await ended == (5, "")
    finally:
        await second.close()


@pytest.mark.asyncio
async def test_an_exit_in_between_is_told_right(tmp_path: Path) -> None:
    first = await open_room(tmp_path)
    id = await create(first)
    await first.containers.start("c1")
    await first.close()
    first.supervisor.end(id, 9)
    second = await open_room(tmp_path, supervisor=first.supervisor, roots=first.roots, networks=first.networks)
    try:
        assert await second.containers.wait("c1") == (9, "")
        await settled(second)
        assert not second.supervisor.tasks and not second.networks.attached
    finally:
        await second.close()


@pytest.mark.asyncio
async def test_after_a_reboot_policies_decide(tmp_path: Path) -> None:
    first = await open_room(tmp_path)
    for name, policy in (("a1", "always"), ("u1", "unless-stopped"), ("s1", "unless-stopped"), ("n1", "no")):
        await create(first, name, RestartPolicy={"Name": policy})
        await first.containers.start(name)
    await first.containers.stop("s1")
    await settled(first)
    await first.close()
    second = await open_room(tmp_path, supervisor=FakeSupervisor(), roots=first.roots)
    try:
        for name, expected in (("a1", "running"), ("u1", "running"), ("s1", "exited"), ("n1", "exited")):
            await until(second, expected, name)
        assert second.containers.get("n1").status.exit_status == 255
    finally:
        await second.close()


@pytest.mark.asyncio
async def test_an_interrupted_start_is_undone_and_a_finished_one_adopted(tmp_path: Path) -> None:
    first = await open_room(tmp_path)
    made, ran = await create(first, "m1"), await create(first, "r1")
    await first.close()
    request = TaskRequestFor
    await first.supervisor.create(request(made), start=False)
    await first.supervisor.create(request(ran), start=True)
    await first.supervisor.create(request("f" * 64), start=True)
    second = await open_room(tmp_path, supervisor=first.supervisor, roots=first.roots)
    try:
        assert (state(second, "m1"), state(second, "r1")) == ("created", "running")
        assert set(second.supervisor.tasks) == {ran}
    finally:
        await second.close()


def TaskRequestFor(id: str) -> Any:
    from sampan.supervisor.client import TaskRequest

    return TaskRequest(id=id, spec=b"{}")


@pytest.mark.asyncio
async def test_an_interrupted_removal_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await open_room(tmp_path)
    await create(first)

    def killed(_: str, beside: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(first.roots, "remove", killed)
    with pytest.raises(asyncio.CancelledError):
        await first.containers.remove("c1")
    monkeypatch.undo()
    second = await reborn(first, tmp_path)
    try:
        await settled(second)
        assert len(second.containers._table) == 0 and not second.roots.ids
    finally:
        await second.close()


@pytest.mark.asyncio
async def test_a_directory_without_a_record_is_swept(tmp_path: Path) -> None:
    (tmp_path / "containers" / ("e" * 64)).mkdir(parents=True)
    room = await open_room(tmp_path)
    await room.close()
    assert not list((tmp_path / "containers").iterdir())
