"""No text makes the language fail otherwise than by DockerfileError, or slow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import InvalidArgument
from sampan.spec.dockerfile import checks, config, globs, stages
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.errors import DockerfileError, excerpt
from sampan.spec.dockerfile.ignore import Ignore, lines
from sampan.spec.dockerfile.words import Variables

PIECES = [
    *i.KEYWORDS, *[keyword.lower() for keyword in i.KEYWORDS], "FROM x\n", "FROM x AS y\n", " AS ", "\n", "\\\n",
    "\\", "`",
    " ", "\t", "\r\n", "#", "# escape=`\n", "# check=skip=all\n", "<<EOF", "<<-'E F'", "EOF\n", "--",
    "--mount=type=cache,",
    "--from=", "--chown=", "--interval=", "--network=", "target=/x", "$", "${", "}", ":-", "#", "%", "/", "//", "?",
    "'", '"',
    "[", "]", '["a"]', ",", "=", "A", "A=1", "$A", "${A:-x}", "CMD", "NONE", "80/tcp", "1-99999", "\x00", "\ufeff",
    "é", "\U0001f980",
    "1h", "-1", "\u2028", "\x85",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=30).map("".join)
WITHIN_S = 5.0  # what takes a tenth of it alone on a fast machine


def consume(text: bytes | str) -> None:
    """Everything that a build does with a text."""
    dockerfile = stages.parse(text)
    checks.check(dockerfile)
    for stage in dockerfile.stages:
        Variables({"A": "1"}, dockerfile.escape).word(stage.base)
        for instruction in stage.instructions:
            expanded = instruction.expanded(Variables({"A": "1"}, dockerfile.escape))
            config.apply({}, expanded, dialect="classic")
            config.apply({}, expanded)
            if isinstance(expanded, i.Run):
                expanded.program()
            if isinstance(expanded, i.Onbuild):
                stages.parse_trigger(expanded.expression)


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, "FROM x\n" + text):
        try:
            consume(whole)
        except DockerfileError as e:
            excerpt(whole, e.ranges)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        consume(b"FROM x\nENV A=" + raw)
    except DockerfileError:
        pass


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab*?\\/}", max_size=8), st.text(alphabet="ab/*\n", max_size=12), st.text(max_size=3))
def test_patterns_match_as_slow_ones_do(pattern: str, text: str, replacement: str) -> None:
    """Compared with a regular expression, which takes the same places but may take its time."""
    try:
        expression = slow(pattern)
    except ValueError:
        with pytest.raises(ValueError):
            globs.without_beginning(pattern, text, longest=True)
        return
    for longest, mark in ((True, ""), (False, "?")):
        match = expression(mark).match(text)
        expected = text[match.end() :] if match else text
        assert globs.without_beginning(pattern, text, longest=longest) == expected
    first = globs.replace(pattern, replacement, text, every=False)
    assert first == expression("").sub(lambda _: replacement, text, count=1)


def slow(pattern: str) -> Callable[[str], re.Pattern[str]]:
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char, following = pattern[at], pattern[at + 1 : at + 2]
        at += 1
        if char == "\\" and following in ("}", "/") and following:
            continue
        if char == "\\":
            if following not in ("*", "?", "\\") or not following:
                raise ValueError(pattern)
            out.append(re.escape(following))
            at += 1
        else:
            out.append({"*": ".*", "?": "."}.get(char, re.escape(char)))
    return lambda mark: re.compile("".join(part + mark if part == ".*" else part for part in out))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="a*?/![]\\-^. b", max_size=10), max_size=5), st.text(alphabet="ab/.", max_size=12))
def test_any_patterns_are_taken_or_refused(patterns: list[str], path: str) -> None:
    for given_patterns in (patterns, lines("\n".join(patterns))):
        try:
            ignore = Ignore(given_patterns)
        except InvalidArgument:
            continue
        ignore.excludes(path)
        ignore.may_hold_exceptions(path)


LONG = {
    "lines": "FROM x\n" + "RUN echo x\n" * 10_000,
    "continuations": "FROM x\nRUN a \\\n" + " x \\\n" * 40_000 + "y\n",
    "comments": "# c\n" * 40_000 + "FROM x\n",
    "pairs": "FROM x\nENV " + "".join(f"A{n}=1 \\\n" for n in range(20_000)) + "B=2\n",
    "flags": "FROM x\nCOPY " + "--exclude=a \\\n" * 20_000 + "a b\n",
    "json": 'FROM x\nCMD ["a"' + ',"a" \\\n' * 40_000 + "]\n",
    "broken json": 'FROM x\nCMD ["a"' + ',"a" \\\n' * 40_000 + "\n",
    "deep json": "FROM x\nCMD " + "[ \\\n" * 40_000 + "\n",
    "heredocs": "FROM x\nRUN "
    + " ".join(f"<<E{n}" for n in range(3000))
    + "\n"
    + "".join(f"E{n}\n" for n in range(3000)),
    "a heredoc": "FROM x\nRUN <<EOF\n" + "x\n" * 80_000 + "EOF\n",
    "a heredoc without an end": "FROM x\nRUN <<EOF\n" + "x\n" * 80_000,
    "triggers": "FROM x\n" + "ONBUILD \\\n" * 20_000 + "x\n",
    "substitutions": "FROM x\nLABEL a=" + "${A:- \\\n" * 20_000 + "\n",
    "a name": "FROM x\nENV A=$" + "B \\\n" * 20_000,
    "a line": "FROM x\nENV A=" + "x" * 1_000_000 + "\n",
    "a file": "FROM x\nENV A=1 \\\n" + "# y\n" * 500_000,
    "stages": "".join(f"FROM s{n} AS s{n + 1}\n" for n in range(1000)),
    "the same stage": "FROM x AS a\n" * 2000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_long_texts_take_their_time_and_no_more(text: str) -> None:
    started = time.perf_counter()
    try:
        consume(text)
    except DockerfileError as e:
        excerpt(text, e.ranges)
    assert time.perf_counter() - started < WITHIN_S


@pytest.mark.parametrize(
    "word",
    [
        "$A" * 40_000,
        '"$A"' * 20_000,
        "\\x" * 80_000,
        "${A:-" * 40_000,
        "${A//*x*x*x*x*x*y/b}",
        "${A//a/$A}",
        "${A##*a*a*b}",
    ],
    ids=lambda word: word[:12],
)
def test_long_words_too(word: str) -> None:
    started = time.perf_counter()
    for method in ("word", "words", "document"):
        try:
            getattr(Variables({"A": "a" * 60_000}), method)(word)
        except DockerfileError:
            pass
    assert time.perf_counter() - started < WITHIN_S


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 500 + "b", "a" * 4000),
        ("**/a/" * 300 + "b", "a/" * 2000),
        ("a**" * 3 + "b", "a/" * 100 + "a" * 100),
        ("**/*a*a*a/**/*b*b*b/c", "/".join(["a" * 200] * 18)),
    ],
)
def test_no_pattern_makes_matching_slow(pattern: str, path: str) -> None:
    started = time.perf_counter()
    assert not Ignore([pattern]).excludes(path)
    assert time.perf_counter() - started < WITHIN_S
