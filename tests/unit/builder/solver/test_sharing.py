"""Builds that share a running step, and give up at any moment: what the step uses is held until it has ended."""

from __future__ import annotations

import asyncio
import random
from typing import cast

import pytest

from sampan.engine.builder.ops import LocalOp, RunMount, RunOp, ScratchOp
from sampan.engine.builder.progress import Quiet
from sampan.engine.builder.session import Session
from sampan.engine.builder.solver import holding
from sampan.engine.builder.solver.flights import Flight
from sampan.engine.builder.solver.holding import HeldTrees, JoinedSession, is_personal
from sampan.engine.builder.solver.records import CacheRecord
from sampan.engine.builder.trees import Tree, TreeEntry
from sampan.engine.builder.uploaded import UnconnectedSession
from sampan.errors import NotFound, Unavailable

STEPS = 12  # of the run, each an await
CONTEXT = LocalOp(context="context")


class Counted:
    """A tree that knows whether it is open."""

    def __init__(self) -> None:
        self.closed = 0

    def entries(self) -> dict[str, TreeEntry]:
        assert not self.closed, "read after its end"
        return {}

    def close(self) -> None:
        self.closed += 1


class Giving(UnconnectedSession):
    """A client with a secret, until it has gone."""

    gone = False

    async def secret(self, id: str) -> bytes:
        await asyncio.sleep(0)
        if self.gone:
            raise Unavailable("the client has gone")
        return b"hush"


async def several(clients: int, seed: int) -> list[CacheRecord | BaseException]:
    """Builds that come one after the other; all but the last are cancelled after some turns of the loop."""
    chance = random.Random(seed)
    held, flights = HeldTrees(), dict[str, Flight]()
    trees: list[Counted] = []
    finished: list[Flight] = []
    letting: list[asyncio.Task[None]] = []

    def begin(tree: Tree) -> Flight:
        held.hold(tree)

        async def work(flight: Flight) -> CacheRecord:
            try:
                for _ in range(STEPS):
                    tree.entries()
                    assert await JoinedSession(flight.clients).secret("s") == b"hush"
                return CacheRecord(id="r", key="k")
            finally:
                await asyncio.sleep(0)  # clearing away takes a while
                tree.entries()
                finished.append(flight)

        def landed() -> None:
            letting.append(asyncio.create_task(held.let_go([tree])))
            if flights.get("k") is flight:
                del flights["k"]

        flight = flights["k"] = Flight(work, landed)
        return flight

    async def build() -> CacheRecord:
        client, tree = Giving("c"), Counted()
        trees.append(tree)
        held.hold(cast(Tree, tree))
        try:
            flight = flights.get("k")
            if flight is None or flight.doomed:
                flight = begin(cast(Tree, tree))
            record = await flight.join(Quiet(), CONTEXT, client)
            flight.leave()
            return record
        finally:
            client.gone = True
            await held.let_go([cast(Tree, tree)])

    tasks = []
    for number in range(clients):
        tasks.append(asyncio.create_task(build()))
        for _ in range(chance.randrange(STEPS)):
            await asyncio.sleep(0)
        if number < clients - 1:
            asyncio.get_running_loop().call_later(0, tasks[-1].cancel)
            if chance.random() < 0.3:
                tasks[-1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*letting)
    assert not held and not flights and all(tree.closed == 1 for tree in trees)
    return results


@pytest.mark.parametrize("clients", [2, 3])
@pytest.mark.parametrize("seed", range(150))
def test_whoever_gives_up_takes_nothing_from_the_others(clients: int, seed: int) -> None:
    results = asyncio.run(several(clients, seed))
    assert isinstance(results[-1], CacheRecord), results
    assert all(isinstance(one, CacheRecord | asyncio.CancelledError) for one in results)


def test_a_secret_comes_from_whoever_is_there() -> None:
    async def body() -> None:
        gone, there = Giving("a"), Giving("b")
        gone.gone = True
        assert await JoinedSession([gone, there]).secret("s") == b"hush"
        there.gone = True
        with pytest.raises(Unavailable):
            await JoinedSession([gone, there]).secret("s")
        with pytest.raises(NotFound):
            await JoinedSession([gone]).ssh_agent("default")

    asyncio.run(body())


class Silent(UnconnectedSession):
    """A client that stands still: it was asked, and never answers."""

    async def secret(self, id: str) -> bytes:
        return cast(bytes, await asyncio.get_running_loop().create_future())


def test_a_client_that_does_not_answer_holds_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "SILENT_S", 0.1)

    async def body() -> None:
        clients: list[Session] = [Silent("a")]
        asking = asyncio.create_task(JoinedSession(clients).secret("s"))
        await asyncio.sleep(0)
        clients.append(Giving("b"))  # it joins while the first is asked
        assert await asyncio.wait_for(asking, 60) == b"hush"
        with pytest.raises(NotFound, match="secret s: not found"):
            await asyncio.wait_for(JoinedSession([Silent("a"), UnconnectedSession("b")]).secret("s"), 60)
        assert len(asyncio.all_tasks()) == 1, "no question is left"

    asyncio.run(body())


def test_a_step_with_an_agent_is_shared_by_nobody() -> None:
    def run(kind: str) -> RunOp:
        return RunOp(base=ScratchOp(), args=("x",), env=(), mounts=(RunMount(kind=kind, target="/t"),))

    assert is_personal(run("ssh")) and not is_personal(run("secret")) and not is_personal(CONTEXT)
