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
    """Return the pattern as a regular expression for a whole path, None when it is malformed."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if not out or out[-1] != "[^/]*":
                out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            item, at = _class(pattern, at)
            if item is None:
                return None
            out.append(item)
        elif char == "\\":
            if at == len(pattern):
                return None
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    return re.compile("".join(out) + r"\Z", re.DOTALL)


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
