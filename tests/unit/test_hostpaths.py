"""Looks at the host's paths: in threads, few of them, and never waited for without end."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from sampan.engine.hostpaths import LEFT, HostPaths
from sampan.errors import Unavailable


def fail() -> None:
    raise FileNotFoundError("/nowhere")


@pytest.mark.asyncio
async def test_a_look_is_done_in_another_thread_and_its_error_is_the_callers() -> None:
    looks = HostPaths()
    assert await looks.run("/x", threading.get_ident) != threading.get_ident()
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        await looks.run("/nowhere", fail)
    looks.close()


@pytest.mark.asyncio
async def test_what_does_not_answer_costs_its_own_request_only() -> None:
    looks = HostPaths(threads=2, patience_s=0.05)
    answers = threading.Event()
    with pytest.raises(Unavailable, match="cannot look at /nfs: its file system does not answer"):
        await looks.run("/nfs", answers.wait)
    assert await looks.run("/x", lambda: 1) == 1
    with pytest.raises(Unavailable, match="/nfs"):
        await looks.run("/nfs", answers.wait)
    with pytest.raises(Unavailable, match="/x"):  # every thread hangs
        await looks.run("/x", lambda: 2)
    answers.set()
    looks.close()


@pytest.mark.asyncio
async def test_there_are_never_more_threads_than_allowed() -> None:
    looks = HostPaths(threads=2)
    together = threading.Barrier(2)
    before = threading.active_count()
    await asyncio.gather(*(looks.run("/x", lambda: together.wait(10)) for _ in range(6)))
    assert threading.active_count() - before <= 2
    looks.close()


@pytest.mark.asyncio
async def test_a_timeout_of_the_look_itself_is_passed_on() -> None:
    def late() -> None:
        raise TimeoutError("of the file system")

    looks = HostPaths()
    with pytest.raises(TimeoutError, match="of the file system"):
        await looks.run("/x", late)
    looks.close()


@pytest.mark.asyncio
async def test_what_is_found_too_late_is_dropped() -> None:
    looks = HostPaths(patience_s=0.02)
    answers, dropped = threading.Event(), threading.Event()
    found: list[bool] = []

    def drop(result: bool) -> None:
        found.append(result)
        dropped.set()

    with pytest.raises(Unavailable):
        await looks.run("/nfs", answers.wait, drop)
    answers.set()
    assert dropped.wait(10) and found == [True]
    assert await looks.run("/x", lambda: False, drop) is False and found == [True]
    with pytest.raises(FileNotFoundError):
        await looks.run("/nowhere", fail)
    looks.close()


@pytest.mark.asyncio
async def test_what_is_found_for_a_caller_that_has_gone_is_dropped() -> None:
    looks = HostPaths()
    answers, dropped = threading.Event(), threading.Event()
    request = asyncio.create_task(looks.run("/x", answers.wait, lambda _: dropped.set()))
    await asyncio.sleep(0.01)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    answers.set()
    assert dropped.wait(10)
    looks.close()


@pytest.mark.asyncio
async def test_who_asks_again_takes_no_more_threads() -> None:
    looks, go = HostPaths(threads=4, patience_s=0.02), threading.Event()
    for _ in range(LEFT):
        with pytest.raises(Unavailable):
            await looks.run("/dead", go.wait)
    with pytest.raises(Unavailable, match="/dead: its file system does not answer"):
        await looks.run("/dead", lambda: pytest.fail("looked at"))
    assert await looks.run("/alive", lambda: 5) == 5
    go.set()
    await asyncio.wait_for(_until_it_answers(looks), 10)
    looks.close()


async def _until_it_answers(looks: HostPaths) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            await looks.run("/dead", lambda: 1)
            return
        await asyncio.sleep(0)
