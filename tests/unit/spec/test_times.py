"""Times as text: each layout, both ways, and what is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.spec import times

NS = 1_767_323_045 * 10**9  # 2026-01-02T03:04:05Z
NOW = 2_000_000_000 * 10**9


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local zone is three and a half hours behind UTC."""
    monkeypatch.setenv("TZ", "<-0330>3:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_layouts_in_utc() -> None:
    assert times.rfc3339(NS + 999) == "2026-01-02T03:04:05Z"
    assert times.rfc3339_nano(NS) == "2026-01-02T03:04:05Z"
    assert times.rfc3339_nano(NS + 60_000_000) == "2026-01-02T03:04:05.06Z"
    assert times.rfc3339_nano(NS + 1) == "2026-01-02T03:04:05.000000001Z"
    assert times.rfc3339_nano_fixed(NS) == "2026-01-02T03:04:05.000000000Z"
    assert times.rfc3339_nano_fixed(NS + 60_000_000) == "2026-01-02T03:04:05.060000000Z"
    assert times.ansic(NS) == "Fri Jan  2 03:04:05 2026"


@pytest.mark.usefixtures("zone")
def test_layouts_in_the_local_zone() -> None:
    assert times.rfc3339(NS, local=True) == "2026-01-01T23:34:05-03:30"
    assert times.rfc3339_nano_fixed(NS + 5, local=True) == "2026-01-01T23:34:05.000000005-03:30"
    assert times.go_string(NS) == "2026-01-01 23:34:05 -0330 -0330"
    assert times.rfc3339(NS) == "2026-01-02T03:04:05Z"


def test_a_local_zone_that_is_utc_is_z(monkeypatch: pytest.MonkeyPatch, zone: None) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert times.rfc3339(NS, local=True) == "2026-01-02T03:04:05Z"


def test_before_1970_and_the_year_one() -> None:
    assert times.rfc3339_nano(-1) == "1969-12-31T23:59:59.999999999Z"
    assert times.rfc3339_nano(times.parse(times.ZERO)) == times.ZERO
    assert times.rfc3339_nano_fixed(times.parse("0999-12-31T00:00:00Z")) == "0999-12-31T00:00:00.000000000Z"


def test_now_is_now() -> None:
    before = time.time_ns()
    assert before <= times.parse(times.now()) <= time.time_ns()


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2000-03-01T00:00:00+01:00", (951868800 - 3600) * 10**9),
        ("1970-01-01t00:00:01.5z", 1_500_000_000),
        ("2026-01-02T03:04:05.123456789Z", NS + 123_456_789),
        ("2026-01-02T03:04:05.1234567891Z", NS + 123_456_789),
        ("2026-01-02T04:04:05+01:00", NS),
        ("2026-01-01T23:34:05.000000007-03:30", NS + 7),
        ("2024-02-29T00:00:00Z", 1_709_164_800 * 10**9),
    ],
)
def test_parse(text: str, ns: int) -> None:
    assert times.parse(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "", "Z", "yesterday", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02 03:04:05Z", "2026-01-02T03:04:05.Z",
        "2026-13-02T03:04:05Z",
        "2026-02-29T00:00:00Z", "2026-01-00T00:00:00Z", "2026-01-02T24:00:00Z", "2026-01-02T03:60:05Z",
        "2026-01-02T03:04:60Z",
        "2026-01-02T03:04:05+0100", "2026-01-02T03:04:05.1_2Z", "2026-01-02T+3:04:05Z", "٢٠٢٦-01-02T03:04:05Z",
    ],
)  # fmt: skip
def test_what_is_no_rfc_3339_time(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        times.parse(text)
    assert str(caught.value) == f'cannot parse "{text}" as an RFC 3339 time'


@given(st.integers(-62135596800 * 10**9, 253402300799 * 10**9))
def test_what_is_written_is_read(ns: int) -> None:
    assert times.parse(times.rfc3339_nano(ns)) == ns == times.parse(times.rfc3339_nano_fixed(ns))
    assert times.parse(times.rfc3339(ns)) == ns // 10**9 * 10**9


@given(st.integers(0, 253402300799 * 10**9), st.integers(0, 253402300799 * 10**9))
def test_fixed_texts_sort_by_time(a: int, b: int) -> None:
    assert (times.rfc3339_nano_fixed(a) < times.rfc3339_nano_fixed(b)) == (a < b)


@pytest.mark.usefixtures("zone")
def test_what_may_be_missing() -> None:
    for text in ("2026-01-02T03:00:00", "2026-01-02T03:00", "2026-01-02T03"):
        assert times.parse_partial(text) == times.parse("2026-01-02T03:00:00Z")
        assert times.parse_partial(text, local=True) == times.parse("2026-01-02T03:00:00-03:30")
    assert times.parse_partial("2026-01-02", local=True) == times.parse("2026-01-02T00:00:00-03:30")
    assert times.parse_partial("2026-01-02T03:04:05.25", local=True) == NS + 250_000_000 + 12600 * 10**9
    assert times.parse_partial("2026-01-02T03:04:05Z", local=True) == NS, "a zone that is given counts"
    with pytest.raises(ValueError, match='cannot parse "2026-01" as an RFC 3339 time'):
        times.parse_partial("2026-01")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("12", 12 * 10**9),
        ("12.5", 12_500_000_000),
        ("0", 0),
        ("1h30m", NOW - 5400 * 10**9),
        ("2026-01-02T03:04:05Z", NS),
        ("2026-01-02T03:04", NS - 5 * 10**9),
    ],
)
def test_moments(text: str, ns: int) -> None:
    assert times.moment(text, NOW) == ns


@pytest.mark.parametrize("text", ["", "x", "12.", "1h30", '"'])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        times.moment(text, NOW)
    shown = '"\\""' if text == '"' else f'"{text}"'
    assert str(caught.value) == f"failed to parse value as time or duration: {shown}"


@pytest.mark.parametrize(
    ("text", "ns"),
    [("0", 0), ("12", 12 * 10**9), ("1.5", 1_500_000_000), ("1.0000000019", 10**9 + 1), ("-1", -(10**9))],
)
def test_seconds_of_a_request(text: str, ns: int) -> None:
    assert times.unix(text) == ns


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 'strconv.ParseInt: parsing "": invalid syntax'),
        ("zz", 'strconv.ParseInt: parsing "zz": invalid syntax'),
        ("1.", 'strconv.ParseInt: parsing "": invalid syntax'),
        ("1.x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("99999999999999999999", 'strconv.ParseInt: parsing "99999999999999999999": value out of range'),
    ],
)
def test_seconds_that_a_request_cannot_have(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        times.unix(text)
