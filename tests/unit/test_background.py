"""Owners of tasks: nothing outlives them, and no failure is lost."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from sampan.engine.background import Background, beside, first_failure, until_first
from sampan.engine.paced import PacedThreads


async def fail() -> None:
    raise ValueError("broken")


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.asyncio
async def test_what_runs_beside_a_block_ends_with_it() -> None:
    async with beside(forever(), "x") as task:
        assert not task.done()
    assert task.cancelled()


@pytest.mark.asyncio
async def test_a_failure_beside_a_block_is_raised_at_its_end() -> None:
    with pytest.raises(ValueError, match="broken"):
        async with beside(fail(), "x"):
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_failure_beside_a_block_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def block() -> None:
        async with beside(fail(), "the other way"):
            await asyncio.sleep(0)
            raise KeyError

    with pytest.raises(KeyError):
        await block()
    assert [record.getMessage() for record in caplog.records] == ["the other way: broken"]


@pytest.mark.asyncio
async def test_a_quiet_failure_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async with beside(fail(), "x", quiet=True):
        await asyncio.sleep(0)
    assert not caplog.records


@pytest.mark.asyncio
async def test_a_request_is_finished_when_its_client_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    done, go = [], asyncio.Event()

    async def work(then: BaseException | None) -> None:
        await go.wait()
        done.append(then)
        if then is not None:
            raise then

    requests = [asyncio.create_task(background.finish(work(e), "POST /x")) for e in (None, ValueError("late"))]
    await asyncio.sleep(0)
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    go.set()
    await background.close()
    assert len(done) == 2
    assert [record.getMessage() for record in caplog.records] == ["POST /x: late"]


@pytest.mark.asyncio
async def test_the_failure_of_a_request_is_its_clients_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    background = Background()
    with pytest.raises(ValueError, match="broken"):
        await background.finish(fail(), "x")
    await background.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.asyncio
async def test_what_does_not_end_in_time_is_cut() -> None:
    background = Background()
    background.spawn(forever(), "x", finish=True)
    await background.close(0.01)
    assert background.spawn(forever(), "x") is None


def test_the_first_leaf_is_found_however_deep_and_an_error_is_itself() -> None:
    first, second = ValueError("first"), KeyError("second")
    assert first_failure(ExceptionGroup("", [ExceptionGroup("", [first]), second])) is first
    assert first_failure(BaseExceptionGroup("", [KeyboardInterrupt(), second])).__class__ is KeyboardInterrupt
    assert first_failure(second) is second


@pytest.mark.asyncio
async def test_the_first_to_end_ends_the_others_and_a_failure_is_raised() -> None:
    ended: list[str] = []

    async def held() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("held")

    await until_first(held(), asyncio.sleep(0))
    assert ended == ["held"]
    with pytest.raises(ValueError, match="broken"):
        await until_first(held(), fail())
    assert ended == ["held", "held"]


@pytest.mark.asyncio
async def test_a_failure_is_told_once_and_a_cancelled_owner_starts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    task = background.spawn(fail(), "a thing that cannot be done")
    assert task is not None
    await asyncio.wait([task])
    assert [record.getMessage() for record in caplog.records] == ["a thing that cannot be done: broken"]
    hanging = background.spawn(forever(), "a wait")
    background.cancel()
    assert background.spawn(fail(), "too late") is None
    await background.close()
    assert hanging is not None and hanging.cancelled()


def test_paced_threads_are_bounded_and_what_stands_still_stops_only_its_own() -> None:
    """A third piece waits for one of two threads; another kind's work goes on; a failure is the caller's."""
    threads, others = PacedThreads(2, "paced"), PacedThreads(1, "other")
    go = threading.Event()
    begun = threading.Semaphore(0)

    def stand() -> int:
        begun.release()
        assert go.wait(10)
        return 5

    work = [threads.submit(stand) for _ in range(3)]
    assert begun.acquire(timeout=10) and begun.acquire(timeout=10)
    assert not begun.acquire(timeout=0.05), "the third has no thread"
    assert others.submit(lambda: "goes on").result(10) == "goes on"
    go.set()
    assert [one.result(10) for one in work] == [5, 5, 5]
    with pytest.raises(ZeroDivisionError):
        others.submit(lambda: 1 // 0).result(10)
