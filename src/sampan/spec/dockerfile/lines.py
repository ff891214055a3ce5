"""A Dockerfile's text as nodes: directives, comments, continued lines, heredocs, and the keyword with its flags. Pure.

One pass over the lines. A node knows its keyword, its flags and its arguments as words; what they mean is in
`reading.py`. What is wrong already here comes before what is wrong with an instruction of an earlier line, and carries
no "on line" in its text, both as with Docker.

Source: Dockerfile reference, "Format", "Parser directives", "Here-documents"; corner cases as Docker Engine 28.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sampan.spec.dockerfile import arguments, heredocs
from sampan.spec.dockerfile.arguments import split
from sampan.spec.dockerfile.errors import DockerfileError, Range
from sampan.spec.dockerfile.gotext import SPACE
from sampan.spec.dockerfile.heredocs import Heredoc

LONGEST_LINE = 65535  # bytes
LARGEST = 4 << 20  # bytes of a Dockerfile: a second or few to read at most
_DIRECTIVE = re.compile(r"#[\t\n\f\r ]*([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(\S.*)$")
_DIRECTIVES = ("syntax", "escape", "check")


@dataclass(frozen=True, slots=True)
class Directive:
    """`# syntax=…`, `# escape=…` or `# check=…` at the top."""

    name: str
    value: str
    range: Range


@dataclass(frozen=True, slots=True)
class Warning:
    """What the reader noticed on the way: an empty line inside a continued one. `message` holds the joined line."""

    message: str
    range: Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One instruction as text. `source` is its line, joined; `given` what follows keyword and flags."""

    keyword: str  # as written
    flags: tuple[str, ...]
    given: arguments.Arguments
    source: str
    range: Range
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()  # of the lines right before


@dataclass(slots=True)
class Text:
    """What `read` found."""

    escape: str = "\\"
    directives: list[Directive] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    warnings: list[Warning] = field(default_factory=list)


def decoded(text: bytes | str) -> str:
    """Return the text without byte order mark; bytes that are no UTF-8 become U+FFFD.

    Raises: DockerfileError when too large.
    """
    if len(text) > LARGEST:
        raise DockerfileError(f"Dockerfile is larger than the maximum of {LARGEST} bytes")
    out = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return out.removeprefix("\ufeff")


def read(text: str) -> Text:
    """Split a Dockerfile into nodes. Raises: DockerfileError."""
    reader = _Reader(text)
    reader.run()
    return reader.found


class _Reader:
    """The lines, where it stands, and what it has found."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        if self.lines[-1] == "":
            self.lines.pop()  # a newline ends a line, it does not begin one
        self.at = 0
        self.found = Text()
        self.directives_over = False
        self.set_escape("\\")

    def set_escape(self, escape: str) -> None:
        self.found.escape = escape
        e = re.escape(escape)
        self.continued = re.compile(rf"(?:(?<=[^{e}])|^){e}[ \t]*\Z")

    def take(self) -> str | None:
        """Return the next line without its end; None after the last, and before one that is too long."""
        if self.at >= len(self.lines):
            return None
        line = self.lines[self.at]
        if len(line) > LONGEST_LINE // 4 and len(line.encode("utf-8", "replace")) > LONGEST_LINE:
            return None
        self.at += 1
        return line

    def run(self) -> None:
        comments: list[str] = []
        while (line := self.take()) is not None:
            text = line.rstrip("\r").lstrip(SPACE)
            if text.startswith("#"):
                if not self.directive(text):
                    comment = line[1:].strip(SPACE)
                    if comment:
                        comments.append(comment)
                    else:
                        comments.clear()
                continue
            self.directives_over = True
            if text:
                self.found.nodes.append(self.node(text, tuple(comments)))
                comments.clear()
        if not self.found.nodes:
            raise DockerfileError("file with no instructions", self.here())
        if self.at < len(self.lines):
            raise DockerfileError(
                f"dockerfile line greater than max allowed size of {LONGEST_LINE}", [Range(self.at, self.at)]
            )

    def here(self) -> list[Range]:
        return [Range(self.at, self.at)] if self.at else []

    def directive(self, text: str) -> bool:
        """Take a parser directive; the first line that is none ends them. Raises: DockerfileError."""
        match = None if self.directives_over else _DIRECTIVE.match(text)
        name = match[1].lower() if match else ""
        if not match or name not in _DIRECTIVES:
            self.directives_over = True
            return False
        line = self.at
        before = [Range(line - 1, line - 1)] if line > 1 else []  # Docker points at the line before
        if any(d.name == name for d in self.found.directives):
            raise DockerfileError(f"only one {name} parser directive can be used", before)
        value = match[2].rstrip("\t\n\f\r ")
        if name == "escape":
            if value not in ("\\", "`"):
                raise DockerfileError(f"invalid escape token '{value}' does not match ` or \\", before)
            self.set_escape(value)
        self.found.directives.append(Directive(name, value, Range(line, line)))
        return True

    def node(self, text: str, comments: tuple[str, ...]) -> Node:
        """Return the instruction that begins with `text`, which is the line just taken. Raises: DockerfileError."""
        start = self.at
        parts = []
        empty = False
        while match := self.continued.search(text):
            parts.append(text[: match.start()])
            text = ""
            for following in self.continuation():
                if following:
                    text = following
                    break
                empty = True
            else:
                break
        source = "".join([*parts, text])
        if empty:
            self.found.warnings.append(Warning(f"Empty continuation line found in: {source}", Range(self.at, self.at)))
        keyword, flags, rest = split(source, self.found.escape)
        try:
            given = arguments.read(keyword, rest, self.found.escape)
        except DockerfileError as e:
            raise e.at(Range(start, self.at)) from None
        found = self.heredocs(source, start) if given.heredocs and "<<" in source else ()
        return Node(
            keyword=keyword,
            flags=flags,
            given=given,
            source=source,
            range=Range(start, self.at),
            heredocs=found,
            comments=comments,
        )

    def continuation(self) -> Iterator[str]:
        """Yield the lines that may continue an instruction; comments are skipped, a blank one is ''."""
        while (line := self.take()) is not None:
            line = line.rstrip("\r")
            stripped = line.lstrip(SPACE)
            if not stripped.startswith("#"):
                yield line if stripped else ""

    def heredocs(self, source: str, start: int) -> tuple[Heredoc, ...]:
        """Take the texts that the line announces, each to the line that is its name. Raises: DockerfileError."""
        try:
            announced = heredocs.in_line(source)
        except DockerfileError as e:
            raise e.at(Range(start, self.at)) from None
        return tuple(self.content(one, start) for one in announced)

    def content(self, announced: Heredoc, start: int) -> Heredoc:
        lines: list[str] = []
        while (line := self.take()) is not None:
            name = line.rstrip("\r")
            if (name.lstrip("\t") if announced.strip_tabs else name) == announced.name:
                content = "".join(f"{line}\n" for line in lines)
                return replace(announced, content=content)
            lines.append(line)
        raise DockerfileError("unterminated heredoc", [Range(start, self.at)])
