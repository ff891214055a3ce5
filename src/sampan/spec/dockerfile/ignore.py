"""`.dockerignore`: which paths of a context do not count. Pure.

A path is out when the last pattern that matches it, or a directory above it, has no `!`. `*` and `?` stay within a path
component, `**` crosses them, `[a-z]` is a set.

Neighbouring patterns of one kind are a run, and a run is one regular expression. It is not tried where it could change
nothing (exclude what is excluded already), and what it says of a directory holds for all below; both as clients do it
when they walk a context, which is seen when a later pattern names a directory that an earlier one had excluded. A
directory's findings are kept: a path costs one match or two. Where a pattern has several wildcards, all but the last of
a component match once and for all (atomic groups), so that no pattern makes matching slow.

Source: Dockerfile reference, ".dockerignore file"; Go's filepath.Match and filepath.Clean; corner cases as Docker
Engine 28.5.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from sampan.errors import InvalidArgument
from sampan.spec.dockerfile.gotext import SPACE
from sampan.spec.go_values import quote

MOST_INSIDE = 3  # `**` that begin in the middle of a name: each may try every directory of a path
_WILD = re.compile(r"[*?\[\\]")


class Ignore:
    """Patterns, ready to match. Without patterns nothing is excluded."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raises: InvalidArgument for a pattern that is none."""
        self.patterns: tuple[tuple[bool, str], ...] = tuple(_cleaned(patterns))  # (exception?, pattern)
        self._runs = [(exception, re.compile(source, re.DOTALL)) for exception, source in _runs(self.patterns)]
        self._directories = {"": 0}  # bit n: run n matched the directory or one above it
        self._exceptions = [_fixed_part(pattern) for exception, pattern in self.patterns if exception]

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def excludes(self, path: str) -> bool:
        """Return whether `path` (relative, clean, with slashes) is out, by itself or by a directory above it."""
        return self._judge(path, self._above(path))[0]

    def _judge(self, path: str, above: int) -> tuple[bool, int]:
        """Whether `path` is out, and which runs matched it, given those that matched above it."""
        out, matched, bit = False, 0, 1
        for exception, expression in self._runs:
            if above & bit or (exception == out and expression.match(path)):
                matched |= bit
                out = not exception
            bit <<= 1
        return out, matched

    def _above(self, path: str) -> int:
        """Which runs matched the directory that holds `path`, or one above that."""
        directory = path.rpartition("/")[0]
        found = self._directories.get(directory)
        if found is not None:
            return found
        missing = []
        while directory not in self._directories:
            missing.append(directory)
            directory = directory.rpartition("/")[0]
        matched = self._directories[directory]
        for directory in reversed(missing):
            matched = self._directories[directory] = self._judge(directory, matched)[1]
        return matched

    def may_hold_exceptions(self, directory: str) -> bool:
        """Return whether something below an excluded directory may be in after all: if not, it need not be walked."""
        below = directory + "/"
        return any(not fixed or fixed.startswith(below) or below.startswith(fixed) for fixed in self._exceptions)


def read(text: bytes | str) -> Ignore:
    """Return the patterns of a .dockerignore file. Raises: InvalidArgument."""
    return Ignore(lines(text))


def lines(text: bytes | str) -> list[str]:
    """Return the patterns as a client sends them: without comments, blank lines, and slashes in front."""
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    found: list[str] = []
    for line in decoded.removeprefix("\ufeff").split("\n"):
        pattern = line.strip(SPACE)
        if line.startswith("#") or not pattern:
            continue
        mark = "!" if pattern.startswith("!") else ""
        pattern = pattern.removeprefix("!").strip(SPACE)
        if pattern:
            pattern = _clean(pattern)
            pattern = pattern[1:] if len(pattern) > 1 and pattern.startswith("/") else pattern
        found.append(mark + pattern)
    return found


def _clean(path: str) -> str:
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _cleaned(patterns: Iterable[str]) -> Iterable[tuple[bool, str]]:
    for given in patterns:
        pattern = given.strip(SPACE)
        if not pattern:
            continue
        pattern = _clean(pattern)
        exception = pattern.startswith("!")
        if pattern == "!":
            raise InvalidArgument('illegal exclusion pattern: "!"')
        yield exception, pattern[1:] if exception else pattern


