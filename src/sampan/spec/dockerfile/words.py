"""Variables and quoting inside an instruction's words: `$V`, `${V:-w}`, `${V#p}`, `"…"`, `'…'`, the escape character.

Pure.

    word        what is special
    …           escape character (takes the next one as it is), quotes, $
    '…'         nothing until the next '
    "…"         $, and the escape character before ", $ and itself
    ${V-w} ${V+w} ${V?w}      w, if V is unset, is set, or as an error; with `:` the empty string counts as unset
    ${V#p} ${V##p} ${V%p} ${V%%p}   without the shortest or longest beginning or end that p (`*`, `?`) matches
    ${V/p/r} ${V//p/r}        the first, or every, longest match of p replaced

One pass over the text; nesting deeper than `MAX_DEPTH` is refused.
Source: Dockerfile reference, "Environment replacement"; corner cases as Docker Engine 28.5 answers them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sampan.spec.dockerfile import globs
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.gotext import SPACE
from sampan.spec.go_values import quote

MAX_DEPTH = 100
_BLANKS = re.compile(f"[{SPACE}]+")
_SPECIAL_PARAMETERS = frozenset("@*#?-$!")
_END = "\ufffd"  # how Go prints the end of the text where a character was expected


class Variables:
    """A scope for expansion: `used` and `unset` collect the names that were asked for."""

    def __init__(self, env: Mapping[str, str], escape: str = "\\") -> None:
        self.env = env
        self.escape = escape
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def word(self, text: str) -> str:
        """Return `text` with variables replaced and quotes taken away. Raises: DockerfileError."""
        if "$" not in text and "'" not in text and '"' not in text and self.escape not in text:
            return text
        return _WordScanner(self, text, self.escape).run()[0]

    def shown(self, text: str) -> str:
        """For display: variables replaced, but quotes and what is not set stay as written. Raises: DockerfileError."""
        if "$" not in text and self.escape not in text:
            return text
        return _WordScanner(self, text, self.escape, keep_quotes=True, keep_unset=True).run()[0]

    def words(self, text: str) -> list[str]:
        """Return `text` expanded and split at blanks that are not quoted or escaped. Raises: DockerfileError."""
        return _WordScanner(self, text, self.escape).run()[1]

    def document(self, text: str) -> str:
        """Return a heredoc's text: variables and escapes, but quotes are just characters. Raises: DockerfileError."""
        if "$" not in text and "\\" not in text:
            return text
        return _WordScanner(self, text, "\\", quotes=False).run()[0]

    def get(self, name: str) -> str | None:
        value = self.env.get(name)
        (self.unset if value is None else self.used).add(name)
        return value


def raw_words(text: str) -> list[str]:
    """Return the words of a line, quotes, escapes and variables as written; none when a quote is left open."""
    try:
        return _WordScanner(Variables({}), text, "\\", keep_quotes=True, raw=True, keep_unset=True).run()[1]
    except DockerfileError:
        return []


def unquoted_words(text: str, *, keep_quotes: bool = False) -> list[str]:
    """Return the words of a line with quotes taken away or kept, variables as written. Raises: DockerfileError."""
    return _WordScanner(Variables({}), text, "\\", keep_quotes=keep_quotes, keep_unset=True).run()[1]


class _Problem(Exception):
    """What is wrong, without the text that it is wrong in."""


