"""The writing half of every log driver, as the shim needs it: a format turns whole blocks of a stream into records.

A new driver that keeps files adds a `Format` here and a `Decoder` on the reading side; one that sends elsewhere
(syslog, journald, gelf, fluentd) adds a `LogSink`; both are named in drivers.py. What is imported from here is in
every shim's memory: no msgspec, no dataclasses.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Partial(NamedTuple):
    """Where a piece of an over-long line stands: `id` is the same for all pieces of one line, `ordinal` counts
    from 1.
    """

    id: str
    ordinal: int
    last: bool


class LogSink(Protocol):
    """Where a task's output goes. tests/conformance/test_log_drivers.py is what each implementation passes.

    Never raises for a full disk or an absent peer; never blocks for long, because it stands in the shim's loop: work
    that takes its time is a process's beside it.
    """

    def write(self, stream: str, data: bytes) -> None:
        """Take one read of `stream` ("stdout" or "stderr"); it may end anywhere in a line."""
        ...

    def end(self, stream: str) -> None:
        """The stream has ended: an unfinished line is finished by that."""
        ...

    def close(self) -> None:
        """Both streams have ended, if nobody has said so; a second call does nothing."""
        ...


class Format(Protocol):
    """A log file's bytes.

    `block` is whole lines with newlines; with `partial` it is one piece of a line without newline.
    """

    def render(self, stream: str, block: bytes, time_ns: int, partial: Partial | None) -> bytes: ...
    def boundary(self, block: bytes, wanted: int) -> int:
        """Return where the record that covers byte `wanted - 1` of rendered records ends."""
        ...
