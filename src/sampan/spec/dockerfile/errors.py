"""What is wrong with a Dockerfile, and where: `DockerfileError`, `Range`, and the excerpt that shows the lines.

Source: messages and excerpts as Docker Engine 28.5 and buildx 0.29 print them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sampan.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Range:
    """Lines of a Dockerfile, counted from 1, both inclusive."""

    start: int
    end: int


NOWHERE = Range(0, 0)


class DockerfileError(InvalidArgument):
    """A Dockerfile that cannot be read or built; `ranges` are the lines it points at.

    `message` is what BuildKit says; `classic` what the classic door says, which words some things in its own way.
    """

    def __init__(self, message: str, ranges: Iterable[Range] = (), *, classic: str | None = None) -> None:
        super().__init__(message)
        self.ranges = tuple(ranges)
        self.classic = message if classic is None else classic

    @property
    def line(self) -> int:
        """The first line pointed at, 0 when there is none."""
        return self.ranges[0].start if self.ranges else 0

    def at(self, *ranges: Range) -> DockerfileError:
        """Return the error at these lines; one that has lines already keeps them."""
        return self if self.ranges else DockerfileError(self.message, ranges, classic=self.classic)


_RULE = "-" * 20


def excerpt(text: str, ranges: Iterable[Range], *, filename: str = "Dockerfile") -> str:
    """Return the lines of `text` with `>>>` before those in `ranges`; empty when `ranges` lie outside.

    No newline at the end.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    ranges = [r for r in ranges if 1 <= r.start <= len(lines)]
    if not ranges:
        return ""
    first = min(r.start for r in ranges)
    last = min(max(max(r.start, r.end) for r in ranges), len(lines))
    around = 2 if first == last else 1
    out = [f"{filename}:{first}", _RULE]
    for number in range(max(1, first - around), min(len(lines), last + around) + 1):
        mark = ">>>" if any(r.start <= number <= max(r.start, r.end) for r in ranges) else "   "
        out.append(f" {number:3d} | {mark} {lines[number - 1]}")
    return "\n".join([*out, _RULE])
