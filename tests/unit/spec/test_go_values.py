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


@pytest.mark.parametrize(
    ("text", "base", "value"),
    [
        ("0", 10, 0), ("-7", 10, -7), ("+7", 10, 7), ("007", 10, 7), ("9223372036854775807", 10, 2**63 - 1),
        ("-9223372036854775808", 10, -(2**63)),
        ("0x1F", 0, 31), ("0b11", 0, 3), ("0o17", 0, 15), ("017", 0, 15), ("-0x10", 0, -16), ("1_000", 0, 1000),
        ("0", 0, 0),
    ],
)  # fmt: skip
def test_integers(text: str, base: int, value: int) -> None:
    assert go_values.integer(text, base=base) == value


@pytest.mark.parametrize("text", ["", "+", "-", "--1", "1.5", "1 ", " 1", "x", "0x1", "1_000", "\u0661"])
def test_what_is_no_integer(text: str) -> None:
    for call in ("ParseInt", "Atoi"):
        with pytest.raises(ValueError) as caught:
            go_values.integer(text, call=call)
        assert str(caught.value) == f'strconv.{call}: parsing "{text}": invalid syntax'


@pytest.mark.parametrize(
    ("text", "bits"), [("9223372036854775808", 64), ("-129", 8), ("128", 8), ("1" * 5000, 64), ("-" + "1" * 5000, 64)]
)
def test_integers_out_of_range(text: str, bits: int) -> None:
    with pytest.raises(ValueError) as caught:
        go_values.integer(text, bits=bits)
    assert str(caught.value) == f'strconv.ParseInt: parsing "{text}": value out of range'


def test_unsigned_integers() -> None:
    assert go_values.unsigned("65535", bits=16) == 65535 and go_values.unsigned("0xff", base=0) == 255
    for text, reason in (("-1", "invalid syntax"), ("+1", "invalid syntax"), ("65536", "value out of range")):
        with pytest.raises(ValueError) as caught:
            go_values.unsigned(text, bits=16)
        assert str(caught.value) == f'strconv.ParseUint: parsing "{text}": {reason}'


@pytest.mark.parametrize(
    ("text", "unit", "size"),
    [
        ("64m", 1024, 64 << 20), ("1.5GiB", 1024, 3 << 29), ("512", 1024, 512), ("5 kb", 1024, 5120), ("7b", 1000, 7),
        ("10m", 1000, 10**7),
        ("2T", 1024, 2 << 40), ("1p", 1000, 10**15), ("1.5 GB", 1000, 1_500_000_000), ("3 ", 1024, 3),
    ],
)  # fmt: skip
def test_sizes(text: str, unit: int, size: int) -> None:
    assert go_values.size_bytes(text, unit=unit) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid size: ''"),
        ("x", "invalid size: 'x'"),
        ("-1", "invalid size: '-1'"),
        ("1x", "invalid suffix: 'x'"),
        ("1kbb", "invalid suffix: 'kbb'"),
        ("1.2.3", 'strconv.ParseFloat: parsing "1.2.3": invalid syntax'),
        (" k", 'strconv.ParseFloat: parsing "": invalid syntax'),
    ],
)
def test_what_is_no_size(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        go_values.size_bytes(text)
    assert str(caught.value) == message
