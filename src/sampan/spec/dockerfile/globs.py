"""The patterns of `${V#p}` and `${V/p/r}`: `*`, `?`, `\\*` `\\?` `\\\\`, and nothing else.

Pure, and linear in the text.

A pattern is run as a set of states kept in the bits of one number, so no pattern makes it slow. `*` and `?` do not
match a newline. Among the matches at one place the longest counts, or the shortest where asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LARGEST = 16 << 20  # characters that one text may become
_STAR, _ANY = "*", "?"
_REFERENCE = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))")  # what Go expands in the text that replaces every match


@dataclass(frozen=True)
class _Machine:
    """Bit i of a state set: the first i parts of the pattern have matched."""

    literal: dict[str, int]
    any: int
    star: int
    accept: int

    def begin(self) -> int:
        return self.closed(1)

    def closed(self, states: int) -> int:
        return states | (states & self.star) << 1

    def step(self, states: int, char: str) -> int:
        wild = char != "\n"
        moved = states & (self.literal.get(char, 0) | (self.any if wild else 0))
        return self.closed(moved << 1 | (states & self.star if wild else 0))


def _parts(pattern: str) -> list[tuple[str, str]]:
    """(kind, character); kind '' is the character itself. Raises: ValueError."""
    out: list[tuple[str, str]] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == _STAR:
            if not out or out[-1][0] != _STAR:
                out.append((_STAR, ""))
        elif char == _ANY:
            out.append((_ANY, ""))
        elif char == "\\":
            following = pattern[at : at + 1]
            if following in ("}", "/"):
                continue
            if following not in ("*", "?", "\\"):
                raise ValueError(f"invalid escape '\\{following or chr(0xFFFD)}'")
            out.append(("", following))
            at += 1
        else:
            out.append(("", char))
    return out


def _machine(parts: list[tuple[str, str]]) -> _Machine:
    literal: dict[str, int] = {}
    wild = {_STAR: 0, _ANY: 0}
    for i, (kind, char) in enumerate(parts):
        if kind:
            wild[kind] |= 1 << i
        else:
            literal[char] = literal.get(char, 0) | 1 << i
    return _Machine(literal, wild[_ANY], wild[_STAR], 1 << len(parts))


def _match(machine: _Machine, text: str, start: int, *, longest: bool) -> int:
    """Where a match that begins at `start` ends, -1 without one."""
    states, end = machine.begin(), -1
    for at in range(start, len(text) + 1):
        if states & machine.accept:
            end = at
            if not longest:
                break
        if at == len(text) or not states:
            break
        states = machine.step(states, text[at])
    return end


def without_beginning(pattern: str, text: str, *, longest: bool) -> str:
    """Return `${V#p}`, `${V##p}`. Raises: ValueError for a bad escape."""
    end = _match(_machine(_parts(pattern)), text, 0, longest=longest)
    return text[end:] if end > 0 else text


def without_end(pattern: str, text: str, *, longest: bool) -> str:
    """Return `${V%p}`, `${V%%p}`. Raises: ValueError for a bad escape."""
    parts = _parts(reversed_pattern(pattern))
    end = _match(_machine(parts), text[::-1], 0, longest=longest)
    return text[: len(text) - end] if end > 0 else text


def reversed_pattern(pattern: str) -> str:
    """Return the pattern for the text read backwards: escapes stay before what they escape."""
    units = re.findall(r"\\.|.", pattern, re.DOTALL)
    return "".join(reversed(units))


def replace(pattern: str, replacement: str, text: str, *, every: bool) -> str:
    """Return `${V/p/r}`, `${V//p/r}`. Raises: ValueError for a bad escape."""
    parts = _parts(pattern)
    machine = _machine(parts)
    starts = _starts(parts, text)
    out: list[str] = []
    done, after_match = 0, -1
    for start in starts:
        if start < done:
            continue
        end = _match(machine, text, start, longest=True)
        if end == start == after_match:
            continue  # an empty match right behind the last one does not count
        out.append(text[done:start])
        out.append(_REFERENCE.sub(lambda m: _referred(m, text[start:end]), replacement) if every else replacement)  # noqa: B023
        done = after_match = end
        if len(out) * len(replacement) > 2 * LARGEST:
            raise ValueError(f"the result is longer than {LARGEST} characters")
        if not every:
            break
    return "".join([*out, text[done:]])


def _referred(match: re.Match[str], whole: str) -> str:
    if match[1]:
        return "$"
    return whole if (match[2] or match[3]) == "0" else ""


def _starts(parts: list[tuple[str, str]], text: str) -> list[int]:
    """Every place where a match begins, found by one run backwards."""
    machine = _machine(parts[::-1])
    begin = machine.begin()
    states = begin
    found = [len(text)] if states & machine.accept else []
    for at in range(len(text) - 1, -1, -1):
        states = machine.step(states, text[at]) | begin
        if states & machine.accept:
            found.append(at)
    return found[::-1]
