"""Tasks that a service starts on its own: they are held, ended and reported by their owner."""

from __future__ import annotations

import asyncio
import logging

import pytest

from sampan.engine.background import Background, first_failure, until_first


def test_the_first_leaf_is_found_however_deep_and_an_error_is_itself() -> None:
    first, second = ValueError("first"), KeyError("second")
    assert first_failure(ExceptionGroup("", [ExceptionGroup("", [first]), second])) is first
    assert first_failure(BaseExceptionGroup("", [KeyboardInterrupt(), second])).__class__ is KeyboardInterrupt
    assert first_failure(second) is second


def test_the_first_to_end_ends_the_others_and_a_failure_is_raised() -> None:
    async def body() -> None:
        ended: list[str] = []

        async def forever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("forever")

        async def fail() -> None:
            raise ConnectionResetError("gone")

        await until_first(forever(), asyncio.sleep(0))
        assert ended == ["forever"]
        with pytest.raises(ConnectionResetError, match="gone"):
            await until_first(forever(), fail())
        assert ended == ["forever", "forever"]

    asyncio.run(body())


def test_a_failure_is_told_once_and_a_closed_owner_starts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async def fail() -> None:
            raise ValueError("broken")

        background = Background()
        with caplog.at_level(logging.ERROR):
            task = background.spawn(fail(), "a thing that cannot be done")
            assert task is not None
            await asyncio.wait([task])
        assert [record.getMessage() for record in caplog.records] == ["a thing that cannot be done: broken"]
        hanging = background.spawn(asyncio.Event().wait(), "a wait")
        assert hanging is not None
        background.cancel()
        assert background.spawn(fail(), "too late") is None
        await background.close()
        assert hanging.cancelled()

    asyncio.run(body())


def test_what_must_finish_is_waited_for_but_not_for_ever() -> None:
    async def body() -> None:
        done: list[int] = []

        async def finish() -> None:
            await asyncio.sleep(0)
            done.append(1)

        background = Background()
        background.spawn(finish(), "a removal", finish=True)
        stuck = background.spawn(asyncio.Event().wait(), "a removal that hangs", finish=True)
        await background.close(0.01)
        assert done == [1] and stuck is not None and stuck.cancelled()

    asyncio.run(body())
