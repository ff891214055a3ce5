"""A scheduler that puts the clients of a service in an order of its own choice: after every await that suspends.

    result = interleaved(seed, lambda: clients())

Each task goes on, when what it awaited is there, only after a number of turns of the loop that a seeded random source
says; work for an executor is done on the loop's thread, at a turn that the source says as well. So what may happen
between an await and the next line does happen in some seed, and a seed that failed fails again.

Not here: what the clients do. Work that waits for the loop itself (a `Feed`) is given to a real thread, as it must be:
there, and in the store's flush, the order is the machine's.
"""

from __future__ import annotations

import asyncio
import functools
import random
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

from sampan.engine.archives.streams import Feed

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TURNS = (0, 0, 1, 2, 3, 5, 8, 13, 40)


class InterleavingLoop(asyncio.SelectorEventLoop):
    """An event loop whose tasks and whose executors' work go on after a random number of turns."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.set_task_factory(self._task)

    def _task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(_slowed(coro, self.random), loop=loop, **options)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Do the work here after some turns; in a real thread when it reads what the loop gives."""
        if any(isinstance(argument, Feed) for argument in args):
            return super().run_in_executor(executor, func, *args)
        done: asyncio.Future[T] = self.create_future()
        self._later(self.random.choice(TURNS), done, functools.partial(func, *args))
        return done

    def _later(self, turns: int, done: asyncio.Future[T], work: Callable[[], T]) -> None:
        if turns:
            self.call_soon(self._later, turns - 1, done, work)
            return
        try:
            result = work()
        except StopIteration as e:
            if not done.done():
                done.set_exception(RuntimeError(f"StopIteration from {work}: {e}"))
        except Exception as e:
            if not done.done():
                done.set_exception(e)
        else:
            if not done.done():
                done.set_result(result)


async def _slowed(coro: Coroutine[Any, Any, T], source: random.Random) -> T:
    """A coroutine that goes on late after each await."""
    return await _late(coro, source)


@types.coroutine
def _late(coro: Coroutine[Any, Any, T], source: random.Random) -> Generator[Any, Any, T]:
    send: Callable[[], Any] = functools.partial(coro.send, None)
    try:
        while True:
            try:
                awaited = send()
            except StopIteration as e:
                result: T = e.value
                return result
            try:
                value = yield awaited
                for _ in range(source.choice(TURNS)):
                    yield
            except BaseException as e:
                send = functools.partial(coro.throw, e)
            else:
                send = functools.partial(coro.send, value)
    finally:
        coro.close()


def interleaved(seed: int, main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` to its end in an order that `seed` decides."""

    async def whole() -> T:
        return await main()

    with asyncio.Runner(loop_factory=lambda: InterleavingLoop(seed)) as runner:
        return runner.run(whole())
