"""Values as Go reads and writes them, and the words it refuses them with. The expected texts are those of Go's
library.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.spec import go_values


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_true(text: str) -> None:
    assert go_values.boolean(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "false", "FALSE", "False"])
def test_false(text: str) -> None:
    assert go_values.boolean(text) is False


@pytest.mark.parametrize(("text", "shown"), [("", '""'), ("yes", '"yes"'), ("tRUE", '"tRUE"'), ('a"b', '"a\\"b"')])
def test_what_is_no_boolean(text: str, shown: str) -> None:
    with pytest.raises(ValueError) as caught:
        go_values.boolean(text)
    assert str(caught.value) == f"strconv.ParseBool: parsing {shown}: invalid syntax"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", '""'),
        ("plain ü 日", '"plain ü 日"'),
        ('a"b\\c', r'"a\"b\\c"'),
        ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
        ("\x00\x1b\x7f", r'"\x00\x1b\x7f"'),
        ("\u00ad\u200b\ufeff", r'"\u00ad\u200b\ufeff"'),
        ("\U000e0001", r'"\U000e0001"'),
        ("\udcff", r'"\xff"'),
        ("it's", '"it\'s"'),
    ],
)
def test_quote_and_unquote(text: str, shown: str) -> None:
    assert go_values.quote(text) == shown
    assert go_values.unquote(shown) == text


@given(st.text())
def test_what_is_quoted_is_unquoted(text: str) -> None:
    assert go_values.unquote(go_values.quote(text)) == text


@pytest.mark.parametrize(
    ("literal", "value"),
    [("`a\\n\r`", "a\\n"), (r'"\101\x42C"', "ABC"), (r'"\303\274"', "ü"), ("'x'", "x"), (r"'\''", "'"), ("'\"'", '"'),
     (r"'\n'", "\n")],
)  # fmt: skip
def test_other_literals(literal: str, value: str) -> None:
    assert go_values.unquote(literal) == value


@pytest.mark.parametrize(
    "literal",
    ["", '"', "a", '"a', "\"a'", '"a"b"', '"a\nb"', r'"\"', r'"\q"', r'"\x4"', r'"\xzz"', r'"\400"', r'"\18"',
     r'"\ud800"', r'"\U00110000"', "''", "'ab'", r'''"\'"''', r"""'\"'""", "`a`b`"],
)  # fmt: skip
def test_what_is_no_literal(literal: str) -> None:
    with pytest.raises(ValueError, match="invalid syntax"):
        go_values.unquote(literal)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0), ("+0", 0), ("-0", 0), ("1h30m", 5400 * 10**9), ("250ms", 250 * 10**6), ("1.5s", 15 * 10**8),
        ("-2s", -2 * 10**9), ("+5ns", 5),
        (".5s", 5 * 10**8), ("1.s", 10**9), ("3µs", 3000), ("3μs", 3000), ("1.0000000000000000001s", 10**9),
        ("2562047h47m16.854775807s", 2**63 - 1),
        ("39h9m14.425s", 140_954_425_000_000),
    ],
)  # fmt: skip
def test_durations(text: str, ns: int) -> None:
    assert go_values.duration_ns(text) == ns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("5", 'time: missing unit in duration "5"'),
        ("x", 'time: invalid duration "x"'),
        ("-", 'time: invalid duration "-"'),
        (".s", 'time: invalid duration ".s"'),
        ("1 h", 'time: unknown unit " h" in duration "1 h"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("1h5", 'time: missing unit in duration "1h5"'),
        ("3000000h", 'time: invalid duration "3000000h"'),
        ("1s-1s", 'time: unknown unit "s-" in duration "1s-1s"'),
    ],
)
def test_what_is_no_duration(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        go_values.duration_ns(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("a", ["a"]),
        ("a,", ["a", ""]),
        (",", ["", ""]),
        ('type=tmpfs,"opt=a,b",x', ["type=tmpfs", "opt=a,b", "x"]),
        ('"a""b"', ['a"b']),
        ('"",x', ["", "x"]),
        ('"a",', ["a", ""]),
    ],
)
def test_fields(line: str, values: list[str]) -> None:
    assert go_values.fields(line) == values


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "EOF"),
        ('a"b', 'parse error on line 1, column 2: bare " in non-quoted-field'),
        ('x,ü"', 'parse error on line 1, column 5: bare " in non-quoted-field'),
        ('"a', 'parse error on line 1, column 3: extraneous or missing " in quoted-field'),
        ('"a"b', 'parse error on line 1, column 3: extraneous or missing " in quoted-field'),
        ('"a\n', 'record on line 1; parse error on line 2, column 0: extraneous or missing " in quoted-field'),
    ],
)
def test_what_is_no_record(line: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        go_values.fields(line)
    assert str(caught.value) == message
