"""What a step or a client can fill has a bound: output, messages to a client that does not read, histories."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from sampan.engine.builder.buildkit.history import KEPT_BYTES, History
from sampan.engine.builder.buildkit.protos import control_pb2 as pb
from sampan.engine.builder.buildkit.status import StatusLog
from sampan.engine.builder.classic.outbox import ROOM_BYTES, Outbox
from sampan.engine.builder.classic.output import HELD_BYTES, ClassicOutput, Message
from sampan.engine.builder.progress import BUILD_LOG_BYTES, CLIPPED, LogLimit
from sampan.engine.builder.solver.clipping import STREAM_BYTES, STREAM_BYTES_PER_S, Clipped
from sampan.engine.store import Store


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_step_that_says_too_much_at_once_is_clipped_in_buildkits_words() -> None:
    said: dict[int, bytes] = {1: b"", 2: b""}
    clock = Clock()

    def output(stream: int, data: bytes) -> None:
        said[stream] += data

    clipped = Clipped(output, clock)
    clock.now = 0.5
    clipped(1, b"x" * (STREAM_BYTES_PER_S - 5))
    clipped(1, b"0123456789")
    clipped(1, b"more")
    clipped(2, b"the other stream has a limit of its own")
    words = b"\n[output clipped, log limit 200KiB/s reached]\n"
    assert said[1] == b"x" * (STREAM_BYTES_PER_S - 5) + b"01234" + words
    assert said[2] == b"the other stream has a limit of its own"
    clock.now = 1.5
    clipped(1, b"later")
    assert said[1].endswith(words + b"later"), "what is said at a lower pace goes on"


def test_no_stream_of_a_step_says_more_than_two_mebibytes() -> None:
    total = 0
    last = b""

    def output(stream: int, data: bytes) -> None:
        nonlocal total, last
        total, last = total + len(data), data

    clock = Clock()
    clipped = Clipped(output, clock)
    for _ in range(400):
        clock.now += 1
        clipped(1, b"y" * 100_000)
    words = b"\n[output clipped, log limit 2MiB reached]\n"
    assert total == STREAM_BYTES + len(words) and last.endswith(words)


def test_a_builds_log_has_a_bound_however_many_steps_it_has() -> None:
    limit = LogLimit()
    piece = b"z" * (1 << 20)
    total = sum(len(limit.passed(piece)) for _ in range(100))
    assert total == BUILD_LOG_BYTES + len(CLIPPED)

    async def body() -> None:
        log = StatusLog()
        for number in range(100):
            log.log(f"step{number}", 1, piece)
        log.close()
        assert sum(map(len, log.responses)) < BUILD_LOG_BYTES + (1 << 20)

    asyncio.run(body())


def test_who_makes_messages_waits_for_who_reads_them() -> None:
    async def body() -> None:
        outbox = Outbox()
        most = 0

        async def make() -> None:
            nonlocal most
            for _ in range(1000):
                outbox.send({"stream": "x" * 65536})
                most = max(most, outbox._bytes)
                await outbox.room()
            outbox.close()

        task = asyncio.create_task(make())
        await asyncio.sleep(0.01)
        assert not task.done(), "nobody has read"
        read = 0
        while (message := await outbox.get()) is not None:
            read += len(message["stream"])
        await task
        assert read == 1000 * 65536 and most < 2 * ROOM_BYTES

    asyncio.run(body())


def test_what_a_quiet_build_keeps_back_is_bounded_and_is_its_end() -> None:
    sent: list[Message] = []
    output = ClassicOutput(sent.append, quiet=True)
    for number in range(200):
        output.output(1, b"%06d" % number + b"w" * 65536)
    output.failed()
    assert sum(len(message["stream"]) for message in sent) <= HELD_BYTES
    assert sent[-1]["stream"].startswith("000199")


def test_histories_are_counted_pruned_and_bounded(tmp_path: Path) -> None:
    async def body() -> None:
        store = await Store.open(str(tmp_path / "db"))
        history = History(store, str(tmp_path / "history"))

        def add(ref: str, data: bytes) -> None:
            record = pb.BuildHistoryRecord(Ref=ref)
            record.CreatedAt.FromNanoseconds(time.time_ns())
            history.add(record, [history.write(data)])

        for number in range(3):
            add(f"b{number}", bytes([number]) * 1000)
        assert history.size_bytes() == 3000
        history.pin("b1", True)
        assert history.size_bytes() == 2000
        history.forget()
        assert history.size_bytes() == 0 and [one.Ref for one in history.all()] == ["b1"]
        assert len(list((tmp_path / "history").iterdir())) == 1
        big = KEPT_BYTES // 2 + 1
        for number in range(3):
            add(f"big{number}", bytes([65 + number]) * big)
        assert [one.Ref for one in history.all()] == ["b1", "big2"] and history.size_bytes() == big
        await store.close()

    asyncio.run(body())


@pytest.mark.parametrize("clients", [2])
def test_a_listener_that_does_not_read_gets_the_latest(tmp_path: Path, clients: int) -> None:
    async def body() -> None:
        store = await Store.open(str(tmp_path / "db"))
        history = History(store, str(tmp_path / "history"))
        readers = [history.listen(lambda _: True) for _ in range(clients)]
        waiting = [asyncio.ensure_future(anext(reader)) for reader in readers]
        await asyncio.sleep(0)
        for number in range(5000):
            history.announce(pb.STARTED, pb.BuildHistoryRecord(Ref=f"r{number}"))
        await asyncio.gather(*waiting)
        assert all(queue.qsize() <= 1024 for queue in history._listeners)
        await store.close()

    asyncio.run(body())
