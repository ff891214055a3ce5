"""Filters, times and patterns of listings; platforms; progress bars. Pure."""

from __future__ import annotations

import pytest

from sampan.engine import platforms
from sampan.engine.images import archive, views
from sampan.errors import Internal, InvalidArgument
from sampan.spec import times
from sampan.spec.reference import parse

NOW = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("busybox", "busybox:latest", True), ("busy*", "busybox:latest", True), ("*/app", "user/app:1", True),
        ("*", "user/app:1", False), ("user/*:1", "user/app:1", True), ("user/*:2", "user/app:1", False),
        ("ap?", "app:1", True), ("[a-c]pp", "app:1", True), ("[^a]pp", "app:1", False), (r"a\pp", "app:1", True),
        ("a.p", "app:1", False), ("(app)", "app", False),
    ],
)  # fmt: skip
def test_reference_patterns_are_gos_path_match(pattern: str, name: str, matches: bool) -> None:
    assert views.reference_match([pattern], parse(name)) is matches


@pytest.mark.parametrize("pattern", ["[bad", "a\\", "[", "x[a"])
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(Internal, match=r"^syntax error in pattern$"):
        views.path_match(pattern, "app")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1600000000", 1_600_000_000 * 10**9), ("1600000000.5", 1_600_000_000_500_000_000),
        ("1h30m", NOW - 5400 * 10**9),
        ("2026-01-02T03:04:05Z", 1_767_323_045 * 10**9), ("2026-01-02", 1_767_312_000 * 10**9),
        ("2026-01-02T03:04:05.000000001+01:00", (1_767_323_045 - 3600) * 10**9 + 1),
    ],
)  # fmt: skip
def test_until(text: str, expected: int) -> None:
    assert views.until_filter({"until": {text}}, NOW) == expected


def test_filters_are_checked() -> None:
    assert views.until_filter({}, NOW) is None
    with pytest.raises(Internal, match=r'^failed to parse value as time or duration: "zz"$'):
        views.until_filter({"until": {"zz"}}, NOW)
    assert views.boolean_filter({"dangling": {"1"}}, "dangling", False) is True
    assert views.boolean_filter({"dangling": {"false"}}, "dangling", True) is False
    for values in ({"x"}, {"true", "false"}):
        with pytest.raises(InvalidArgument, match=r"^invalid filter 'dangling=\["):
            views.boolean_filter({"dangling": values}, "dangling", False)
    labels = {"a": "1", "b": ""}
    assert views.labels_match({"label": {"a", "b="}, "label!": {"c", "a=2"}}, labels)
    assert not views.labels_match({"label": {"a=2"}}, labels) and not views.labels_match({"label!": {"b"}}, labels)


def test_times_before_1970_and_without_fraction() -> None:
    assert times.parse("1969-12-31T23:59:59Z") == -(10**9)
    assert views.unix_time("") == 0 and views.unix_time("0001-01-01T00:00:00Z") == -62135596800
    with pytest.raises(ValueError, match='cannot parse "yesterday" as an RFC 3339 time'):
        times.parse("yesterday")


def test_modern_config_is_what_api_1_50_shows() -> None:
    shown = views.modern_config({"Hostname": "h", "Cmd": [], "StopSignal": "SIGINT", "Env": ["a"], "Shell": None})
    assert shown == {
        "Cmd": None, "Entrypoint": None, "Env": ["a"], "Labels": None, "OnBuild": None, "StopSignal": "SIGINT",
        "User": "", "Volumes": None, "WorkingDir": "",
    }  # fmt: skip
    assert list(shown) == sorted(shown)


def test_platforms() -> None:
    assert platforms.parse("linux/arm64/v8") == platforms.Platform("linux", "arm64", "v8")
    assert platforms.parse("linux/x86_64") == platforms.parse("amd64") == platforms.Platform("linux", "amd64")
    assert platforms.parse("linux") == platforms.HOST
    for text, message in (
        ("windows/amd64", "operating system is not supported"),
        ("linux/", '"" is an invalid component of "linux/": platform specifier component must match '),
        ("nope", "unknown operating system or architecture"),
        ("a/b/c/d", "cannot parse platform specifier"),
    ):
        with pytest.raises(InvalidArgument) as refusal:
            platforms.parse(text)
        assert message in refusal.value.message


def test_progress_bars_as_the_reference_drew_them() -> None:
    assert archive.progress_bar(3900, 10240) == "[" + "=" * 19 + ">" + " " * 31 + "]    3.9kB/10.24kB"
    assert archive.progress_bar(10240, 10240) == "[" + "=" * 50 + ">]  10.24kB/10.24kB"
    assert archive.progress_bar(0, 2_129_920) == "[>" + " " * 50 + "]       0B/2.13MB"
    assert archive.progress_bar(5, 0) == "      5B"
