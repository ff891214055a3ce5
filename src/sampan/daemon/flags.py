"""The command line of sampand, read by the rules of Docker's flag library. Pure: argv in, values out.

`--flag=value`, `--flag value`, `--bool`, `--bool=false`, `-x value`, `-xvalue`, `-x=value`, clustered short booleans.

Source: spf13/pflag behaviour as dockerd shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sampan.daemon.options import BOOL, BY_FLAG, BY_SHORT, OPTIONS, REFUSED, BadValue, Option


class CommandLineError(Exception):
    """A command line that cannot be read; the text is what dockerd prints."""


def parse(argv: Sequence[str]) -> dict[str, Any]:
    """Return the flags given, by flag name; repeated ones as lists or dicts. Raises: CommandLineError."""
    given: dict[str, Any] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            option = BY_FLAG.get(name)
            if option is None:
                raise CommandLineError(f"unknown flag: --{name}")
            if not equals:
                if option.kind is BOOL:
                    value = "true"
                elif not rest:
                    raise CommandLineError(f"flag needs an argument: --{name}")
                else:
                    value = rest.pop(0)
            _store(given, option, value)
        elif word.startswith("-") and len(word) > 1:
            _short(given, word[1:], rest)
        else:
            rest.insert(0, word)
            break
    if rest:
        raise CommandLineError(
            f"\"sampand\" accepts no arguments.\nSee 'sampand --help'.\n\nunexpected argument: {rest[0]}"
        )
    return given


def _short(given: dict[str, Any], letters: str, rest: list[str]) -> None:
    cluster = letters
    while letters:
        letter, letters = letters[0], letters[1:]
        option = BY_SHORT.get(letter)
        if option is None:
            raise CommandLineError(f"unknown shorthand flag: '{letter}' in -{cluster}")
        if letters.startswith("="):
            value, letters = letters[1:], ""
        elif option.kind is BOOL:
            value = "true"
        elif letters:
            value, letters = letters, ""
        elif rest:
            value = rest.pop(0)
        else:
            raise CommandLineError(f"flag needs an argument: '{letter}' in -{cluster}")
        _store(given, option, value)


def _store(given: dict[str, Any], option: Option, text: str) -> None:
    kind = option.kind
    try:
        value = kind.parse(text)
    except BadValue as e:
        name = f"-{option.short}, --{option.flag}" if option.short else f"--{option.flag}"
        raise CommandLineError(f'invalid argument "{text}" for "{name}" flag: {e}') from None
    if kind.keyed:
        key, item = value
        known = given.setdefault(option.flag, {})
        if isinstance(item, dict) and isinstance(known.get(key), dict):
            known[key].update(item)
        else:
            known[key] = item
    elif kind.repeated:
        given.setdefault(option.flag, []).append(value)
    else:
        given[option.flag] = value


def usage() -> str:
    """Return the text of --help."""
    lines = ["", "Usage:\tsampand [OPTIONS]", "", "A self-sufficient runtime for containers.", "", "Options:"]
    for option in sorted((o for o in OPTIONS if o.flag), key=lambda o: o.flag):
        head = f"  -{option.short}, " if option.short else "      "
        head += f"--{option.flag} {option.kind.name}".rstrip()
        default = option.default
        shown = f' (default "{default}")' if isinstance(default, str) and default else ""
        if (isinstance(default, int) and default) or default is True:
            shown = f" (default {str(default).lower()})"
        if option.key in REFUSED:
            shown += " (refused when set)"
        elif option.accepted:
            shown += " (accepted, without effect)"
        lines.append(f"{head:<45} {option.help}{shown}")
    return "\n".join(lines) + "\n"
