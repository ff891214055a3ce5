"""A scheduler that puts the clients of a service in an order of its own choice: after every await that suspends.

    result = interleaved(seed, lambda: clients())

Each task goes on, when what it awaited is there, only after a number of turns of the loop that a seeded random source
says; work for an executor is done on the loop's thread, at a turn that the source says as well. So what may happen
between an await and the next line does happen in some seed, and a seed that failed fails again.

    result = alone(seed, lambda: clients())

The same where nothing outside of the process takes part, no client and no registry: the time is the loop's own and goes
on by leaps, threads that only wait for the disk are done without, and what waits for ever is found (`Stuck`).

Not here: what the clients do. Work that waits for the loop itself (a `Feed`) is given to a real thread, as it must be:
there, and with `interleaved` in the store's flush, the order is the machine's.
"""

from __future__ import annotations

import asyncio
import functools
import random
import selectors
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from concurrent.futures import Executor, Future
from typing import Any, TypeVar, TypeVarTuple, Unpack

import pytest

from sampan.engine import paced, store
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

    def step(self) -> None:
        """Called at each await that suspends."""

    def _task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(_slowed(coro, self), loop=loop, **options)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Do the work here after some turns; in a real thread when it reads what the loop gives."""
        if any(isinstance(argument, Feed) for argument in args):
            return super().run_in_executor(executor, func, *args)
        done: asyncio.Future[T] = self.create_future()
        self.do_later(done, functools.partial(func, *args))
        return done

    def do_later(self, done: asyncio.Future[T] | Future[T], work: Callable[[], T]) -> None:
        """Do work after some turns, whether somebody still waits for it or not."""
        self._later(self.random.choice(TURNS), done, work)

    def _later(self, turns: int, done: asyncio.Future[T] | Future[T], work: Callable[[], T]) -> None:
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


async def _slowed(coro: Coroutine[Any, Any, T], loop: InterleavingLoop) -> T:
    """A coroutine that goes on late after each await."""
    return await _late(coro, loop)


@types.coroutine
def _late(coro: Coroutine[Any, Any, T], loop: InterleavingLoop) -> Generator[Any, Any, T]:
    send: Callable[[], Any] = functools.partial(coro.send, None)
    try:
        while True:
            try:
                awaited = send()
            except StopIteration as e:
                result: T = e.value
                return result
            loop.step()
            try:
                value = yield awaited
                for _ in range(loop.random.choice(TURNS)):
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


# ── nothing outside ─────────────────────────────────────────────────────────────────────────────────────────────────


class Stuck(AssertionError):
    """Tasks wait for what will never be, or do not come to an end."""


class _Leaping(selectors.DefaultSelector):
    """Waits for nobody: when nothing is ready, the time of the next timer has come."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0  # of the machine's clock
        self.threads = 0  # that really run, and will wake the loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.threads:
            return super().select(None if timeout is None else min(timeout, 0.05))
        if timeout is None:
            raise Stuck("nobody will ever wake these:\n" + _shown())
        self.ahead_s += timeout
        return []


class AloneLoop(InterleavingLoop):
    """A loop that nothing outside takes part in. `limit`: how many turns may come until `limit` is set anew."""

    def __init__(self, seed: int) -> None:
        self._leaping = _Leaping()
        asyncio.SelectorEventLoop.__init__(self, self._leaping)
        self.random = random.Random(seed)
        self.set_task_factory(self._task)
        self.limit = 100_000
        self.at_step: Callable[[], object] = lambda: None

    def step(self) -> None:
        self.at_step()

    def time(self) -> float:
        return super().time() + self._leaping.ahead_s

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        done = super().run_in_executor(executor, func, *args)
        if any(isinstance(argument, Feed) for argument in args):
            self._leaping.threads += 1
            done.add_done_callback(self._thread_ended)
        return done

    def _thread_ended(self, _: object) -> None:
        self._leaping.threads -= 1

    def _run_once(self) -> None:
        self.limit -= 1
        if self.limit < 0:
            raise Stuck("these do not come to an end:\n" + _shown())
        super()._run_once()  # type: ignore[misc]


def _shown() -> str:
    return "\n".join(f"{task.get_name()}: {_place(task.get_coro())}" for task in asyncio.all_tasks())


def _place(coro: Any) -> str:
    """Where a coroutine waits, the innermost place last."""
    places = []
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)
        if frame is not None:
            places.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
            coro = frame.f_locals.get("coro") if frame.f_code is _late.__wrapped__.__code__ else _awaited(coro)  # type: ignore[attr-defined]
        else:
            coro = None
    return " > ".join(places)


def _awaited(coro: Any) -> Any:
    return getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None)


def _submit(self: paced.PacedThreads, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
    """In place of `PacedThreads.submit`: the loop does the work itself, later."""
    if any(isinstance(argument, Feed) for argument in args):
        return _really_submit(self, fn, *args, **kwargs)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, AloneLoop)
    done: Future[T] = Future()
    loop.do_later(done, functools.partial(fn, *args, **kwargs))
    return done


_really_submit = paced.PacedThreads.submit


def _flush(_: object) -> Future[None]:
    """In place of the store's flush: the disk has it, some turns later."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, AloneLoop)
    done: Future[None] = Future()
    loop.do_later(done, lambda: None)
    return done


def alone(seed: int, main: Callable[[], Awaitable[T]], *, patches: Mapping[tuple[Any, str], Any] | None = None) -> T:
    """Run `main` to its end in an order that `seed` decides, without anything outside.

    patches: what is to be something else meanwhile, {(object, name): value}. Raises: Stuck.
    """

    async def whole() -> T:
        return await main()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(paced.PacedThreads, "submit", _submit)
        patched.setattr(store._Flusher, "flush", _flush)
        for (where, name), value in (patches or {}).items():
            patched.setattr(where, name, value)
        with asyncio.Runner(loop_factory=lambda: AloneLoop(seed)) as runner:
            return runner.run(whole())


async def cancelled_at(step: int, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` as a task that is cancelled at its `step`-th wait, from 0. Raises: CancelledError."""
    return await asyncio.get_running_loop().create_task(_cancelled(work, step))


async def _cancelled(work: Coroutine[Any, Any, T], step: int) -> T:
    return await _counted(work, step)


@types.coroutine
def _counted(coro: Coroutine[Any, Any, T], step: int) -> Generator[Any, Any, T]:
    send: Callable[[], Any] = functools.partial(coro.send, None)
    try:
        while True:
            try:
                awaited = send()
            except StopIteration as e:
                result: T = e.value
                return result
            if step == 0:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            step -= 1
            try:
                value = yield awaited
            except BaseException as e:
                send = functools.partial(coro.throw, e)
            else:
                send = functools.partial(coro.send, value)
    finally:
        coro.close()
