"""Record who reaches whom on the networks of Docker Engine 28.5.2.

    python -m tests.e2e.matrix.record [--only GROUP] PROGRAM

PROGRAM is a dockerd, or a script that starts one with the flags it is given. answers.json gets, of the first case of
each kind all answers, and of every other case what differs from those. Overlay networks need a swarm there: without a
PROGRAM, alone.json gets what our engine does with them, to be read before it is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
from functools import partial
from pathlib import Path

from tests.e2e.matrix import overlay
from tests.e2e.matrix.cases import GROUPS, Case, Group
from tests.e2e.matrix.player import Answers, Player
from tests.e2e.matrix.world import World
from tests.kernel.net_host import apart
from tests.support.engine import Engine

ANSWERS, ALONE = (Path(__file__).with_name(name) for name in ("answers.json", "alone.json"))
CASES = {name: case for group in GROUPS.values() for name, case in group.cases.items()}


def expected() -> dict[str, Answers]:
    """Return all of every case's recorded answers."""
    return unfold(json.loads(ANSWERS.read_text())) | unfold(json.loads(ALONE.read_text()))


def fold(answers: dict[str, Answers]) -> dict[str, dict[str, str | None]]:
    """Return what differs from the first case of the kind: None for a question that is not asked."""
    found: dict[str, dict[str, str | None]] = {}
    for name, own in answers.items():
        base = answers[_first(CASES[name])]
        if base is own:
            found[name] = dict(own)
        else:
            keys = [*own, *(key for key in base if key not in own)]
            found[name] = {key: own.get(key) for key in keys if own.get(key) != base.get(key)}
    return found


def unfold(folded: dict[str, dict[str, str | None]]) -> dict[str, Answers]:
    """Return the opposite of `fold`."""
    found = {}
    for name, own in folded.items():
        merged = {**folded[_first(CASES[name])], **own}
        found[name] = {key: answer for key, answer in merged.items() if answer is not None}
    return found


def _first(case: Case) -> str:
    return next(name for name, other in CASES.items() if other.kind == case.kind)


def play(group: Group, answers: dict[str, Answers], program: list[str] | None = None) -> dict[str, Answers]:
    """Start an engine between the hosts of a world and ask everything. answers: what is expected."""
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(World())
        peers = Path(stack.enter_context(tempfile.TemporaryDirectory()), "peers.json")
        options = (*group.flags, *(overlay.flags(peers) if group.alone else ()))
        engines = [Engine(None, *options)]
        engines[0].program = program or engines[0].program
        if group.alone:
            engines.append(overlay.second_engine(world, *options))
        for engine in engines:
            stack.callback(engine.close)
            engine.start()
            engine.import_busybox()
        player = _player(engines, world, group, peers)
        with player:
            return asyncio.run(player.play(answers))


def _player(engines: list[Engine], world: World, group: Group, peers: Path) -> Player:
    if group.alone:
        return overlay.OverlayPlayer(engines[0], world, group, engines[1], peers)
    return Player(engines[0], world, group)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=GROUPS)
    parser.add_argument("program", nargs="?")
    given = parser.parse_args()
    program = given.program.split() if given.program else None
    file = ANSWERS if program else ALONE
    found = unfold(json.loads(file.read_text())) if given.only else {}
    with tempfile.TemporaryDirectory() as directory:
        part = Path(directory, "answers")
        for name, group in GROUPS.items():
            if group.alone == (program is None) and given.only in (None, name):
                apart(partial(_record, group, program, part))
                found |= json.loads(part.read_text())
                ordered = {name: found[name] for name in CASES if name in found}
                file.write_text(json.dumps(fold(ordered), indent=1) + "\n")


def _record(group: Group, program: list[str] | None, part: Path) -> None:
    part.write_text(json.dumps(play(group, {}, program)))


if __name__ == "__main__":
    main()
