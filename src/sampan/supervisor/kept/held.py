"""The sockets of a kept process, held by the supervisor: while the process is away, what comes waits in them.

    process                            supervisor
    ready                              it serves from now on
    keep ID…, with their sockets       holds them, in the place of older ones
    drop ID…                           closes them
    free NUMBER ID…                    closes them and answers `freed NUMBER`
    take ID…                           answers `taken` with those of them that it holds, and their sockets
    rest                               closes what this process has not asked for
    ended ID                           closes them, and deletes the file of the table
    another word                       answers with it, and what it stands for (which resolvers the host has)

Messages of one SOCK_SEQPACKET pair. The process waits for the supervisor in `take` alone, and not for long: what is not
held it makes again, and only what was waiting in the sockets is lost. The supervisor does here what such a process has
no right to do itself; whoever took one over could delete files of its table, and no others.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from sampan.linux.loop import READ, Loop
from sampan.supervisor.kept import files
from sampan.supervisor.kept.messages import MOST_DESCRIPTORS, receive

T = TypeVar("T")

TAKEN = b"taken"
_TAKE_S = 1.0
MOST_HELD = 65_536  # ids; what is not held is made again
_BYTES = 32768


Answer = Callable[[], Sequence[str]]
Said = Callable[[str, list[str]], None]
"""Hear what the supervisor says: a word, and what goes with it. An empty word: it has ended."""


class Holder:
    """The supervisor's side: what is held, over all the processes that come and go.

    directory: where the table's files are. each: so many sockets of an id. answers: by the word of the question.
    """

    def __init__(self, directory: str, each: int, answers: Mapping[str, Answer]) -> None:
        self._directory, self._each, self._answers = directory, each, answers
        self._held: dict[str, tuple[int, ...]] = {}
        self._asked: set[str] = set()

    def __len__(self) -> int:
        return len(self._held)

    def begin(self) -> None:
        """Forget what was asked for: another process begins."""
        self._asked.clear()

    def close(self) -> None:
        """Close everything."""
        for id in list(self._held):
            self._drop(id)

    def handle(self, channel: socket.socket, ready: Callable[[], None]) -> bool:
        """Do what one message of a process says; False when it has ended. The channel does not block."""
        try:
            message, fds = receive(channel, _BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        word, *ids = message.decode(errors="replace").split()[:_BYTES] or [""]
        if word == "keep" and len(fds) == self._each * len(ids) and len(self._held) + len(ids) <= MOST_HELD:
            for n, id in enumerate(ids):
                self._drop(id)
                self._held[id] = tuple(fds[n * self._each : (n + 1) * self._each])
            self._asked.update(ids)
            fds = []
        elif word == "drop":
            for id in ids:
                self._drop(id)
        elif word == "free" and ids:
            for id in ids[1:]:
                self._drop(id)
            with contextlib.suppress(OSError):
                channel.send(f"freed {ids[0]}".encode(), socket.MSG_DONTWAIT)
        elif word == "take":
            self._asked.update(ids)
            found = [id for id in ids if id in self._held]
            rights = [fd for id in found for fd in self._held[id]]
            with contextlib.suppress(OSError):
                socket.send_fds(channel, [" ".join(["taken", *found]).encode()], rights, socket.MSG_DONTWAIT)
        elif word == "rest":
            for unasked in [id for id in self._held if id not in self._asked]:
                self._drop(unasked)
        elif word == "ended" and ids:
            self._drop(ids[0])
            if ids[0].replace("-", "").isalnum():
                with contextlib.suppress(OSError):
                    os.unlink(f"{self._directory}/{files.file_name(ids[0])}")
        elif word == "ready":
            ready()
        elif word in self._answers:
            with contextlib.suppress(OSError):
                channel.send(" ".join([word, *self._answers[word]()]).encode(), socket.MSG_DONTWAIT)
        for fd in fds:
            os.close(fd)
        return bool(message)

    def _drop(self, id: str) -> None:
        for fd in self._held.pop(id, ()):
            os.close(fd)


class Holding:
    """The process's side. Without a supervisor nothing is held, and nothing fails. each: so many sockets of an id."""

    def __init__(self, channel: socket.socket, each: int) -> None:
        self._channel = channel
        self._each = each
        channel.settimeout(_TAKE_S)
        self._loop: Loop | None = None
        self._heard: Said = lambda word, values: None

    def watch(self, loop: Loop, heard: Said) -> None:
        """Take in what the supervisor says by itself, or to a question."""
        self._loop, self._heard = loop, heard
        loop.watch(self._channel.fileno(), READ, self._readable)

    def replace(self, channel: socket.socket) -> None:
        """Go on with another supervisor, which holds nothing yet."""
        loop, heard = self._loop, self._heard
        self._close()
        Holding.__init__(self, channel, self._each)
        if loop is not None:
            self.watch(loop, heard)

    def _close(self) -> None:
        if self._loop is not None and self._channel.fileno() >= 0:
            self._loop.forget(self._channel.fileno())
        self._channel.close()

    def _readable(self, _: int) -> None:
        try:
            message = self._channel.recv(_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:  # the supervisor has ended; the next one brings another channel
            self._close()
        self._said(message)

    def _said(self, message: bytes) -> None:
        word, *values = message.decode(errors="replace").split() or [""]
        self._heard(word, values)

    def ready(self) -> None:
        """Say that it serves."""
        self._say("ready")

    def keep(self, ids: Sequence[str], sockets: Sequence[socket.socket]) -> None:
        """Have sockets held, so many of each id, in this order."""
        for part, rights in zip(self._parts(ids), self._parts(sockets, self._each), strict=True):
            with contextlib.suppress(OSError):
                fds = [one.fileno() for one in rights]
                socket.send_fds(self._channel, [" ".join(["keep", *part]).encode()], fds, socket.MSG_DONTWAIT)

    def ended(self, id: str) -> None:
        """Have the sockets of an id closed and its file deleted."""
        self._say(f"ended {id}")

    def ask(self, word: str) -> None:
        """Ask what a word stands for; the answer is heard later."""
        self._say(word)

    def drop(self, id: str) -> None:
        """Have the sockets of an id closed."""
        self._say(f"drop {id}")

    def free(self, number: int, ids: Sequence[str]) -> bool:
        """Have sockets closed, and `freed NUMBER` answered on the channel; False when there is nobody to do it."""
        parts = list(self._parts(ids))
        try:
            for part in parts[:-1]:
                self._channel.send(" ".join(["drop", *part]).encode())
            self._channel.send(" ".join(["free", str(number), *parts[-1]]).encode())
        except OSError:
            return False
        return True

    def take(self, ids: Sequence[str]) -> dict[str, tuple[socket.socket, ...]]:
        """Return the sockets that are held, by their ids; each is then the caller's."""
        found: dict[str, tuple[socket.socket, ...]] = {}
        for part in self._parts(ids):
            self._say(" ".join(["take", *part]))
            try:
                answer, fds = receive(self._channel, _BYTES)
                while answer and not answer.startswith(TAKEN):
                    self._said(answer)
                    answer, fds = receive(self._channel, _BYTES)
            except OSError:
                return found
            taken = [socket.socket(fileno=fd) for fd in fds]
            for n, id in enumerate(answer.decode().split()[1:]):
                found[id] = tuple(taken[n * self._each : (n + 1) * self._each])
        return found

    def rest(self) -> None:
        """Have all closed that has not been taken."""
        self._say("rest")

    def _parts(self, things: Sequence[T], each: int = 1) -> Iterator[Sequence[T]]:
        size = MOST_DESCRIPTORS // self._each * each
        for start in range(0, len(things), size):
            yield things[start : start + size]

    def _say(self, message: str) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(message.encode(), socket.MSG_DONTWAIT)
