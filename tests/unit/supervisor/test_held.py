"""The name service's sockets in the supervisor's hands: taken again, also when the supervisor is late or hangs."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from sampan.supervisor.names.held import Holder, Holding

MANY, WITHIN_S = 60, 30  # a second for each would be too long


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, supervisor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, supervisor:
        yield ours, supervisor


def sockets() -> tuple[socket.socket, socket.socket]:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def inode(held: socket.socket) -> int:
    return os.fstat(held.fileno()).st_ino


def test_a_supervisor_that_hangs_is_waited_for_once(pair: tuple[socket.socket, socket.socket]) -> None:
    holding = Holding(pair[0])
    begun = time.monotonic()
    assert [holding.take(f"sandbox{n}") for n in range(MANY)] == [None] * MANY
    assert time.monotonic() - begun < WITHIN_S


def test_a_late_answer_is_for_nobody_else(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, supervisor = pair
    holding, holder = Holding(ours), Holder()
    kept = {id: sockets() for id in ("one", "two")}
    for id, both in kept.items():
        holding.keep(id, *both)
        holder.handle(supervisor, lambda: None)
    assert holding.take("one") is None, "the supervisor hangs"
    before = len(os.listdir("/proc/self/fd"))
    holder.handle(supervisor, lambda: None)
    answering = threading.Thread(target=holder.handle, args=(supervisor, lambda: None))
    answering.start()
    taken = holding.take("two")
    answering.join()
    assert taken is not None and list(map(inode, taken)) == list(map(inode, kept["two"]))
    assert len(os.listdir("/proc/self/fd")) == before + 2, "what came late is closed"
    for one in (*taken, *(one for both in kept.values() for one in both)):
        one.close()
    holder.close()
