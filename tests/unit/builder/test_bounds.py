"""What a step or a client can fill has a bound: output, messages to a client that does not read, histories."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any, cast

import pytest

from sampan.engine.builder import sshagent
from sampan.engine.builder.buildkit.builds import ENDED, RUNNING, Builds
from sampan.engine.builder.buildkit.control import TUNNEL_BYTES, _Tunnel
from sampan.engine.builder.buildkit.history import KEPT_BYTES, History
from sampan.engine.builder.buildkit.protos import control_pb2 as pb
from sampan.engine.builder.buildkit.status import QUOTED_BYTES, WARNINGS, StatusLog
from sampan.engine.builder.classic.outbox import ROOM_BYTES, Outbox
from sampan.engine.builder.classic.output import HELD_BYTES, ClassicOutput, Message
from sampan.engine.builder.progress import BUILD_LOG_BYTES, CLIPPED, BuildWarning, LogLimit
from sampan.engine.builder.solver.clipping import STREAM_BYTES, STREAM_BYTES_PER_S, Clipped
from sampan.engine.builder.uploaded import UnconnectedSession
from sampan.engine.store import Store
from sampan.errors import Unavailable


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


def test_the_builds_that_run_and_the_logs_of_ended_ones_have_a_number() -> None:
    async def body() -> None:
        builds = Builds()
        for number in range(RUNNING):
            builds.begin(f"b{number}", "s")
        with pytest.raises(Unavailable, match="500 builds are running already"):
            builds.begin("more", "s")
        for build in builds.running():
            builds.end(build)
        assert builds.knows(f"b{RUNNING - 1}") and not builds.knows("b0")
        assert sum(builds.knows(f"b{number}") for number in range(RUNNING)) == ENDED

    asyncio.run(body())


def test_findings_that_each_bring_their_dockerfile_have_a_bound() -> None:
    async def body() -> None:
        log = StatusLog()
        source = b"from x\n" * 150_000
        for number in range(2 * WARNINGS):
            log.warning(BuildWarning(key="k", rule="r", message=f"m{number}", source=source))
        log.close()
        assert log.warnings == WARNINGS
        assert sum(map(len, log.responses)) < QUOTED_BYTES + 100 * WARNINGS

    asyncio.run(body())


def test_a_tunnel_that_nobody_empties_pauses_who_writes() -> None:
    class Slow:
        sent = 0

        def __init__(self) -> None:
            self.may = asyncio.Event()

        async def send_message(self, message: pb.BytesMessage) -> None:
            await self.may.wait()
            self.sent += len(message.data)

    class Writer(asyncio.Protocol):
        paused = False

        def pause_writing(self) -> None:
            self.paused = True

        def resume_writing(self) -> None:
            self.paused = False

    async def body() -> None:
        stream, writer = Slow(), Writer()
        tunnel = _Tunnel(cast(Any, stream), writer)
        written = 0
        while not writer.paused:
            tunnel.write(b"x" * 65536)
            written += 65536
        assert TUNNEL_BYTES < written <= TUNNEL_BYTES + 65536
        tunnel.close()
        stream.may.set()
        await tunnel.run()
        assert stream.sent == written and not writer.paused

    asyncio.run(body())


def test_an_agent_has_a_number_of_connections(tmp_path: Path) -> None:
    """A step makes them, and each is a stream of its client's session."""

    class Agent(UnconnectedSession):
        async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            ours, theirs = socket.socketpair()
            far.append(theirs)
            return await asyncio.open_connection(sock=ours)

    far: list[socket.socket] = []

    async def body() -> None:
        async with sshagent.listening(Agent("a"), "default", str(tmp_path), "agent") as path:
            opened = [await asyncio.open_unix_connection(path) for _ in range(sshagent.MOST + 8)]
            assert [await reader.read(1) for reader, _ in opened[sshagent.MOST :]] == [b""] * 8
            opened[0][1].write(b"x")
            await opened[0][1].drain()
            assert await asyncio.get_running_loop().run_in_executor(None, far[0].recv, 1) == b"x"
            assert len(far) == sshagent.MOST
            for _, writer in opened:
                writer.close()

    asyncio.run(body())
    for end in far:
        end.close()
