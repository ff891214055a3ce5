"""Here-documents: texts in the Dockerfile, announced by `<<NAME` on an instruction's line. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sampan.spec.dockerfile import words
from sampan.spec.dockerfile.errors import DockerfileError

_WORD = re.compile(r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]+)\Z")
_APART = re.compile(r"[0-9]*<<\Z")  # the name is the next word


@dataclass(frozen=True, slots=True)
class Heredoc:
    """`content` is as written, `text()` without the tabs that `<<-` takes away."""

    name: str
    content: str
    expand: bool = True  # False when the name was quoted
    strip_tabs: bool = False
    descriptor: int = 0

    def text(self) -> str:
        if not self.strip_tabs:
            return self.content
        return "\n".join(line.lstrip("\t") for line in self.content.split("\n"))


def announced(word: str) -> Heredoc | None:
    """Return `<<NAME`, `<<-NAME`, `<< NAME`, `3<<"NAME"` as a heredoc without content; None for any other word.

    Raises: DockerfileError.
    """
    match = _WORD.match(word)
    if not match:
        return None
    descriptor, dash, name = match.groups()
    plain = words.unquoted_words(name)
    if len(plain) != 1:
        return None
    kept = words.unquoted_words(name, keep_quotes=True)
    return Heredoc(
        name=plain[0],
        content="",
        expand=_quotes(plain[0]) == _quotes("".join(kept)),
        strip_tabs=bool(dash),
        descriptor=int(descriptor[-9:] or 0),
    )


def in_line(line: str) -> list[Heredoc]:
    """Return all that an instruction's line announces. Raises: DockerfileError."""
    found = []
    rest = iter(words.raw_words(line))
    for word in rest:
        whole = f"{word} {next(rest, '')}" if _APART.match(word) else word
        if one := announced(whole):
            found.append(one)
    return found


def is_heredoc(word: str) -> bool:
    try:
        return "<<" in word and announced(word) is not None
    except DockerfileError:
        return False


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')
