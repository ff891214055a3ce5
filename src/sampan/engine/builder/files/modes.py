"""--chmod: octal digits, or a symbolic mode as chmod(1) takes it. Pure.

    clause[,clause…]    clause: [ugoa…] then one or more of  + - =  each with letters of rwxXst or one of u g o

Without a who, all are meant; there is no umask. X is x for directories and for what somebody may execute already.

Source: POSIX.1-2017 chmod, "Extended description".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sampan.errors import InvalidArgument

_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": 0o7777}
_SHIFT = {"u": 6, "g": 3, "o": 0}
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)\Z")
_ACTION = re.compile(r"([-+=])([rwxXst]*|[ugo])(?=[-+=]|\Z)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Action:
    who: int  # the bits that it may touch
    sign: str
    letters: str


Change = Callable[[int, bool], int]  # (mode, is it a directory) → mode


def parse(text: str) -> Change:
    """Return what a mode as written does to a file's mode. Raises: InvalidArgument."""
    if re.fullmatch(r"[0-7]+", text) and int(text, 8) <= 0o7777:
        fixed = int(text, 8)
        return lambda mode, directory: fixed
    if text[:1].isdecimal():
        raise InvalidArgument(f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
    actions = []
    for clause in text.split(","):
        match = _CLAUSE.match(clause)
        if match is None:
            raise InvalidArgument("invalid syntax")  # all that BuildKit says
        who = 0
        for letter in match[1] or "a":
            who |= _WHO[letter]
        actions += [_Action(who=who, sign=sign, letters=letters) for sign, letters in _ACTION.findall(match[2])]
    return lambda mode, directory: _apply(actions, mode, directory)


def _apply(actions: list[_Action], mode: int, directory: bool) -> int:
    for action in actions:
        bits = _bits(action, mode, directory)
        if action.sign == "+":
            mode |= bits
        elif action.sign == "-":
            mode &= ~bits
        else:
            kept = 0o6000 if directory else 0  # a directory's setuid and setgid go only when named
            mode = mode & ~(action.who & ~kept) | bits
    return mode


def _bits(action: _Action, mode: int, directory: bool) -> int:
    bits = 0
    for letter in action.letters:
        if letter in _SHIFT:
            bits |= ((mode >> _SHIFT[letter]) & 0o7) * 0o111
        elif letter == "s":
            bits |= 0o6000
        elif letter == "t":
            bits |= 0o1000
        elif letter != "X" or directory or mode & 0o111:
            bits |= {"r": 0o444, "w": 0o222, "x": 0o111, "X": 0o111}[letter]
    return bits & action.who
