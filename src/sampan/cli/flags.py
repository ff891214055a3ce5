"""Flags: declared by the text that `--help` shows, parsed by pflag's rules.

A command declares its flags as it documents them, one a line, and that text is the only declaration:

    -d, --detach            Run in the background
        --memory bytes      Memory limit
        --pull string       When to pull (default "missing")
    !   --net network       hidden; "= network" as its help makes it another name for --network

The word after the name is the type; a flag without one is a boolean. Further lines that start with no dash continue
the help. `(default …)` at the end of the help is the default.

Rules: flags and arguments may be mixed unless the command stops at its first argument (run, exec); `--` ends the
flags; `-it` is `-i -t`, `-p80` and `-p=80` are `-p 80`; only booleans take their value with `=` alone. A bad flag
raises FlagError, in the words of pflag.

Source: spf13/pflag's behaviour, compared with docker 28.5.
"""

from __future__ import annotations

from sampan.cli import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

MANY = frozenset(("list", "strings", "map", "stringToString", "filter", "mount", "network", "ulimit", "gpu-request"))
EMPTY_DEFAULTS = frozenset(("map[]", "[]", "0s", "0", ""))


def _boolean(text: str) -> bool:
    """Read a truth value. A flag without a value has "true". Only another value needs Go's rules, and then
    their module is loaded.
    """
    if text == "true":
        return True
    from sampan.spec import go_values

    return go_values.boolean(text)


def _duration_ns(text: str) -> int:
    from sampan.spec import go_values

    return go_values.duration_ns(text)


def _fields(text: str) -> list[str]:
    """Return the values of a flag that takes several at once; an empty text has none."""
    if not text:
        return []

    from sampan.spec import go_values

    return go_values.fields(text)


PARSERS: dict[str, Callable[[str], Any]] = {
    "": _boolean,
    "string": str,
    "int": values.integer,
    "uint": values.unsigned,
    "uint16": lambda text: values.unsigned(text, bits=16),
    "bytes": values.size_bytes,
    "decimal": values.nano_cpus,
    "duration": _duration_ns,
    "map": values.option,
    "stringToString": values.pair,
    "filter": values.filter_pair,
}


class FlagError(Exception):
    """The command line is wrong; the message is what pflag would say."""


class HelpRequested(Exception):
    """`--help` was among the flags."""


class Flag:
    """One declared flag. `alias` names the flag that this hidden one stands for."""

    __slots__ = ("alias", "default", "help", "hidden", "kind", "name", "short")

    def __init__(self, name: str, short: str, kind: str, help_: str, hidden: bool) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.help = help_
        self.hidden = hidden
        self.alias = help_[2:] if help_.startswith("= ") else ""
        self.default = _default(kind, help_)

    @property
    def spelled(self) -> str:
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


class FlagValues:
    """Parsed flags by name: typed getters, and which of them the user gave."""

    __slots__ = ("_values", "given")

    def __init__(self, flag_values: dict[str, Any], given: set[str]) -> None:
        self._values = flag_values
        self.given = given

    def text(self, name: str) -> str:
        value: str = self._values[name]
        return value

    def flag(self, name: str) -> bool:
        value: bool = self._values[name]
        return value

    def number(self, name: str) -> int:
        value: int = self._values[name]
        return value

    def many(self, name: str) -> list[str]:
        value: list[str] = self._values[name]
        return value

    def value(self, name: str) -> Any:
        return self._values[name]

    def mapping(self, name: str) -> dict[str, str]:
        """Return a list of key=value as a dict; a bare key gets an empty value."""
        return {key: value for key, _, value in (item.partition("=") for item in self.many(name))}

    def changed(self, name: str) -> bool:
        return name in self.given


def declared(text: str) -> list[Flag]:
    """Read a declaration."""
    flags: list[Flag] = []
    for line in text.split("\n"):
        body = line.strip()
        hidden = body.startswith("!")
        if hidden:
            body = body[1:].lstrip()
        if not body.startswith("-"):
            if body and flags:
                last = flags[-1]
                flags[-1] = Flag(last.name, last.short, last.kind, last.help + "\n" + body, last.hidden)
            continue
        head, _, help_ = body.partition("  ")
        words = head.replace(",", "").split()
        short = words.pop(0)[1:] if not words[0].startswith("--") else ""
        flags.append(Flag(words[0][2:], short, words[1] if len(words) > 1 else "", help_.strip(), hidden))
    return flags


