"""`docker logs`: Docker's rules for the query, then the log reader.

Source: Engine API 1.51, ContainerLogs; Docker Engine 28.5's answers.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import dataclass

from sampan.engine.background import beside
from sampan.engine.containers.records import Container
from sampan.engine.containers.table import ContainerTable
from sampan.engine.containers.waiting import ExitWaiters
from sampan.errors import Internal, InvalidArgument, NotImplemented_
from sampan.spec import times
from sampan.supervisor.logs.reader import Query, read


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStream:
    """An open log. `tty`: the bytes are raw; else stdcopy frames."""

    tty: bool
    chunks: AsyncIterator[bytes]


def parse_time(text: str) -> int:
    """Read `since` and `until`. Returns nanoseconds; "" and 0 are none. Raises: Internal, Docker's status 500."""
    try:
        return times.unix(text) if text else 0
    except ValueError as e:
        raise Internal(str(e)) from None


def parse_tail(text: str) -> int | None:
    """Read `tail`: a number of lines, of 64 bits at most; anything else is all of them."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


class Logs:
    """Opens the logs of containers."""

    def __init__(self, table: ContainerTable, waiting: ExitWaiters, data_root: str) -> None:
        self._table = table
        self._waiting = waiting
        self._data_root = data_root

    async def open(
        self,
        ref: str,
        *,
        stdout: bool,
        stderr: bool,
        since: str = "",
        until: str = "",
        timestamps: bool = False,
        tail: str = "",
        follow: bool = False,
        details: bool = False,
    ) -> LogStream:
        """Check the query and open the log; its texts are as the client sent them."""
        if not (stdout or stderr):
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        c = self._table.get(ref)
        since_ns, until_ns = parse_time(since), parse_time(until)
        driver = c.host_config.log_config.type
        if driver == "none":
            raise NotImplemented_("configured logging driver does not support reading")
        query = Query(
            stdout=stdout,
            stderr=stderr,
            since_ns=since_ns,
            until_ns=until_ns,
            tail=parse_tail(tail),
            follow=follow,
            timestamps=timestamps,
            details=details,
            raw=c.config.tty,
        )
        chunks = self._read(c, query)
        return LogStream(tty=c.config.tty, chunks=chunks)

    def history(self, c: Container, *, stdout: bool, stderr: bool, before_ns: int) -> AsyncIterator[bytes]:
        """Return what was logged before a client joined; later lines reach it by the stream. before_ns 0: all."""
        if c.host_config.log_config.type == "none":
            raise NotImplemented_("configured logging driver does not support reading")
        return self._read(c, Query(stdout=stdout, stderr=stderr, until_ns=before_ns, raw=c.config.tty))

    async def _read(self, c: Container, query: Query) -> AsyncIterator[bytes]:
        stopped = asyncio.Event()
        ends = beside(self._wait_for_end(c, stopped), f"end of {c.id[:12]}") if query.follow else nullcontext()
        path = f"{self._data_root}/containers/{c.id}/{c.id}-json.log"
        try:
            async with ends:
                async for chunk in read(c.host_config.log_config.type, path, query, stopped=stopped):
                    yield chunk
        except FileNotFoundError:
            return  # never started: an empty log

    async def _wait_for_end(self, c: Container, stopped: asyncio.Event) -> None:
        """Following ends when the container does for good: a restart goes on, a removal does not."""
        await self._waiting.end(c.id)
        stopped.set()
