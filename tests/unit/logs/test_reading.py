"""Reading logs back: every driver, tail, since, until, rotation, and following without loss."""

from __future__ import annotations

import asyncio
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Internal, NotImplemented_
from sampan.supervisor.logs.drivers import open_sink
from sampan.supervisor.logs.reader import Query, read
from sampan.supervisor.logs.record import LogSink

pytestmark = pytest.mark.asyncio


def writer(path: Path, driver: str = "json-file", **log_options: str) -> LogSink:
    opened = open_sink(driver, str(path), {k.replace("_", "-"): v for k, v in log_options.items()}, {})
    return opened


async def frames(path: Path, driver: str = "json-file", **query: Any) -> list[tuple[int, bytes]]:
    """The stdcopy frames that a query yields."""
    data = b"".join([chunk async for chunk in read(driver, str(path), Query(**query))])
    found = []
    while data:
        length = int.from_bytes(data[4:8], "big")
        found.append((data[0], data[8 : 8 + length]))
        data = data[8 + length :]
    return found


async def texts(path: Path, driver: str = "json-file", **query: Any) -> list[str]:
    return [line.decode() for _, line in await frames(path, driver, **query)]


def numbered(first: int, last: int) -> list[str]:
    return [f"line {n}\n" for n in range(first, last + 1)]


async def collect(path: Path, driver: str, seen: list[bytes], stopped: asyncio.Event, **query: Any) -> None:
    async for chunk in read(driver, str(path), Query(follow=True, raw=True, **query), stopped=stopped):
        seen.append(chunk)


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop its turns until it is so; the test's timeout is the limit."""
    while not condition():  # noqa: ASYNC110 - the reader offers no event for "delivered"
        await asyncio.sleep(0)


def put(path: Path, *records: tuple[str, str]) -> None:
    """Write json-file records of given times."""
    path.write_text("".join(json.dumps({"log": log, "stream": "stdout", "time": time}) + "\n" for time, log in records))


@pytest.mark.parametrize("driver", ["json-file", "local"])
async def test_both_streams_come_back_as_written(tmp_path: Path, driver: str) -> None:
    w = writer(tmp_path / "log", driver)
    w.write("stdout", b"out \xc3\xa9\n\n")
    w.write("stderr", b"err\ntail")
    w.close()
    everything = [(1, "out é\n".encode()), (1, b"\n"), (2, b"err\n"), (2, b"tail")]
    assert await frames(tmp_path / "log", driver) == everything
    assert await frames(tmp_path / "log", driver, stdout=False) == everything[2:]
    assert await frames(tmp_path / "log", driver, stderr=False) == everything[:2]


async def test_raw_has_no_headers(tmp_path: Path) -> None:
    w = writer(tmp_path / "log")
    w.write("stdout", b"a\r\nb")
    w.close()
    assert b"".join([c async for c in read("json-file", str(tmp_path / "log"), Query(raw=True))]) == b"a\r\nb"


@pytest.mark.parametrize("driver", ["json-file", "local"])
@pytest.mark.parametrize("tail", [0, 1, 7, 3000, 50_000, 100_000])
async def test_tail(tmp_path: Path, driver: str, tail: int) -> None:
    w = writer(tmp_path / "log", driver, compress="false", max_file="9", max_size="900k")
    for first in range(1, 50_001, 1000):
        w.write("stdout", "".join(numbered(first, first + 999)).encode())
    w.close()
    assert os.path.exists(tmp_path / "log.1")
    assert await texts(tmp_path / "log", driver, tail=tail) == numbered(1, 50_000)[50_000 - min(tail, 50_000) :]


@pytest.mark.parametrize("driver", ["json-file", "local"])
async def test_rotated_and_compressed_files_are_part_of_the_log(tmp_path: Path, driver: str) -> None:
    w = writer(tmp_path / "log", driver, compress="true", max_file="5", max_size="20k")
    w.write("stdout", "".join(numbered(1, 900)).encode())
    w.close()
    await until(lambda: os.path.exists(tmp_path / "log.1.gz"))
    assert await texts(tmp_path / "log", driver) == numbered(1, 900)
    assert await texts(tmp_path / "log", driver, tail=800) == numbered(101, 900)


