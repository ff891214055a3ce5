"""What every log sink does, whatever it does with the output: each of `SINKS`, and one that exists only here."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.supervisor.logs.compression import Compressor
from sampan.supervisor.logs.drivers import SINKS, open_sink
from sampan.supervisor.logs.reader import Query, read
from sampan.supervisor.logs.record import LogSink
from tests.support.engine import until

Lines = list[tuple[str, str]]  # (stream, line), the newline included when it was written
STREAMS = {1: "stdout", 2: "stderr"}


class Driver(ABC):
    """An implementation under test: how it is opened, and how what it has taken comes back."""

    keeps = True

    @abstractmethod
    def open(self, **options: str) -> LogSink: ...

    @abstractmethod
    async def lines(self) -> Lines: ...


class OnDisk(Driver):
    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.path = str(directory / "log")

    def open(self, **options: str) -> LogSink:
        return open_sink(self.name, self.path, {k.replace("_", "-"): v for k, v in options.items()}, {})

    async def lines(self) -> Lines:
        data = b"".join([chunk async for chunk in read(self.name, self.path, Query())])
        found: Lines = []
        at = 0
        while at < len(data):
            end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "big")
            found.append((STREAMS[data[at]], data[at + 8 : end].decode()))
            at = end
        return _joined(found)


class None_(Driver):
    keeps = False

    def open(self, **options: str) -> LogSink:
        return open_sink("none", "", options, {})

    async def lines(self) -> Lines:
        return []


class Remembering(Driver):
    """A sink that sends nowhere and remembers, as a peer at the end of a connection would."""

    def __init__(self) -> None:
        self.whole: Lines = []
        self._rest: dict[str, str] = {}

    def open(self, **options: str) -> LogSink:
        return self

    def write(self, stream: str, data: bytes) -> None:
        *whole, rest = (self._rest.get(stream, "") + data.decode()).split("\n")
        self.whole += [(stream, f"{line}\n") for line in whole]
        self._rest[stream] = rest

    def end(self, stream: str) -> None:
        rest = self._rest.pop(stream, "")
        if rest:
            self.whole.append((stream, rest))

    def close(self) -> None:
        for stream in [*self._rest]:
            self.end(stream)

    async def lines(self) -> Lines:
        return self.whole


def _joined(pieces: Lines) -> Lines:
    """Put the pieces of long lines together."""
    found: Lines = []
    open_: dict[str, int] = {}
    for stream, text in pieces:
        if stream in open_:
            found[open_[stream]] = (stream, found[open_[stream]][1] + text)
        else:
            open_[stream] = len(found)
            found.append((stream, text))
        if text.endswith("\n"):
            del open_[stream]
    return found


DRIVERS: dict[str, Callable[[Path], Driver]] = {
    "json-file": lambda path: OnDisk("json-file", path),
    "local": lambda path: OnDisk("local", path),
    "none": lambda path: None_(),
    "": lambda path: None_(),
    "remembering": lambda path: Remembering(),
}


def test_every_driver_is_here() -> None:
    assert set(DRIVERS) - {"remembering"} == set(SINKS)


@pytest.fixture(params=list(DRIVERS))
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Driver:
    return DRIVERS[request.param](tmp_path)


def kept(driver: Driver, lines: Lines) -> Lines:
    return lines if driver.keeps else []


@pytest.mark.asyncio
async def test_lines_come_back_by_stream_however_they_were_cut(driver: Driver) -> None:
    sink = driver.open()
    for stream, data in (("stdout", b"one\ntw"), ("stderr", b"err\n"), ("stdout", b"o\n\nfour\n")):
        sink.write(stream, data)
    sink.end("stdout")
    sink.end("stderr")
    sink.close()
    wanted = [("stdout", "one\n"), ("stderr", "err\n"), ("stdout", "two\n"), ("stdout", "\n"), ("stdout", "four\n")]
    assert await driver.lines() == kept(driver, wanted)


@pytest.mark.asyncio
@pytest.mark.parametrize("ended", [True, False])
async def test_an_unfinished_line_is_there_after_the_end(driver: Driver, ended: bool) -> None:
    sink = driver.open()
    sink.write("stdout", b"whole\nhalf")
    if ended:
        sink.end("stdout")
    sink.close()
    sink.close()
    assert await driver.lines() == kept(driver, [("stdout", "whole\n"), ("stdout", "half")])


@pytest.mark.asyncio
async def test_a_long_line_is_one_line(driver: Driver) -> None:
    sink = driver.open()
    text = "x" * 50_000
    for at in range(0, len(text), 7_000):
        sink.write("stdout", text[at : at + 7_000].encode())
    sink.write("stdout", b"\nshort\n")
    sink.close()
    assert await driver.lines() == kept(driver, [("stdout", f"{text}\n"), ("stdout", "short\n")])


@pytest.mark.asyncio
async def test_a_stream_without_output_leaves_nothing(driver: Driver) -> None:
    sink = driver.open()
    sink.end("stdout")
    sink.end("stderr")
    sink.close()
    assert await driver.lines() == []


@pytest.mark.asyncio
@pytest.mark.timeout(120)
async def test_no_write_waits_for_rotation_or_compression(driver: Driver, tmp_path: Path) -> None:
    """Files are set aside faster than they can be compressed: all of it is taken at once, and bounded on the disk."""
    sink = driver.open(max_size="4m", max_file="4", compress="true")
    block = b"".join(b"%d %s\n" % (n, os.urandom(40).hex().encode()) for n in range(2_500))
    slowest = 0.0
    for _ in range(200):  # 45 MB
        begin = time.monotonic()
        sink.write("stdout", block)
        slowest = max(slowest, time.monotonic() - begin)
    begin = time.monotonic()
    sink.close()
    slowest = max(slowest, time.monotonic() - begin)
    assert slowest < 1.0
    if not isinstance(driver, OnDisk):
        return
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5 * 4 * 1024 * 1024
    until(
        lambda: {path.name for path in tmp_path.iterdir()} == {"log", *(f"log.{n}.gz" for n in (1, 2, 3))}, 60, "done"
    )
    lines = [text for _, text in await driver.lines()]
    written = block.decode().splitlines(keepends=True)
    assert lines == (written * (len(lines) // len(written) + 1))[-len(lines) :]


def test_a_compressor_leaves_what_is_compressed_and_takes_the_rest(tmp_path: Path) -> None:
    """What an earlier writer left: the next rotation's compressor takes all of it."""
    path = str(tmp_path / "log")
    (tmp_path / "log.1").write_text("one")
    (tmp_path / "log.3").write_text("three")
    (tmp_path / "log.2.gz").write_bytes(b"compressed")
    (tmp_path / "log.gz.tmp").write_bytes(b"of one that was killed")
    compressor = Compressor(path, 5)
    compressor.start()
    until(lambda: {p.name for p in tmp_path.iterdir()} == {"log.1.gz", "log.2.gz", "log.3.gz"}, 10, "compressed")
    assert (tmp_path / "log.2.gz").read_bytes() == b"compressed"
    compressor.close()
