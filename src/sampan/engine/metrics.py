"""What the engine counts and times of its own work, and the text in which Prometheus reads it.

Services get the `Metrics` of their engine and note what they do. Who serves the text adds what is looked up at the
moment of asking (`gauge`). Names and labels are those of dockerd; buckets are those of Prometheus' clients.

Source: prometheus.io/docs/instrumenting/exposition_formats, text format 0.0.4; /metrics of dockerd 28.5.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
Labels = Mapping[str, str]


class Counter:
    """A number that only grows, for each value of one label; without a label there is one, of ""."""

    kind = "counter"

    def __init__(self, name: str, help: str, label: str = "", values: Iterable[str] = ("",)) -> None:
        self.name, self.help, self._label = name, help, label
        self._counts = dict.fromkeys(values, 0)

    def add(self, value: str = "") -> None:
        """Count one more."""
        self._counts[value] = self._counts.get(value, 0) + 1

    def lines(self) -> Iterator[str]:
        """Yield the samples."""
        for value, count in sorted(self._counts.items()):
            yield sample(self.name, {self._label: value} if self._label else {}, count)


class Durations:
    """How long something took: a histogram of seconds, for each value of one label."""

    kind = "histogram"

    def __init__(self, name: str, help: str, label: str = "", values: Iterable[str] = ("",)) -> None:
        self.name, self.help, self._label = name, help, label
        self._series = {value: _Series() for value in values}

    def note(self, seconds: float, value: str = "") -> None:
        """Count one that took so long."""
        self._series.setdefault(value, _Series()).note(seconds)

    @contextmanager
    def timing(self, value: str = "") -> Iterator[None]:
        """Time a block; one that fails does not count, as in dockerd."""
        began = time.perf_counter()
        yield
        self.note(time.perf_counter() - began, value)

    def timed(self, value: str, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Return the function, timed at each call."""

        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.timing(value):
                return await function(*args, **kwargs)

        return run

    def lines(self) -> Iterator[str]:
        """Yield the samples."""
        for value, series in sorted(self._series.items()):
            labels = {self._label: value} if self._label else {}
            total = 0
            for bucket, count in zip((*map(_number, BUCKETS_S), "+Inf"), series.counts):
                total += count
                yield sample(f"{self.name}_bucket", {**labels, "le": bucket}, total)
            yield sample(f"{self.name}_sum", labels, series.sum_s)
            yield sample(f"{self.name}_count", labels, total)


class _Series:
    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def note(self, seconds: float) -> None:
        at = next((n for n, bound in enumerate(BUCKETS_S) if seconds <= bound), len(BUCKETS_S))
        self.counts[at] += 1
        self.sum_s += seconds


class Metrics:
    """Everything one engine counts."""

    def __init__(self) -> None:
        self.builds_triggered = Counter("builder_builds_triggered_total", "Number of triggered image builds")
        self.builds_failed = Counter(
            "builder_builds_failed_total", "Number of failed image builds", "reason", BUILD_FAILURES
        )
        self.container_actions = Durations(
            "engine_daemon_container_actions_seconds",
            "The number of seconds it takes to process each container action",
            "action",
            ("changes", "commit", "create", "delete", "start"),
        )
        self.network_actions = Durations(
            "engine_daemon_network_actions_seconds",
            "The number of seconds it takes to process each network action",
            "action",
            ("allocate", "connect", "release"),
        )
        self.health_check_starts = Durations(
            "engine_daemon_health_check_start_duration_seconds",
            "The number of seconds it takes to prepare to run health checks",
        )
        self.health_checks = Counter("engine_daemon_health_checks_total", "The total number of health checks")
        self.health_checks_failed = Counter(
            "engine_daemon_health_checks_failed_total", "The total number of failed health checks"
        )

    def lines(self) -> Iterator[str]:
        """Yield all lines, without those that are looked up at the moment of asking."""
        for instrument in vars(self).values():
            yield from head(instrument.name, instrument.help, instrument.kind)
            yield from instrument.lines()


BUILD_FAILURES = (
    "build_canceled",
    "build_target_not_reachable_error",
    "command_not_supported_error",
    "dockerfile_empty_error",
    "dockerfile_syntax_error",
    "error_processing_commands_error",
    "missing_onbuild_arguments_error",
    "unknown_instruction_error",
)


def gauge(name: str, help: str, samples: Iterable[tuple[Labels, float]]) -> Iterator[str]:
    """Yield the lines of a number that goes up and down."""
    yield from head(name, help, "gauge")
    for labels, value in samples:
        yield sample(name, labels, value)


def head(name: str, help: str, kind: str) -> Iterator[str]:
    """Yield the two lines before the samples of a name."""
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {kind}"


def sample(name: str, labels: Labels, value: float) -> str:
    """Return one line: a name, its labels by name, a number."""
    inside = ",".join(f'{key}="{_quoted(text)}"' for key, text in sorted(labels.items()))
    return f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