async def test_since_and_until_compare_times_of_any_precision(tmp_path: Path) -> None:
    put(
        tmp_path / "log",
        ("2026-01-01T00:00:00Z", "a"),
        ("2026-01-01T00:00:00.5Z", "b"),
        ("2026-01-01T00:00:00.75Z", "c"),
        ("2026-01-01T00:00:01Z", "d"),
    )
    second = 1_767_225_600 * 10**9
    half = second + 500_000_000
    assert await texts(tmp_path / "log", since_ns=second) == ["a", "b", "c", "d"]
    assert await texts(tmp_path / "log", since_ns=half) == ["b", "c", "d"]
    assert await texts(tmp_path / "log", since_ns=half + 1) == ["c", "d"]
    assert await texts(tmp_path / "log", until_ns=half) == ["a", "b"]
    assert await texts(tmp_path / "log", since_ns=half, until_ns=half) == ["b"]
    assert await texts(tmp_path / "log", tail=2, until_ns=half) == []


async def test_timestamps_and_details_stand_in_front(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        '{"log":"x\\n","stream":"stdout","attrs":{"b c":"d/e","a":"1"},"time":"2026-01-01T00:00:00.5Z"}\n'
    )
    assert await texts(tmp_path / "log", timestamps=True) == ["2026-01-01T00:00:00.500000000Z x\n"]
    assert await texts(tmp_path / "log", details=True) == ["a=1,b+c=d%2Fe x\n"]
    both = await texts(tmp_path / "log", details=True, timestamps=True)
    assert both == ["2026-01-01T00:00:00.500000000Z a=1,b+c=d%2Fe x\n"]


async def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    put(tmp_path / "log", ("2026-01-01T00:00:00Z", "a"), ("2026-01-01T00:00:00Z", "b"))
    whole = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(whole[:-20] + b"\n\0\0\0\n" + whole)
    assert await texts(tmp_path / "log") == ["a", "a", "b"]


@pytest.mark.parametrize("driver", ["json-file", "local"])
async def test_bytes_come_back_as_they_were_written(tmp_path: Path, driver: str) -> None:
    written = b"a\0b\r\nc\xff\xfe\xe2\x82d\n" + bytes(range(256)) * 300 + b"\n\x1b[1mend\\n"
    w = writer(tmp_path / "log", driver)
    for at in range(0, len(written), 1000):
        w.write("stdout", written[at : at + 1000])
    w.close()
    assert b"".join([line for _, line in await frames(tmp_path / "log", driver)]) == written


@pytest.mark.parametrize("driver", ["json-file", "local"])
@pytest.mark.parametrize("length", [16383, 16384, 16385, 40_000, 3_000_000])
async def test_a_long_line_is_one_line(tmp_path: Path, driver: str, length: int) -> None:
    w = writer(tmp_path / "log", driver, max_size="700k", max_file="9")
    w.write("stdout", b"before\n" + b"x" * length + b"\n" + b"after\n")
    w.write("stdout", b"x" * length)  # not finished when the process ends
    w.close()
    w = writer(tmp_path / "log", driver, max_size="700k", max_file="9")
    w.write("stdout", b"another run\n")
    w.close()
    long = "x" * length
    lines = ["before", long, "after", long + "another run", ""]
    for tail, expected in ((1, ["another run", ""]), (2, lines[3:]), (3, lines[2:]), (4, lines[1:]), (5, lines)):
        assert "".join(await texts(tmp_path / "log", driver, tail=tail)) == "\n".join(expected)
    stamped = "".join(await texts(tmp_path / "log", driver, timestamps=True))
    assert stamped.count("Z ") == 5 and all("Z " in line for line in stamped.splitlines())
    assert len(stamped.split("\n")[1]) == length + 31