def parse(
    flags: list[Flag],
    argv: list[str],
    *,
    interspersed: bool = True,
    parsers: Mapping[str, Callable[[str], Any]] | None = None,
) -> tuple[FlagValues, list[str]]:
    """Split argv into options and arguments. `parsers` overrides, by flag name, how a value is read."""
    return _Parse(flags, parsers or {}).run(argv, interspersed)


class _Parse:
    def __init__(self, flags: list[Flag], parsers: Mapping[str, Callable[[str], Any]]) -> None:
        self.by_name = {f.name: f for f in flags}
        self.by_short = {f.short: f for f in flags if f.short}
        self.parsers = parsers
        self.values: dict[str, Any] = {
            f.name: list(f.default) if isinstance(f.default, list) else f.default for f in flags if not f.alias
        }
        self.given: set[str] = set()

    def run(self, argv: list[str], interspersed: bool) -> tuple[FlagValues, list[str]]:
        rest: list[str] = []
        queue = list(reversed(argv))
        while queue:
            word = queue.pop()
            if word == "--":
                rest += reversed(queue)
                break
            if word.startswith("--"):
                self._long(word, queue)
            elif word.startswith("-") and len(word) > 1:
                self._cluster(word, queue)
            else:
                rest.append(word)
                if not interspersed:
                    rest += reversed(queue)
                    break
        return FlagValues(self.values, self.given), rest

    def _long(self, word: str, queue: list[str]) -> None:
        name, equals, text = word[2:].partition("=")
        if not name or name.startswith("-"):
            raise FlagError(f"bad flag syntax: {word}")
        flag = self.by_name.get(name)
        if flag is None:
            if name == "help":
                self._help(text if equals else "true")
                return
            raise FlagError(f"unknown flag: --{name}")
        if equals:
            self._set(flag, text)
        elif not flag.kind:
            self._set(flag, "true")
        elif queue:
            self._set(flag, queue.pop())
        else:
            raise FlagError(f"flag needs an argument: --{name}")

    def _cluster(self, word: str, queue: list[str]) -> None:
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = self.by_short.get(letter)
            if flag is None:
                if letter == "h":
                    raise HelpRequested
                raise FlagError(f"unknown shorthand flag: '{letter}' in {word}")
            if letters.startswith("="):
                self._set(flag, letters[1:])
                return
            if not flag.kind:
                self._set(flag, "true")
            elif letters:
                self._set(flag, letters)
                return
            elif queue:
                self._set(flag, queue.pop())
            else:
                raise FlagError(f"flag needs an argument: '{letter}' in {word}")

    def _help(self, text: str) -> None:
        from sampan.spec import go_values

        try:
            wanted = go_values.boolean(text)
        except ValueError as e:
            raise FlagError(f'invalid argument {go_values.quote(text)} for "--help" flag: {e}') from e
        if wanted:
            raise HelpRequested

    def _set(self, flag: Flag, text: str) -> None:
        target = self.by_name[flag.alias] if flag.alias else flag
        try:
            parser = self.parsers.get(target.name) or PARSERS.get(target.kind, str)
            if target.kind == "strings":
                self.values[target.name] += _fields(text)
            elif target.kind in MANY:
                self.values[target.name].append(parser(text))
            else:
                self.values[target.name] = parser(text)
        except ValueError as e:
            from sampan.spec import go_values

            raise FlagError(f'invalid argument {go_values.quote(text)} for "{flag.spelled}" flag: {e}') from e
        if target.name == "help" and self.values["help"]:
            raise HelpRequested
        self.given.add(target.name)


def _default(kind: str, help_: str) -> Any:
    if kind in MANY:
        return []
    text = ""
    if help_.endswith(")") and "(default " in help_:
        text = help_.rpartition("(default ")[2][:-1]
    if kind == "string":
        return text.strip('"') if text.startswith('"') else ""
    if kind == "":
        return text == "true"
    return PARSERS[kind](text) if text not in EMPTY_DEFAULTS else 0
