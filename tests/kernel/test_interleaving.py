"""Every verb of the API beside every other one, on shared objects, in orders that seeds make; on a whole engine.

Whatever the order: a client gets its answer, or an error that is documented for what it asked; when all is quiet again,
records, memory and kernel agree, nothing holds what is not there, and nothing is left of what is gone. The images have
more of it in tests/kernel/images/test_interleaving.py, with registries.

SAMPAN_INTERLEAVINGS: how many seeds are played of every pair; CI plays a part of the pairs once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import tempfile
import traceback
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sampan.api import routes
from sampan.engine.background import Background
from sampan.engine.engine import Engine
from sampan.engine.store import Table
from sampan.errors import SampanError
from sampan.linux import netlink
from sampan.linux.netlink import Netlink
from tests.kernel.net_host import apart
from tests.support.interleaving import AloneLoop, cancelled_at
from tests.support.one_process import (
    SURVIVED,
    Complaints,
    Death,
    Tasks,
    complaints,
    end_survivors,
    killed_at,
    memory,
    settled,
    with_one_process,
    wrong,
)
from tests.support.operations import OPERATIONS, STATES, Operation, World, build_world, end_world, scratch

pytestmark = pytest.mark.root

SEEDS = int(os.environ.get("SAMPAN_INTERLEAVINGS", "0"))
AGAIN = os.environ.get("SAMPAN_INTERLEAVING", "")  # one case again, as a failure names it
NOUNS = sorted({operation.noun for operation in OPERATIONS.values()})
LIMIT = 60_000  # turns of the loop for one case


@dataclass(frozen=True)
class Case:
    """Operations beside each other. cancel: the wait of the first at which its client goes away; -1: it stays."""

    state: str
    names: tuple[str, ...]
    seed: int
    cancel: int = -1

    def __str__(self) -> str:
        return "|".join([self.state, *self.names, str(self.seed), str(self.cancel)])

    @classmethod
    def parse(cls, text: str) -> Case:
        state, *names, seed, cancel = text.split("|")
        return cls(state, tuple(names), int(seed), int(cancel))


def play(cases: Sequence[Case]) -> None:
    """Play each case; fail with what all of them have found."""
    if AGAIN:
        cases = [case for case in [Case.parse(AGAIN)] if case.names[0] == cases[0].names[0]]
    found: list[str] = []
    with tempfile.NamedTemporaryFile() as progress:
        at = 0
        while at < len(cases) and len(found) < 20:
            left = cases[at:]
            try:
                apart(lambda: _play_in_child(left, progress.name))  # noqa: B023 - it is over before the next turn
            except AssertionError as e:
                n = int(Path(progress.name).read_text() or 0)
                found.append(f"=== {left[n]}\n{e}")
                at += n + 1
            else:
                break
    assert not found, "\n".join(found)


def _play_in_child(cases: Sequence[Case], progress: str) -> None:
    with Netlink() as host:
        host.batch([netlink.set_link(1, up=True)])

    async def all_of_them(engine: Engine) -> None:
        ended: set[tuple[str, ...]] = set()  # that have no more waits to be cancelled at
        with complaints() as said:
            for n, case in enumerate(cases):
                Path(progress).write_text(str(n))
                if case.cancel < 0 or case.names not in ended:
                    answers = await _play(engine, case, said)
                    if answers[0] != "cancelled":
                        ended.add(case.names)
            await _clean(engine, "all", said, whole=True)

    with_one_process(cases[0].seed, all_of_them, firewall=SEEDS > 1)


async def _play(engine: Engine, case: Case, said: Complaints) -> list[str]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, AloneLoop)
    with scratch() as directory:
        loop.random.seed(0)
        world = await build_world(engine, Path(directory), case.state)
        await settled(engine)
        loop.random.seed(str(case))
        loop.limit = LIMIT
        work = [_client(world, OPERATIONS[name], case.cancel if n == 0 else -1) for n, name in enumerate(case.names)]
        answers = await asyncio.gather(*work)
        await _look(engine, f"{case}: {answers}", answers, said)
        if case.cancel >= 0:  # it can be done again
            again = [await _client(world, OPERATIONS[case.names[0]], -1)]
            await _look(engine, f"{case}: {answers}, again {again}", again, said)
    await _clean(engine, f"{case}: {answers}", said, whole=False)
    return answers


async def _look(engine: Engine, shown: str, answers: Sequence[str], said: Complaints) -> None:
    """Wait until all is quiet; nothing must be wrong then."""
    await settled(engine)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, AloneLoop)
    loop.limit = LIMIT
    problems = [text for text in answers if text.startswith("!")]
    problems += await wrong(engine)
    problems += said.take()
    assert not problems, "\n".join([shown, *problems])


async def _client(world: World, operation: Operation, cancel: int) -> str:
    """Do an operation as a client of the API; return how it went, `!…` for what must not be."""
    work: Coroutine[Any, Any, object] = operation.run(world)  # type: ignore[assignment]
    background = Background()
    try:
        if operation.detached:
            work = background.finish(work, operation.name)
        await (cancelled_at(cancel, work) if cancel >= 0 else work)
        return "done"
    except SampanError as e:
        told = f"{type(e).__name__} {e.message}"
        inside = re.search(r"\btask\b|/proc/", e.message)  # words that no user knows
        return told if operation.allows(e) and not inside else "!" + "".join(traceback.format_exception(e))
    except asyncio.CancelledError:
        return "cancelled"
    except Exception as e:
        return "!" + "".join(traceback.format_exception(e))
    finally:
        await background.close(patience_s=1000)


async def _clean(engine: Engine, shown: str, said: Complaints, *, whole: bool) -> None:
    """Remove everything, and see that nothing of it is left."""
    await end_world(engine, whole=whole)
    await settled(engine)
    problems = await wrong(engine) + said.take()
    for noun in (
        "containers",
        "volumes",
        "snapshots",
        "sandboxes",
        *(("networks", "images", "layers") if whole else ()),
    ):
        table = engine.store._tables[noun]
        assert isinstance(table, Table)
        left = [r.id for r in table.all()]
        if noun == "networks":
            left = [n["Name"] for n in engine.networks.list() if n["Name"] not in ("bridge", "host", "none")]
        if left:
            problems.append(f"{noun} that are left: {left}")
    assert not problems, "\n".join([f"after {shown}", *problems])


def test_every_verb_is_an_operation() -> None:
    """A new route is played too, or stands here with the reason why not."""
    elsewhere = {
        "/_ping", "/version", "/events", "/auth", "/distribution/{name}/json", "/grpc", "/session", "/images/search",
        "/images/get", "/images/{name}/push", "/containers/{id}/logs", "/containers/{id}/attach/ws", "/networks/",
        "/build/cache-mounts", "/build/cache-mounts/archive", "/volumes/{name}",
    }  # fmt: skip
    played = {operation.route for operation in OPERATIONS.values()}
    missing = [
        f"{row[0]} {row[1]}"
        for row in routes.TABLE
        if f"{row[0]} {row[1]}" not in played
        and row[1] not in elsewhere
        and row[2].partition(".")[0] not in ("plugins", "cluster")
    ]
    assert not missing


FOUND = (
    ("running", "container: signal", "network: connect"),
    ("running", "container: restart", "network: disconnect"),
    ("running", "container: signal", "container: pause"),
    ("paused", "container: put an archive", "container: put an archive"),
    ("created", "container: remove with volumes", "container: put an archive"),
    ("running", "container: end by itself", "container: attach"),
    ("created", "network: create another", "network: run on another"),
    ("created", "network: create another", "network: prune"),
)
"""States and pairs in which a fault was once found."""


def pairs(noun: str) -> list[Case]:
    """Pairs with an operation of this noun: all of them as often as asked for, else a part of them once."""
    all_of_them = list(OPERATIONS)
    mine = [name for name in all_of_them if name.startswith(noun + ":")]
    if SEEDS:
        both = [(a, b) for a, b in itertools.product(mine, all_of_them) if all_of_them.index(a) <= all_of_them.index(b)]
        return [
            Case(STATES[(n + seed) % len(STATES)], pair, seed) for seed in range(SEEDS) for n, pair in enumerate(both)
        ]
    source = random.Random(noun)
    found = [Case(state, (a, b), seed) for state, a, b in FOUND if a in mine for seed in range(2)]
    return found + [
        Case(source.choice(STATES), (a, source.choice(list(OPERATIONS))), n) for a in mine for n in range(2)
    ]


@pytest.mark.parametrize("noun", NOUNS)
def test_two_clients(noun: str) -> None:
    play(pairs(noun))


def triples() -> list[Case]:
    """Three operations, any."""
    source = random.Random("three")
    return [
        Case(source.choice(STATES), tuple(source.choice(list(OPERATIONS)) for _ in range(3)), n)
        for n in range(max(30, 300 * SEEDS))
    ]


def test_three_clients() -> None:
    play(triples())


def departures() -> list[Case]:
    """Each operation whose client may hang up in the midst of it, at each of its waits in turn."""
    cases: list[Case] = []
    source = random.Random("departures")
    for name, operation in OPERATIONS.items():
        waits = range(200) if SEEDS else sorted(source.sample(range(12), 2))
        if operation.route and not (operation.detached and waits):
            cases += [Case("running", (name,), 0, wait) for wait in (range(1) if operation.detached else waits)]
    return cases


def test_a_client_leaves_at_every_await() -> None:
    play(departures())


# ── the daemon dies ─────────────────────────────────────────────────────────────────────────────────────────────────


def die(case: Case) -> bool:
    """Play one operation; the daemon is killed at its step `cancel`; the next one makes all right."""
    operation = OPERATIONS[case.names[0]]
    with memory() as directory, scratch() as sent:

        async def until_death(engine: Engine, death: Death) -> None:
            world = await build_world(engine, Path(sent), case.state)
            await settled(engine)
            death.begin()
            with contextlib.suppress(SampanError):
                await operation.run(world)
            death.escape()

        async def afterwards(engine: Engine) -> None:
            with complaints() as said:
                await _look(engine, f"{case}, after its death", (), said)
                world = World(engine, Path(sent), exec_id="0" * 64)
                again = [await _client(world, operation, -1)]
                await _look(engine, f"{case}, again {again}", again, said)
                await _clean(engine, f"{case}, again {again}", said, whole=True)

        try:
            died = killed_at(case.cancel, directory, until_death, seed=case.seed)
            with_one_process(case.seed, afterwards, directory=directory, tasks=Tasks.read(directory / SURVIVED))
        finally:
            end_survivors()
    return died


def play_deaths(cases: Sequence[Case]) -> None:
    """Play each, in children; fail with what all of them have found."""
    found: list[str] = []
    ended: set[tuple[str, ...]] = set()

    def one(case: Case, said: str) -> None:
        with Netlink() as host:
            host.batch([netlink.set_link(1, up=True)])
        Path(said).write_text("died" if die(case) else "ended")

    with tempfile.NamedTemporaryFile() as said:
        for case in [Case.parse(AGAIN)] if AGAIN else cases:
            if case.names in ended:
                continue
            try:
                apart(lambda: one(case, said.name))  # noqa: B023 - it is over before the next turn
            except AssertionError as e:
                found.append(f"=== {case}\n{e}")
                if sum(other.startswith(f"=== {case.state}|{case.names[0]}|") for other in found) >= 3:
                    ended.add(case.names)
            else:
                if Path(said.name).read_text() == "ended":
                    ended.add(case.names)
    assert not found, "\n".join(found)


def deaths() -> list[Case]:
    """Each operation that changes something, killed at its steps in turn; at each of them from ten seeds on."""
    source = random.Random("deaths")
    changing = [name for name, o in OPERATIONS.items() if not o.route.startswith(("GET", "HEAD"))]
    if SEEDS:
        every = max(1, 10 // SEEDS)
        return [
            Case(STATES[n % len(STATES)], (name,), 0, step)
            for n, name in enumerate(changing)
            for step in range(n % every, 1000, every)
        ]
    found = [
        Case("temporary", ("container: kill",), 0, 35),
        Case("running", ("container: remove by force",), 0, 23),
        Case("created", ("volume: create another",), 0, 1),
    ]
    return found + [Case(source.choice(STATES), (source.choice(changing),), 0, source.randrange(60)) for _ in range(7)]


def test_the_daemon_dies_at_every_step() -> None:
    play_deaths(deaths())
