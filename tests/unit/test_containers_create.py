"""Create: every recorded refusal and warning of Docker Engine 28.5, word for word, and nothing changed by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.tasks import host
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound, SampanError
from sampan.spec import codec
from sampan.spec.engine_api.container import CreateRequest, HostConfig, UpdateConfig
from tests.support.container_fakes import Room, open_room

ANSWERS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "containers_answers.json").read_text())
# The machine on which the answers were recorded.
MACHINE = host.Host(cpu_count=2, cpus="0-1", mems="0", hostname="host", unified=False)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "probe", lambda: MACHINE)


async def create(room: Room, body: dict[str, Any], name: str = "") -> tuple[str, list[str]]:
    asked = codec.convert(CreateRequest, body)
    return await room.containers.create(name, asked.config, asked.host_config, asked.networking_config)


@pytest.mark.asyncio
async def test_answers_of_docker(tmp_path: Path) -> None:
    room = await open_room(tmp_path)
    wrong: list[str] = []
    try:
        for answer in ANSWERS:
            before = (len(room.containers._table), len(room.roots.ids), len(room.volumes.list()))
            try:
                id, warnings = await create(room, answer["request"])
            except SampanError as e:
                found: Any = (e.status, e.message)
                after = (len(room.containers._table), len(room.roots.ids), len(room.volumes.list()))
                if before != after:
                    wrong.append(f"{answer['name']}: refused, and yet changed {before} to {after}")
            else:
                found = (201, warnings)
                await room.containers.remove(id, volumes=True)
            expected = (answer["status"], answer.get("message", answer.get("warnings")))
            if found != expected:
                wrong.append(f"{answer['name']}: {found} instead of {expected}")
        assert not wrong, "\n".join(wrong)
        assert len(ANSWERS) > 180
        assert not list((tmp_path / "containers").iterdir())
    finally:
        await room.close()


@pytest.mark.asyncio
async def test_a_name_is_taken_once_and_free_after_removal(tmp_path: Path) -> None:
    room = await open_room(tmp_path)
    try:
        id, _ = await create(room, {"Image": "busybox"}, "web")
        with pytest.raises(Conflict, match=f'The container name "/web" is already in use by container "{id}"'):
            await create(room, {"Image": "busybox"}, "web")
        assert room.containers.get("web").id == room.containers.get(id[:12]).id == id
        await room.containers.remove("web")
        with pytest.raises(NotFound, match="No such container: web"):
            room.containers.get("web")
        await create(room, {"Image": "busybox"}, "web")
    finally:
        await room.close()


@pytest.mark.asyncio
async def test_a_failure_after_the_snapshot_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = await open_room(tmp_path)
    try:

        async def no_space(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(room.store, "apply", no_space)
        with pytest.raises(Internal, match="cannot create container web: no space left on device"):
            await create(room, {"Image": "busybox"}, "web")
        monkeypatch.undo()
        assert not room.roots.ids and not list((tmp_path / "containers").iterdir())
        monkeypatch.setattr(host, "probe", lambda: MACHINE)
        await create(room, {"Image": "busybox"}, "web")
    finally:
        await room.close()


@pytest.mark.asyncio
async def test_rename(tmp_path: Path) -> None:
    room = await open_room(tmp_path)
    try:
        await create(room, {"Image": "busybox"}, "one")
        await create(room, {"Image": "busybox"}, "two")
        with pytest.raises(InvalidArgument, match="Neither old nor new names may be empty"):
            await room.containers.rename("one", "")
        with pytest.raises(InvalidArgument, match="Renaming a container with the same name as its current name"):
            await room.containers.rename("one", "/one")
        with pytest.raises(Conflict, match="Error when allocating new name: Conflict"):
            await room.containers.rename("one", "two")
        await room.containers.rename("one", "three")
        assert room.containers.get("three").name == "three"
        with pytest.raises(NotFound):
            room.containers.get("one")
    finally:
        await room.close()


@pytest.mark.asyncio
async def test_update_checks_against_what_is_set(tmp_path: Path) -> None:
    room = await open_room(tmp_path)
    try:
        id, _ = await create(room, {"Image": "busybox", "HostConfig": {"Memory": 67108864}})
        with pytest.raises(Conflict, match="Memory limit should be smaller than already set memoryswap limit"):
            await room.containers.update(id, UpdateConfig(memory=268435456))
        assert await room.containers.update(id, UpdateConfig(memory=33554432, memory_swap=-1)) is None
        h: HostConfig = room.containers.get(id).host_config
        assert (h.memory, h.memory_swap) == (33554432, -1)
        with pytest.raises(InvalidArgument, match="Minimum memory limit allowed is 6MB"):
            await room.containers.update(id, UpdateConfig(memory=1))
    finally:
        await room.close()


@pytest.mark.asyncio
async def test_anonymous_volumes_go_with_v_and_named_ones_stay(tmp_path: Path) -> None:
    room = await open_room(tmp_path)
    try:
        body = {
            "Image": "busybox",
            "HostConfig": {
                "Binds": ["named1:/n:nocopy"],
                "Mounts": [{"Type": "volume", "Target": "/v", "VolumeOptions": {"NoCopy": True}}],
            },
        }
        id, _ = await create(room, body)
        assert len(room.volumes.list()) == 2
        await room.containers.remove(id, volumes=True)
        assert [v.id for v in room.volumes.list()] == ["named1"]
    finally:
        await room.close()
