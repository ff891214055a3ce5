"""Go's path wildcards: `*`, `?`, `[a-z]`, `[^a]` and backslash escapes, none of which matches a slash. Pure.

Source: Go's path/filepath documentation, Match.
"""

from __future__ import annotations

import re
from functools import lru_cache


def has_wildcard(name: str) -> bool:
    """Return whether an unescaped `*`, `?` or `[` is in the name."""
    return re.search(r"^(?:[^\\*?\[]|\\.)*[*?\[]", name, re.DOTALL) is not None


@lru_cache(maxsize=512)
def compiled(pattern: str) -> re.Pattern[str] | None:
    """Return the pattern as a regular expression for a whole path, None when it is malformed.

    What stands between two stars is taken where it comes first, and never looked for again: without that a few stars
    and a long name would take minutes. A later place would leave less of the same component to the rest.
    """
    pieces: list[list[str]] = [[]]  # between stars
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if len(pieces) == 1 or pieces[-1]:
                pieces.append([])
        elif char == "?":
            pieces[-1].append("[^/]")
        elif char == "[":
            item, at = _class(pattern, at)
            if item is None:
                return None
            pieces[-1].append(item)
        elif char == "\\":
            if at == len(pattern):
                return None
            pieces[-1].append(re.escape(pattern[at]))
            at += 1
        else:
            pieces[-1].append(re.escape(char))
    first, *others = ("".join(piece) for piece in pieces)
    middle = "".join(f"(?>[^/]*?{piece})" for piece in others[:-1])
    last = f"[^/]*{others[-1]}" if others else ""
    return re.compile(rf"{first}{middle}{last}\Z", re.DOTALL)


def _class(pattern: str, at: int) -> tuple[str | None, int]:
    """A character class after its bracket; (None, …) when it is malformed or empty."""
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[str] = []
    while True:
        if pattern.startswith("]", at) and ranges:
            at += 1
            break
        low, at = _member(pattern, at)
        high = low
        if low is not None and pattern.startswith("-", at):
            high, at = _member(pattern, at + 1)
        if low is None or high is None:
            return None, at
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")  # matches nothing, and is no error
    inside = "".join(ranges)
    if not inside:
        return ("[^/]" if negated else "(?!)"), at
    return (f"[^/{inside}]" if negated else f"(?!/)[{inside}]"), at


def _member(pattern: str, at: int) -> tuple[str | None, int]:
    if at >= len(pattern) or pattern[at] in "-]":
        return None, at
    if pattern[at] == "\\":
        at += 1
        if at >= len(pattern):
            return None, at
    return pattern[at], at + 1


def matches(pattern: str, path: str) -> bool:
    """Return whether the whole path matches; False for a malformed pattern."""
    expression = compiled(pattern)
    return expression is not None and expression.match(path) is not None
