"""Go's complaints about malformed JSON, word for word, and the few texts that Go takes and our fast parser does not.

Runs only after the fast parser has refused a body, so it is written for clearness: a recursive scanner over the text.
It accepts what encoding/json accepts: invalid UTF-8 and lone surrogates become U+FFFD.

Source: encoding/json of Go 1.27 as observed on the reference engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAX_DEPTH = 10_000
_SPACE = " \t\r\n"
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_EOF = "unexpected EOF"


class TrailingContent(ValueError):
    """One whole value was read and something other than white space follows; `value` is what was read."""

    def __init__(self, value: Any, follows: str) -> None:
        super().__init__(f"invalid character {quote(follows)} after top-level value")
        self.value = value


def quote(char: str) -> str:
    """Quote a character as Go's messages do: 'x', '\\n', '\\ufeff'."""
    if char == '"':
        return "'\"'"
    if char == "'":
        return "'\\''"
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"'\\x{code - 0xDC00:02x}'"
    named = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 92: "\\\\"}.get(code)
    if named:
        return f"'{named}'"
    if code < 0x20 or code == 0x7F:
        return f"'\\x{code:02x}'"
    if char.isprintable():
        return f"'{char}'"
    return f"'\\u{code:04x}'" if code < 0x10000 else f"'\\U{code:08x}'"


def parse(raw: bytes, number: Callable[[str], Any]) -> Any:
    """Parse one JSON text; `number` receives the text of a number that is not an integer.

    Raises: ValueError in Go's words; TrailingContent.
    """
    text = raw.decode("utf-8", "surrogateescape")
    return _JsonScanner(text, number).document()


class _JsonScanner:
    """The text, a position, and an explicit stack of open containers: depth costs no Python recursion."""

    def __init__(self, text: str, number: Callable[[str], Any]) -> None:
        self.text, self.at, self.number = text, 0, number

    def document(self) -> Any:
        value = self.value()
        follows = self.skip()
        if follows:
            raise TrailingContent(value, follows)
        return value

    def skip(self) -> str:
        """Step over white space; return the next character, or '' at the end."""
        text, at = self.text, self.at
        while at < len(text) and text[at] in _SPACE:
            at += 1
        self.at = at
        return text[at] if at < len(text) else ""

    def need(self) -> str:
        char = self.skip()
        if not char:
            raise ValueError(_EOF)
        return char

    def fail(self, where: str) -> ValueError:
        if self.at >= len(self.text):
            return ValueError(_EOF)
        return ValueError(f"invalid character {quote(self.text[self.at])} {where}")

    def value(self) -> Any:
        """Read one value iteratively: `open_` holds the containers being filled, each with its pending key."""
        open_: list[tuple[Any, str]] = []
        while True:
            char = self.need()
            if char in "{[":
                if len(open_) >= MAX_DEPTH:
                    raise ValueError("exceeded max depth")
                self.at += 1
                container: Any = {} if char == "{" else []
                if self.need() == ("}" if char == "{" else "]"):
                    self.at += 1
                    value: Any = container
                else:
                    open_.append((container, self.key() if char == "{" else ""))
                    continue
            else:
                value = self.scalar(char)
            while open_:
                container, key = open_.pop()
                if isinstance(container, dict):
                    container[key] = value
                else:
                    container.append(value)
                if self.more(container):
                    open_.append((container, self.key() if isinstance(container, dict) else ""))
                    break
                value = container
            else:
                return value

    def more(self, container: Any) -> bool:
        """Step over what follows an element: True when a comma says another follows, False when the container
        closes.
        """
        is_object = isinstance(container, dict)
        char = self.need()
        if char == ",":
            self.at += 1
            return True
        if char == ("}" if is_object else "]"):
            self.at += 1
            return False
        raise self.fail("after object key:value pair" if is_object else "after array element")

    def key(self) -> str:
        if self.need() != '"':
            raise self.fail("looking for beginning of object key string")
        key = self.string()
        if self.need() != ":":
            raise self.fail("after object key")
        self.at += 1
        return key

    def scalar(self, char: str) -> Any:
        if char == '"':
            return self.string()
        if char == "-" or (char.isascii() and char.isdecimal()):
            return self.numeral()
        for word, value in (("true", True), ("false", False), ("null", None)):
            if char == word[0]:
                for expected in word:
                    if self.at >= len(self.text) or self.text[self.at] != expected:
                        raise self.fail(f"in literal {word} (expecting {quote(expected)})")
                    self.at += 1
                return value
        raise self.fail("looking for beginning of value")

    def numeral(self) -> Any:
        start, integer = self.at, True
        if self.text[self.at] == "-":
            self.at += 1
        if self.text[self.at : self.at + 1] == "0":
            self.at += 1
        else:
            self.digits()
        if self.text[self.at : self.at + 1] == ".":
            integer, self.at = False, self.at + 1
            self.digits()
        if self.text[self.at : self.at + 1] in ("e", "E"):
            integer, self.at = False, self.at + 1
            if self.text[self.at : self.at + 1] in ("+", "-"):
                self.at += 1
            self.digits()
        text = self.text[start : self.at]
        return int(text) if integer and len(text) < 400 else self.number(text)

    def digits(self) -> None:
        start = self.at
        while self.text[self.at : self.at + 1] in tuple("0123456789"):
            self.at += 1
        if self.at == start:
            raise self.fail("in numeric literal")

    def string(self) -> str:
        self.at += 1
        parts: list[str] = []
        while True:
            start = self.at
            while self.at < len(self.text) and self.text[self.at] not in '"\\' and self.text[self.at] >= " ":
                self.at += 1
            parts.append(self.text[start : self.at])
            if self.at >= len(self.text):
                raise ValueError(_EOF)
            if self.text[self.at] == '"':
                self.at += 1
                return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            if self.text[self.at] != "\\":
                raise self.fail("in string")
            parts.append(self.escape())

    def escape(self) -> str:
        letter = self.text[self.at + 1 : self.at + 2]
        if letter == "u":
            digits = self.text[self.at + 2 : self.at + 6]
            if len(digits) == 4 and all(d in "0123456789abcdefABCDEF" for d in digits):
                self.at += 6
                return chr(int(digits, 16))
            length = 6
        elif letter in _ESCAPES:
            self.at += 2
            return _ESCAPES[letter]
        else:
            length = 2
        if self.at + length > len(self.text):
            raise ValueError(_EOF)
        raise ValueError(f"invalid escape sequence `{self.text[self.at : self.at + length]}` in string")
