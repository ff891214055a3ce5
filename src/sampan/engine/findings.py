"""What a check of the data root compares, and what it finds. Values and pure functions.

Two questions: what lies there that nothing refers to, and what is referred to and is not there?
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from sampan.engine.store import Aside, Ref


class Problem(StrEnum):
    """What can be wrong between the records and the data root."""

    UNREFERENCED = "unreferenced"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be. `remedy`: what a repair does, or what the user can do."""

    kind: str  # layer, snapshot, blob, ingest, image, tag, container, volume, trash, reference, record
    id: str
    problem: Problem
    path: str = ""
    remedy: str
    repairable: bool = True


def strays(kind: str, there: Mapping[str, str], wanted: Collection[str], remedy: str) -> list[Finding]:
    """Return what is there (id → path) and nobody wants."""
    return [
        Finding(kind=kind, id=id, problem=Problem.UNREFERENCED, path=path, remedy=remedy)
        for id, path in sorted(there.items())
        if id not in wanted
    ]


def missing(kind: str, id: str, path: str, remedy: str) -> Finding:
    """What a record names and is not there."""
    return Finding(kind=kind, id=id, problem=Problem.MISSING, path=path, remedy=remedy, repairable=False)


def beside_unreadable(found: Iterable[Finding], aside: Iterable[Aside]) -> list[Finding]:
    """Add the records that cannot be read; as long as there is one, nothing else is repaired: it may be named there."""
    return [
        *(
            Finding(
                kind="record",
                id=f"{row.table}/{row.id}",
                problem=Problem.DAMAGED,
                remedy=f"it cannot be read ({row.reason}): a repair removes it, the next one what only it named",
            )
            for row in aside
        ),
        *(
            replace(one, repairable=False, remedy="kept while there are records that cannot be read")
            if one.repairable
            else one
            for one in found
        ),
    ]


def references(refs: Iterable[tuple[Ref, Ref]], exists: Callable[[Ref], bool | None]) -> list[Finding]:
    """Return the references whose holder or target is gone. `exists` is None for a noun it does not know."""
    found = []
    for holder, target in sorted(refs):
        if exists(holder) is False:
            found.append(_reference(holder, target, Problem.UNREFERENCED, "dropped: its holder is gone", True))
        elif exists(target) is False:
            remedy = f"remove {holder.noun} {holder.id}, or make {target.noun} {target.id} again"
            found.append(_reference(holder, target, Problem.MISSING, remedy, False))
    return found


def _reference(holder: Ref, target: Ref, problem: Problem, remedy: str, repairable: bool) -> Finding:
    return Finding(kind="reference", id=f"{holder} → {target}", problem=problem, remedy=remedy, repairable=repairable)
