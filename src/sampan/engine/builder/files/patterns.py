"""Docker's exclusion patterns: `*`, `?`, `[a-z]`, `**`, and `!` for exceptions; a match of a directory is one of all below."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from sampan.engine.builder.files import wildcards


class Ignore:
    """What a list of patterns excludes. The last pattern that matches decides."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._rules: list[tuple[bool, str, re.Pattern[str]]] = []
        self._cache: dict[str, tuple[bool, ...]] = {"": ()}
        for written in patterns:
            text = written.strip()
            negated = text.startswith("!")
            text = posixpath.normpath("/" + text[negated:].strip()).lstrip("/")
            if text:
                self._rules.append((negated, text, _compiled(text)))
        self._cache[""] = (False,) * len(self._rules)

    def excludes(self, path: str) -> bool:
        verdict = False
        for (negated, _, _), match in zip(self._rules, self._matches(path)):
            if match:
                verdict = not negated
        return verdict

    def may_hold_exceptions(self, directory: str) -> bool:
        return any(negated for negated, _, _ in self._rules)

    def _matches(self, path: str) -> tuple[bool, ...]:
        above = path.rpartition("/")[0]
        before = self._cache.get(above)
        if before is None:
            before = self._cache[above] = self._matches(above)
        return tuple(b or e.match(path) is not None for b, (_, _, e) in zip(before, self._rules))


def _compiled(pattern: str) -> re.Pattern[str]:
    parts = []
    for part in re.split(r"(\*\*/?)", pattern):
        if part == "**/":
            parts.append("(?:.*/)?")
        elif part == "**":
            parts.append(".*")
        else:
            expression = wildcards.compiled(part)
            if expression is None:
                raise ValueError(f"syntax error in pattern: {pattern}")
            parts.append(expression.pattern.removesuffix(r"\Z"))
    return re.compile("".join(parts) + r"\Z", re.DOTALL)
