"""Places for connections: the idle ones give way, the busy ones of one client leave room, bodies have a budget."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from sampan.api import admission
from sampan.api.admission import Admission
from sampan.errors import InvalidArgument, Unavailable


class Connection:
    def __init__(self) -> None:
        self.gone = asyncio.Event()

    @property
    def dropped(self) -> bool:
        return self.gone.is_set()

    def drop(self) -> None:
        self.gone.set()


async def chunks(count: int, size: int = 1024 * 1024) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(size)


@pytest.mark.asyncio
async def test_the_oldest_idle_connection_of_who_has_most_gives_way() -> None:
    places = Admission(4)
    quiet, *many = [Connection() for _ in range(4)]
    assert places.enter(quiet, "a") and all(places.enter(each, "b") for each in many)
    new = [Connection(), Connection()]
    assert all(places.enter(each, "c") for each in new)
    assert [each.dropped for each in (quiet, *many)] == [False, True, True, False]
    places.close()


@pytest.mark.asyncio
async def test_busy_connections_stay_and_a_new_one_is_refused() -> None:
    places = Admission(4)
    held = [Connection() for _ in range(4)]
    with ExitStack() as stack:
        for number, each in enumerate(held):
            assert places.enter(each, f"client {number}")
            stack.enter_context(places.request(each))
        assert not places.enter(Connection(), "new")
        places.leave(held[0])
        assert places.enter(Connection(), "new")
    assert not any(each.dropped for each in held)
    places.close()


@pytest.mark.asyncio
async def test_one_client_leaves_a_quarter_to_the_others() -> None:
    places = Admission(8)
    with ExitStack() as stack:
        for _ in range(6):
            one = Connection()
            assert places.enter(one, "many")
            stack.enter_context(places.request(one))
        seventh, other = Connection(), Connection()
        assert places.enter(seventh, "many") and places.enter(other, "other")
        with pytest.raises(Unavailable, match="this client has 6 under way"), places.request(seventh):
            pass
        with places.request(other):
            pass
    with places.request(seventh):
        pass
    places.close()


@pytest.mark.asyncio
async def test_a_request_has_to_come_in_time() -> None:
    places = Admission(8, head_patience_s=0.02)
    silent, answered, half = Connection(), Connection(), Connection()
    for each in (silent, answered, half):
        assert places.enter(each, "x")
    for each in (answered, half):
        with places.request(each):
            pass
    places.begun(half)
    await asyncio.wait_for(asyncio.gather(silent.gone.wait(), half.gone.wait()), 10)
    assert not answered.dropped  # kept alive between its requests
    places.close()


@pytest.mark.asyncio
async def test_bodies_have_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "BODIES_BYTES", 10 * 1024 * 1024)
    monkeypatch.setattr(admission, "BODY_BYTES", 5 * 1024 * 1024)
    places = Admission(8)
    one, two, third = Connection(), Connection(), Connection()
    for each, client in ((one, "a"), (two, "a"), (third, "b")):
        places.enter(each, client)
    with pytest.raises(InvalidArgument, match="longer than 5242880 bytes"):
        await places.whole(third, chunks(6))
    go = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        async for chunk in chunks(3):
            yield chunk
        await go.wait()

    held = asyncio.ensure_future(places.whole(one, stalled()))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="large request bodies"):
        await places.whole(two, chunks(3))
    assert len(await places.whole(two, chunks(1, 60_000))) == 60_000
    assert len(await places.whole(third, chunks(3))) == 3 * 1024 * 1024
    go.set()
    assert len(await held) == 3 * 1024 * 1024
    assert len(await places.whole(two, chunks(3))) == 3 * 1024 * 1024
    places.close()
