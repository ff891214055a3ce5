"""Charts of a state table `{(state, trigger): state}`: as text for a docstring, as Mermaid for a page.

A test compares them with what is written there, so that no chart tells another story than its table. A state whose
value is "" is the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

StateTable = Mapping[tuple[StrEnum, StrEnum], StrEnum]


def text(table: StateTable) -> str:
    """Draw one line for each way from a state to another: `running ── pause ─▶ paused`, in the table's order."""
    ways = _ways(table)
    from_width = max(len(source) for source, _ in ways)
    by_width = max(len(", ".join(triggers)) for triggers in ways.values())
    lines = []
    for (source, target), triggers in ways.items():
        words = ", ".join(triggers)
        line = "─" * (by_width - len(words) + 1)
        lines.append(f"{source:{from_width}} ─ {words} {line}▶ {target or '(gone)'}")
    return "\n".join(lines)


def mermaid(table: StateTable) -> str:
    """Draw a Mermaid state diagram; it begins in the table's first state."""
    ways = _ways(table)
    first = next(iter(ways))[0]
    lines = ["stateDiagram-v2", f"    [*] --> {first}"]
    lines += [
        f"    {source} --> {target or '[*]'}: {', '.join(triggers)}" for (source, target), triggers in ways.items()
    ]
    return "\n".join(lines)


def _ways(table: StateTable) -> dict[tuple[str, str], list[str]]:
    """The triggers of each pair of states."""
    ways: dict[tuple[str, str], list[str]] = {}
    for (source, trigger), target in table.items():
        ways.setdefault((source.value, target.value), []).append(trigger.value)
    return ways
