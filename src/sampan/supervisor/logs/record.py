"""What every file-backed log driver has in common: a format turns whole blocks of a stream into records and back.

A new driver that keeps files adds one module with a `Format`; one that sends elsewhere (syslog, journald, gelf, fluentd) adds a `LogWriter`.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

import msgspec


class Partial(NamedTuple):
    """Where a piece of an over-long line stands: `id` is the same for all pieces of one line, `ordinal` counts from 1."""

    id: str
    ordinal: int
    last: bool


class Record(msgspec.Struct):
    """One record read back. `log` ends with a newline unless the piece does not end the line; bytes that are no UTF-8 are surrogates (PEP 383)."""

    log: str = ""
    stream: str = ""
    time: str = ""
    attrs: dict[str, str] | None = None


class LogWriter(Protocol):
    """Takes what a process wrote, a read at a time. Never raises for a full disk or an absent peer; never blocks for long."""

    def write(self, stream: str, data: bytes) -> None: ...
    def end(self, stream: str) -> None: ...
    def close(self) -> None: ...


class Format(Protocol):
    """A log file's bytes. `block` is whole lines with newlines; with `partial` it is one piece of a line without newline."""

    def render(self, stream: str, block: bytes, time_ns: int, partial: Partial | None) -> bytes: ...
    def boundary(self, block: bytes, wanted: int) -> int:
        """Where the record that covers byte `wanted - 1` of rendered records ends."""
        ...


class Decoder(Protocol):
    """The way back."""

    def whole(self, block: bytes) -> int:
        """How many bytes at the start of `block` are whole records."""
        ...

    def decode(self, block: bytes) -> list[Record]:
        """Decode whole records, leaving out damaged ones."""
        ...

    def last(self, block: bytes, count: int) -> tuple[int, int]:
        """Walk back over whole records at the end of `block`, at most `count`: (how many were found, offset of the first)."""
        ...


def stamp(time_ns: int) -> str:
    """RFC3339Nano in UTC: a fraction without trailing zeros, as Go prints it."""
    seconds, ns = divmod(time_ns, 1_000_000_000)
    fraction = f".{ns:09d}".rstrip("0") if ns else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"
