"""Parse arguments by the rules of Go's flag package, which runc's callers rely on.

-x and --x are the same; a value follows as the next argument or after "="; a bool takes a value only after "="; parsing
ends at the first argument that is no flag, or after "--". Most of runc's commands take their own flags after the
arguments as well: what is no flag of theirs is an argument there.
"""

from __future__ import annotations

import re
from typing import Any

from sampan.runtime.cli.table import Flag

_DURATION = re.compile(r"(?:(\d+\.?\d*|\.\d+)(ns|us|ms|s|m|h))")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class UsageError(Exception):
    """The arguments are wrong; the message is Go's."""


def parse(arguments: list[str], flags: tuple[Flag, ...], *, anywhere: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Return ({long name: value} for the flags given, the rest). anywhere: behind arguments too. Raises: UsageError."""
    kinds = {name: (names.split()[0], kind) for names, kind, _ in flags for name in names.split()}
    kinds.setdefault("help", ("help", "bool"))
    kinds.setdefault("h", ("help", "bool"))
    values: dict[str, Any] = {}
    rest: list[str] = []
    at = 0
    while at < len(arguments):
        argument = arguments[at]
        plain = len(argument) < 2 or argument[0] != "-"
        if plain and not anywhere:
            break
        at += 1
        if plain or (rest and argument != "--" and argument.lstrip("-").partition("=")[0] not in kinds):
            rest.append(argument)
            continue
        if argument == "--":
            break
        name, equals, text = argument.lstrip("-").partition("=")
        if argument.startswith("---") or not name:
            raise UsageError(f"bad flag syntax: {argument}")
        if name not in kinds:
            raise UsageError(f"flag provided but not defined: -{name}")
        key, kind = kinds[name]
        if kind != "bool" and not equals:
            if at == len(arguments):
                raise UsageError(f"flag needs an argument: -{name}")
            text = arguments[at]
            at += 1
        value = _value(name, kind, text if kind != "bool" or equals else "true")
        if kind in ("list", "ints"):
            values.setdefault(key, []).append(value)
        else:
            values[key] = value
    return values, rest + arguments[at:]


def _value(name: str, kind: str, text: str) -> Any:
    """Convert one value. Raises: UsageError."""
    try:
        if kind == "bool":
            return text == "true" or _boolean(text)
        if kind == "int":
            return _integer(name, text)
        if kind == "ints":
            return [_of_list(name, part) for part in text.split(",")]
        if kind == "duration":
            return duration_s(text)
    except ValueError:
        what = f'boolean value "{text}" for' if kind == "bool" else f'value "{text}" for flag'
        raise UsageError(f"invalid {what} -{name}: parse error") from None
    return text


def _integer(name: str, text: str) -> int:
    number = int(text, 0)
    if not -(2**63) <= number < 2**63:
        raise UsageError(f'invalid value "{text}" for flag -{name}: value out of range')
    return number


def _of_list(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        reason = f'strconv.ParseInt: parsing "{text}": invalid syntax'
        raise UsageError(f'invalid value "{text}" for flag -{name}: {reason}') from None


def _boolean(text: str) -> bool:
    from sampan.spec import go_values  # hardly any caller writes a value to a flag that is one

    return go_values.boolean(text)


def duration_s(text: str) -> float:
    """Parse Go's durations ("1h2m", "500ms") to seconds. Raises: ValueError."""
    sign = -1 if text.startswith("-") else 1
    amount = text[1:] if text[:1] in ("-", "+") else text
    if amount == "0":
        return 0.0
    if not re.fullmatch(_DURATION.pattern + "+", amount):
        raise ValueError(text)
    return sign * sum(float(number) * _UNITS_S[unit] for number, unit in _DURATION.findall(amount))