def _fixed_part(pattern: str) -> str:
    """The directories of a pattern before its first wildcard, with a slash; a pattern without one, whole."""
    wild = _WILD.search(pattern)
    return pattern[: pattern.rfind("/", 0, wild.start()) + 1] if wild else pattern + "/"


def _runs(patterns: Iterable[tuple[bool, str]]) -> list[tuple[bool, str]]:
    """Neighbours of one kind as one expression, in order."""
    runs: list[tuple[bool, list[str]]] = []
    for exception, pattern in patterns:
        if not runs or runs[-1][0] != exception:
            runs.append((exception, []))
        runs[-1][1].append(_expression(pattern))
    return [(exception, rf"(?:{'|'.join(sources)})\Z") for exception, sources in runs]


def _expression(pattern: str) -> str:
    """A pattern as a regular expression that matches from the beginning. Raises: InvalidArgument."""
    if pattern.startswith("**") and not _WILD.search(pattern, 2) and pattern[2:3] not in ("", "/"):
        return ".*" + re.escape(pattern[2:])  # `**end` is any path that ends so
    pieces: list[list[str]] = [[]]  # between `**`
    after_slash = [True]  # whether the `**` before a piece stands at the beginning of a component
    at = 0
    while at < len(pattern):
        if pattern.startswith("**", at):
            at += 2
            pieces.append([])
            after_slash.append(at == 2 or pattern[at - 3] == "/")
            at += pattern.startswith("/", at)
        else:
            token, at = _token(pattern, at)
            pieces[-1].append(token)
    if after_slash.count(False) > MOST_INSIDE:
        raise InvalidArgument(f"pattern {quote(pattern)} has more than {MOST_INSIDE} ** inside names")
    out = [_piece(pieces[0])]
    for index, piece in enumerate(pieces[1:], 1):
        last = index == len(pieces) - 1
        if last and not piece:
            out.append(".*")
        elif not last and after_slash[index] and after_slash[index + 1]:
            out.append(f"(?>(?:.*?/)??{_piece(piece)})")
        else:
            out.append(f"(?:.*/)?{_piece(piece)}")
    return "".join(out)


def _token(pattern: str, at: int) -> tuple[str, int]:
    """The expression of one character, `*`, `?` or set, and where the next begins. Raises: InvalidArgument."""
    char = pattern[at]
    if char == "*":
        return "*", at + 1
    if char == "?":
        return "[^/]", at + 1
    if char == "\\":
        return re.escape(_member(pattern, at)[0]), at + 2
    if char == "[":
        return _set(pattern, at + 1)
    return re.escape(char), at + 1


def _set(pattern: str, at: int) -> tuple[str, int]:
    out = ["["]
    if pattern.startswith("^", at):
        out.append("^")
        at += 1
    while pattern[at : at + 1] != "]" or out[-1] in ("[", "^"):
        low, at = _member(pattern, at, in_set=True)
        out.append(re.escape(low))
        if pattern.startswith("-", at):
            high, at = _member(pattern, at + 1, in_set=True)
            if high < low:
                raise InvalidArgument("syntax error in pattern")
            out.append("-" + re.escape(high))
    return "".join([*out, "]"]), at + 1


def _member(pattern: str, at: int, *, in_set: bool = False) -> tuple[str, int]:
    """One character, escaped or not."""
    char = pattern[at : at + 1]
    if in_set and char in ("-", "]"):
        char = ""
    if char == "\\":
        at += 1
        char = pattern[at : at + 1]
    if not char:
        raise InvalidArgument("syntax error in pattern")
    return char, at + 1


def _piece(tokens: list[str]) -> str:
    """Of a component's stars all but the last take the first place where what follows them fits, for good."""
    out: list[str] = []
    at = 0
    while at < len(tokens):
        if tokens[at] != "*":
            out.append(tokens[at])
            at += 1
            continue
        end = at + 1
        while end < len(tokens) and tokens[end] not in ("*", "/"):
            end += 1
        fits = "".join(tokens[at + 1 : end])
        another = end < len(tokens) and tokens[end] == "*"
        out.append(f"(?>[^/]*?{fits})" if another else f"[^/]*{fits}")
        at = end
    return "".join(out)
