"""An instruction's line as keyword, flags and words. Pure.

Which way the words are read goes by the keyword: JSON or one text (RUN), JSON or words (COPY), words (EXPOSE), one text
(USER), quoted words (ARG), pairs (ENV, LABEL).

Source: Dockerfile reference; corner cases as Docker Engine 28.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sampan.spec.dockerfile import json_form
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.gotext import SPACE
from sampan.spec.go_values import quote

_BLANKS = re.compile(r"[\t\v\f\r ]+")


@dataclass(frozen=True, slots=True)
class Arguments:
    """`words` by the keyword's rule: key, value, key, value, … for ENV and LABEL, the trigger's keyword for ONBUILD."""

    words: tuple[str, ...] = ()
    json: bool = False
    legacy: bool = False  # ENV key the rest
    heredocs: bool = False  # the line may announce some


def read(keyword: str, rest: str, escape: str) -> Arguments:
    """Return the words of `rest`, as `keyword` has them. Raises: DockerfileError without a place."""
    keyword = keyword.upper()
    if keyword in ("RUN", "CMD", "ENTRYPOINT", "SHELL"):
        return _json_or(rest, (rest,) if rest else (), heredocs=keyword == "RUN")
    if keyword in ("ADD", "COPY", "VOLUME"):
        return _json_or(rest, _blank_separated(rest), heredocs=keyword != "VOLUME")
    if keyword in ("EXPOSE", "FROM"):
        return Arguments(_blank_separated(rest))
    if keyword in ("MAINTAINER", "STOPSIGNAL", "USER", "WORKDIR"):
        return Arguments((rest,) if rest else ())
    if keyword == "ARG":
        return Arguments(tuple(quoted_words(rest, escape)))
    if keyword in ("ENV", "LABEL"):
        return _pairs(keyword, rest, escape)
    if keyword == "HEALTHCHECK":
        kind, _, command = _first_word(rest)
        given = _json_or(command, (command,) if command else ())
        return Arguments((kind, *given.words) if kind else (), json=given.json)
    if keyword == "ONBUILD" and rest:
        trigger, _, what = split(rest, escape)
        given = Arguments() if trigger.upper() == "ONBUILD" else read(trigger, what, escape)
        return Arguments((trigger,), heredocs=given.heredocs)
    return Arguments()


def split(line: str, escape: str) -> tuple[str, tuple[str, ...], str]:
    """Return an instruction's line as keyword, flags, and the rest without blanks around it."""
    keyword, *after = _BLANKS.split(line.strip(SPACE), maxsplit=1)
    if not after:
        return keyword, (), ""
    flags, rest = _flags(after[0], escape)
    return keyword, tuple(flags), rest.strip(SPACE)


def _flags(text: str, escape: str) -> tuple[list[str], str]:
    """The words with `--` at the beginning, unquoted, and what follows them; `--` alone ends the flags."""
    flags: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at] in SPACE:
            at += 1
        if not text.startswith("--", at):
            return flags, text[at:]
        word, at, whole = _flag(text, at, escape)
        if word == "--":
            return flags, text[at:]
        if not whole:  # an open quote takes everything
            return [*flags, word], ""
        flags.append(word)


def _flag(text: str, at: int, escape: str) -> tuple[str, int, bool]:
    """One flag from `at`: quotes and escapes taken away, where it ends, and whether its quotes are closed."""
    out: list[str] = []
    quote = ""
    while at < len(text):
        char = text[at]
        if not quote and char in SPACE:
            return "".join(out), at, True
        at += 1
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char != escape:
            out.append(char)
        elif at < len(text):
            out.append(text[at])
            at += 1
    return "".join(out), at, not quote


def _json_or(rest: str, otherwise: tuple[str, ...], *, heredocs: bool = False) -> Arguments:
    given = json_form.words(rest)
    return Arguments(otherwise, heredocs=heredocs) if given is None else Arguments(given, json=True)


def _blank_separated(rest: str) -> tuple[str, ...]:
    return tuple(_BLANKS.split(rest)) if rest else ()


def _first_word(rest: str) -> tuple[str, str, str]:
    for at, char in enumerate(rest):
        if char in SPACE:
            return rest[:at], char, rest[at:].lstrip(SPACE)
    return rest, "", ""


def _pairs(keyword: str, rest: str, escape: str) -> Arguments:
    """`k=v k2="v 2"`, or the old `k the rest`. Raises: DockerfileError."""
    words = quoted_words(rest, escape)
    if not words:
        return Arguments()
    if "=" not in words[0]:
        pair = _BLANKS.split(rest, maxsplit=1)
        if len(pair) < 2:
            raise DockerfileError(f"{keyword} must have two arguments")
        return Arguments(tuple(pair), legacy=True)
    flat: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(f"Syntax error - can't find = in {quote(word)}. Must be of the form: name=value")
        flat += (key, value)
    return Arguments(tuple(flat))


def quoted_words(text: str, escape: str) -> list[str]:
    """Words at blanks; quotes and escapes keep blanks together and stay in the word."""
    words: list[str] = []
    word: list[str] = []
    quote, at = "", 0
    while at < len(text):
        char = text[at]
        at += 1
        if not quote and char in SPACE:
            if word:
                words.append("".join(word))
                word = []
            continue
        if char == escape and quote != "'":
            if at == len(text):
                break  # nothing to escape
            word.append(char)
            char = text[at]
            at += 1
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        word.append(char)
    return [*words, "".join(word)] if word else words