@pytest.mark.parametrize("driver", ["json-file", "local"])
async def test_a_long_line_between_those_of_the_other_stream(tmp_path: Path, driver: str) -> None:
    w = writer(tmp_path / "log", driver)
    w.write("stdout", b"x" * 20_000)
    w.write("stderr", b"beside\n")
    w.write("stdout", b"x" * 20_000 + b"\n")
    w.close()
    assert "".join(await texts(tmp_path / "log", driver, tail=1, stderr=False)) == "x" * 40_000 + "\n"
    stamped = await texts(tmp_path / "log", driver, timestamps=True)
    assert sum("Z " in piece for piece in stamped) == 2


async def test_a_long_tail_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(
        b'{"log":"a line of a log\\n","stream":"stdout","time":"2026-01-01T00:00:00.1Z"}\n' * 1_000_000
    )
    tracemalloc.start()
    try:
        lines = 0
        async for chunk in read("json-file", str(tmp_path / "log"), Query(raw=True, tail=900_000)):
            lines += chunk.count(b"\n")
        assert lines == 900_000
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


async def test_an_unfinished_last_line_waits(tmp_path: Path) -> None:
    put(tmp_path / "log", ("2026-01-01T00:00:00Z", "a"), ("2026-01-01T00:00:00Z", "b"))
    whole = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(whole[:-20])
    assert await texts(tmp_path / "log") == ["a"]


async def test_records_longer_than_a_read(tmp_path: Path) -> None:
    put(tmp_path / "log", ("2026-01-01T00:00:00Z", "x" * 1_000_000), ("2026-01-01T00:00:00Z", "y"))
    assert [len(t) for t in await texts(tmp_path / "log")] == [1_000_000, 1]
    assert [len(t) for t in await texts(tmp_path / "log", tail=2)] == [1_000_000, 1]


@pytest.mark.parametrize(("driver", "rotation"), [("json-file", "3k"), ("local", "3k"), ("json-file", "100k")])
@pytest.mark.parametrize("compress", ["false", "true"])
async def test_follow_loses_and_repeats_nothing_over_rotations(
    tmp_path: Path, driver: str, rotation: str, compress: str
) -> None:
    """The writer rotates many times between two turns of the reader."""
    w = writer(tmp_path / "log", driver, max_size=rotation, max_file="50", compress=compress)
    w.write("stdout", "".join(numbered(1, 20)).encode())
    stopped = asyncio.Event()
    seen: list[bytes] = []
    following = asyncio.create_task(collect(tmp_path / "log", driver, seen, stopped, tail=5))
    await until(lambda: bool(seen))
    n = 20
    for burst in (1, 3, 200, 1, 500, 40, 300):
        w.write("stdout", "".join(numbered(n + 1, n + burst)).encode())
        n += burst
        for _ in range(5):
            await asyncio.sleep(0)
    w.close()
    stopped.set()
    await following
    assert b"".join(seen).decode().splitlines(keepends=True) == numbered(16, n)


async def test_follow_sees_an_emptied_file(tmp_path: Path) -> None:
    w = writer(tmp_path / "log", max_size="1k")
    stopped = asyncio.Event()
    seen: list[bytes] = []
    task = asyncio.create_task(collect(tmp_path / "log", "json-file", seen, stopped))
    for n in range(40):
        w.write("stdout", f"line {n}\n".encode())
        await until(lambda n=n: b"".join(seen).endswith(f"line {n}\n".encode()))  # type: ignore[misc]
    stopped.set()
    await task
    w.close()
    assert b"".join(seen).decode().splitlines(keepends=True) == numbered(0, 39)


async def test_follow_ends_at_until(tmp_path: Path) -> None:
    put(tmp_path / "log", ("2026-01-01T00:00:00Z", "a"))
    assert await texts(tmp_path / "log", follow=True, until_ns=1_767_225_600 * 10**9 + 1) == ["a"]


async def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotImplemented_, match="configured logging driver does not support reading"):
        await texts(tmp_path / "log", "none")
    with pytest.raises(FileNotFoundError):
        await texts(tmp_path / "log")


@pytest.mark.parametrize("tail", [None, 5])
async def test_a_record_without_end_is_an_error_and_not_memory(tmp_path: Path, tail: int | None) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(Internal, match="is damaged: no record ends within"):
            await texts(path, tail=tail)
        assert tracemalloc.get_traced_memory()[1] < 80_000_000
    finally:
        tracemalloc.stop()
