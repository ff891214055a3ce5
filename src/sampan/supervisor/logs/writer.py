"""From the reads of a process's streams to records in a rotating file, whatever the format."""

from __future__ import annotations

import os
import time

from sampan.supervisor.logs import lines
from sampan.supervisor.logs.files import RotatingFile
from sampan.supervisor.logs.record import Format, Partial


class _LongLine:
    """An unfinished line of which pieces have been written: they share the time of the first."""

    __slots__ = ("id", "ordinal", "since_ns")

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self.id = os.urandom(32).hex()
        self.ordinal = 0

    def next(self, *, last: bool) -> Partial:
        self.ordinal += 1
        return Partial(self.id, self.ordinal, last)


class FileWriter:
    """Holds at most 16 KiB of unfinished line per stream, so a line that is never finished is not lost when the process
    ends.
    """

    def __init__(self, file: RotatingFile, format_: Format) -> None:
        self._file = file
        self._format = format_
        self._rest: dict[str, bytes] = {}
        self._long: dict[str, _LongLine] = {}

    def write(self, stream: str, data: bytes) -> None:
        """Log one read of `stream` ("stdout" or "stderr")."""
        rest = self._rest.get(stream)
        pieces, self._rest[stream] = lines.split(rest + data if rest else data)
        if not pieces:
            return
        now = time.time_ns()
        if len(pieces) == 1 and pieces[0][1] and not self._long:
            block = self._format.render(stream, pieces[0][0], now, None)
        else:
            block = b"".join([self._render(stream, piece, complete, now) for piece, complete in pieces])
        self._file.write(block, self._format.boundary)

    def end(self, stream: str) -> None:
        """End a stream: log what came after its last newline, as a piece that ends no line."""
        rest = self._rest.pop(stream, b"")
        if rest:
            self._file.write(self._render(stream, rest, False, time.time_ns()), self._format.boundary)

    def close(self) -> None:
        for stream in list(self._rest):
            self.end(stream)
        self._file.close()

    def _render(self, stream: str, block: bytes, complete: bool, now: int) -> bytes:
        if not complete:
            long = self._long.setdefault(stream, _LongLine(now))
            return self._format.render(stream, block, long.since_ns, long.next(last=False))
        if stream not in self._long:
            return self._format.render(stream, block, now, None)
        long = self._long.pop(stream)
        line, _, block = block.partition(b"\n")
        first = self._format.render(stream, line, long.since_ns, long.next(last=True))
        return first + self._format.render(stream, block, now, None) if block else first


class Nothing:
    """The sink of the driver `none`."""

    def write(self, stream: str, data: bytes) -> None:
        pass

    def end(self, stream: str) -> None:
        pass

    def close(self) -> None:
        pass
