"""A kept process's sockets in the supervisor's hands: taken again, also when the supervisor is late or hangs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.linux.loop import Loop
from sampan.supervisor.kept.held import Holder, Holding

MANY, WITHIN_S = 600, 30  # a second for each, or for each message, would be too long


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, supervisor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, supervisor:
        yield ours, supervisor


def sockets() -> tuple[socket.socket, socket.socket]:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def test_a_supervisor_that_hangs_is_waited_for_once(pair: tuple[socket.socket, socket.socket]) -> None:
    begun = time.monotonic()
    assert Holding(pair[0], 2).take([f"sandbox{n}" for n in range(MANY)]) == {}
    assert time.monotonic() - begun < WITHIN_S


def test_what_comes_late_is_closed(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    ours, supervisor = pair
    holding, holder = Holding(ours, 2), Holder(str(tmp_path), 2, {})
    both = sockets()
    holding.keep(["one"], both)
    holder.handle(supervisor, lambda: None)
    assert holding.take(["one"]) == {}, "the supervisor hangs"
    before = len(os.listdir("/proc/self/fd"))
    holder.handle(supervisor, lambda: None)
    loop = Loop()
    holding.watch(loop, lambda word, values: loop.stop())
    loop.run()
    loop.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for one in both:
        one.close()
    holder.close()
