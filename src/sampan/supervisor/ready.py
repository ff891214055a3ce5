"""Wait until a descriptor can be read or written, on the running loop. One waiter for each descriptor and direction."""

from __future__ import annotations

import asyncio


async def readable(fd: int) -> None:
    """Return when there is something to read: of a pidfd, when its process has ended."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _tell, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def writable(fd: int) -> None:
    """Return when there is room to write."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, _tell, ready)
    try:
        await ready
    finally:
        loop.remove_writer(fd)


def _tell(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