class _Words:
    """Collects words: blanks divide, unless `raw`."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.parts: list[str] = []

    def raw(self, text: str) -> None:
        if text:
            self.parts.append(text)

    def add(self, text: str) -> None:
        first, *others = _BLANKS.split(text)
        self.raw(first)
        for other in others:
            self.close()
            self.raw(other)

    def close(self) -> None:
        if self.parts:
            self.done.append("".join(self.parts))
            self.parts = []


class _WordScanner:
    """A text and a position in it; `until` reads one level and calls itself for what `${V:-…}` encloses."""

    def __init__(
        self,
        variables: Variables,
        text: str,
        escape: str,
        *,
        quotes: bool = True,
        keep_quotes: bool = False,
        raw: bool = False,
        keep_unset: bool = False,
    ) -> None:
        self.variables, self.text, self.escape = variables, text, escape
        self.keep_quotes, self.raw, self.keep_unset = keep_quotes, raw, keep_unset
        self.at = 0
        self.depth = 0
        self.size = 0
        self.special = "'\"$" if quotes else "$"
        self.plain = re.compile(f"[^{re.escape(self.special + escape + '}/')}]+")

    def run(self) -> tuple[str, list[str]]:
        try:
            return self.until("", self.raw)
        except _Problem as problem:
            raise DockerfileError(f"failed to process {quote(self.text)}: {problem}") from None

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def next(self) -> str:
        char = self.text[self.at : self.at + 1]
        self.at += len(char)
        return char

    def until(self, stop: str, raw: bool) -> tuple[str, list[str]]:
        """Read up to and over `stop` ('' is the end of the text): the text, and its words."""
        out: list[str] = []
        words = _Words()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Problem("syntax error: substitutions are nested too deeply")
        outer, self.raw = self.raw, raw
        while self.at < len(self.text):
            if plain := self.plain.match(self.text, self.at):
                self.at = plain.end()
                out.append(plain[0])
                words.add(plain[0])
                continue
            char = self.peek()
            if char == stop:
                self.at += 1
                self.depth -= 1
                self.raw = outer
                words.close()
                return "".join(out), words.done
            if char in self.special:
                value = self.dollar() if char == "$" else self.single() if char == "'" else self.double()
                out.append(value)
                (words.add if char == "$" else words.raw)(value)
                continue
            self.at += 1
            if char != self.escape:
                out.append(char)
                words.add(char)
                continue
            if raw:
                out.append(char)
                words.raw(char)
            char = self.next()
            out.append(char)
            words.raw(char)
        if stop:
            raise _Problem(f"unexpected end of statement while looking for matching {stop}")
        self.depth -= 1
        words.close()
        return "".join(out), words.done

    def single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            self.at = len(self.text)
            raise _Problem("unexpected end of statement while looking for matching single-quote")
        start, self.at = self.at, end + 1
        return self.text[start : end + 1] if self.keep_quotes else self.text[start + 1 : end]

    def double(self) -> str:
        out: list[str] = []
        quote = self.next()
        if self.keep_quotes:
            out.append(quote)
        while char := self.peek():
            if char == "$":
                out.append(self.dollar())
                continue
            self.at += 1
            if char == quote:
                if self.keep_quotes:
                    out.append(quote)
                return "".join(out)
            if char == self.escape:
                if self.raw:
                    out.append(char)
                if not self.peek():
                    continue
                if self.peek() in ('"', "$", self.escape):
                    char = self.next()
            out.append(char)
        raise _Problem("unexpected end of statement while looking for matching double-quote")

    def name(self) -> str:
        """Return a variable's name: letters, digits and `_`; digits alone; or one of the shell's special parameters."""
        start = self.at
        first = self.peek()
        if first in _SPECIAL_PARAMETERS and first:
            self.at += 1
            return first
        digits_only = first.isdecimal()
        while (char := self.peek()) and (char.isdecimal() or (not digits_only and (char == "_" or char.isalpha()))):
            self.at += 1
        return self.text[start : self.at]

    def dollar(self) -> str:
        """Return what stands for the variable here; the sum of all is limited, because values may be made of values."""
        value = self.substitution()
        self.size += len(value)
        if self.size > globs.LARGEST:
            raise _Problem(f"the result is longer than {globs.LARGEST} characters")
        return value

    def substitution(self) -> str:
        self.at += 1
        if self.peek() != "{":
            name = self.name()
            if not name:
                return "$"
            value = self.variables.get(name)
            return value if value is not None else "$" + name if self.keep_unset else ""
        self.at += 1
        if self.at >= len(self.text):
            raise _Problem("syntax error: missing '}'")
        if self.peek() in "{}:":
            raise _Problem("syntax error: bad substitution")
        name = self.name()
        operator = self.next()
        if operator == "}":
            value = self.variables.get(name)
            return value if value is not None else f"${{{name}}}" if self.keep_unset else ""
        if operator == "/":
            return self.replacement(name)
        if operator == ":":
            operator += self.next() or _END
        elif operator not in tuple("+-?#%"):
            raise _Problem(f"unsupported modifier ({operator or _END}) in substitution")
        word = self.enclosed("}", raw=operator[-1] in "#%", missing="}")
        value = self.variables.get(name)
        if value is None and self.keep_unset:
            return f"${{{name}{operator}{word}}}"
        return _modified(name, value, operator, word)

    def replacement(self, name: str) -> str:
        """Return `${name/pattern/replacement}`, from after the first slash."""
        every = self.peek() == "/"
        self.at += every
        pattern = self.enclosed("/", raw=True, missing="/' in ${}")
        replacement = self.enclosed("}", raw=True, missing="}")
        value = self.variables.get(name)
        if value is None and self.keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        try:
            return globs.replace(pattern, replacement, value or "", every=every)
        except ValueError as e:
            raise _Problem(f"invalid pattern ({pattern}) in substitution: {e}") from None

    def enclosed(self, stop: str, *, raw: bool, missing: str) -> str:
        try:
            return self.until(stop, raw)[0]
        except _Problem:
            if self.at >= len(self.text):
                raise _Problem(f"syntax error: missing '{missing}" + ("" if "'" in missing else "'")) from None
            raise


def _modified(name: str, value: str | None, operator: str, word: str) -> str:
    """What `${name<operator>word}` stands for."""
    kind = operator[-1]
    absent = value is None or (operator[0] == ":" and not value)
    if kind == "-":
        return word if absent else value or ""
    if kind == "+":
        return "" if absent else word
    if kind == "?":
        if absent:
            raise _Problem(f"{name}: {word or 'is not allowed to be ' + ('unset' if value is None else 'empty')}")
        return value or ""
    if kind not in "#%":
        raise _Problem(f"unsupported modifier ({operator}) in substitution")
    longest = word.startswith(kind)
    pattern = word[1:] if longest else word
    trim = globs.without_beginning if kind == "#" else globs.without_end
    try:
        return trim(pattern, value or "", longest=longest)
    except ValueError as e:
        shown = pattern if kind == "#" else globs.reversed_pattern(pattern)
        raise _Problem(f"invalid pattern ({shown}) in substitution: {e}") from None
