"""Stay with a process until it ends: pass signals on, carry its terminal, return its exit status.

One poll loop, no thread. With a terminal of ours the caller's is put in raw mode and given back at the end, whatever
happens.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import tty
from typing import TYPE_CHECKING

from sampan.linux import pty
from sampan.linux.process import pidfd_open
from sampan.runtime.cli.output import CommandFailure
from sampan.runtime.failure import strerror

if TYPE_CHECKING:
    import socket

_SOL_SOCKET = 1
_SCM_RIGHTS = 1
_NOT_PASSED_ON = frozenset(
    (signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE)
)
_BUFFER = 65536
_wakeup = (-1, -1)


def prepare() -> None:
    """Catch every signal that can be passed on, before the process starts."""
    global _wakeup
    _wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(_wakeup[1], warn_on_full_buffer=False)
    for number in signal.valid_signals() - {
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
    }:
        if number not in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
            signal.signal(number, _noted)


def _noted(number: int, frame: object) -> None:
    """Do nothing: the number is in the wake-up pipe."""


def own_terminal() -> int:
    """Open the caller's terminal, which must be there before a process is started that needs it.

    Raises: CommandFailure in runc's words when the caller has none.
    """
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise CommandFailure(f"open /dev/tty: {strerror(error.errno or 0)}") from error


def attend(pid: int, console_fd: int | None, tty_fd: int | None = None) -> int:
    """Wait for a child of ours; return its status, 128+n after signal n. `tty_fd`: of `own_terminal`, closed at
    the end.
    """
    terminal = Terminal(console_fd, tty_fd) if console_fd is not None and tty_fd is not None else None
    pidfd = pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(_wakeup[0], select.POLLIN)
    try:
        if terminal is not None:
            terminal.open(poll)
        while True:
            ready = dict(poll.poll())
            if _wakeup[0] in ready:
                _pass_on(pid, terminal)
            if terminal is not None:
                terminal.carry(ready, poll)
            if pidfd in ready:
                break
        _, status = os.waitpid(pid, 0)
        if terminal is not None:
            terminal.drain()
    finally:
        os.close(pidfd)
        if terminal is not None:
            terminal.close()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _pass_on(pid: int, terminal: Terminal | None) -> None:
    for number in os.read(_wakeup[0], 256):
        if number == signal.SIGWINCH and terminal is not None:
            terminal.resize()
        elif number not in _NOT_PASSED_ON:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass


class Terminal:
    """A master joined to our standard streams, while the caller's terminal is raw.

    Output is written to standard output, wherever that goes. The line ends are made where they are shown: the
    container's terminal leaves them alone (no ONLCR), the caller's still makes them (OPOST).

    Input that the container's terminal does not take waits here, one piece of it, and output goes on meanwhile: a
    program that is stopped by its own output would never read.
    """

    def __init__(self, master: int, ours: int) -> None:
        self.master = master
        self.ours = ours
        self.saved = termios.tcgetattr(ours)
        self._typed = b""

    def open(self, poll: select.poll) -> None:
        tty.setraw(self.ours)
        pty.change_output(self.ours, set_=termios.OPOST)
        self.resize()
        os.set_blocking(self.master, False)
        poll.register(0, select.POLLIN)
        poll.register(self.master, select.POLLIN)

    def resize(self) -> None:
        size = fcntl.ioctl(self.ours, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def carry(self, ready: dict[int, int], poll: select.poll) -> None:
        event = ready.get(self.master, 0)
        if event & ~select.POLLOUT and self._show() == 0:
            poll.unregister(self.master)
            self._typed = b""
            event = 0
        if event & select.POLLOUT and self._send_typed():
            poll.modify(self.master, select.POLLIN)
            poll.register(0, select.POLLIN)
        if 0 in ready:
            poll.unregister(0)
            self._typed = _typed()
            if self._typed and self._send_typed():
                poll.register(0, select.POLLIN)
            elif self._typed:
                try:
                    poll.modify(self.master, select.POLLIN | select.POLLOUT)
                except FileNotFoundError:  # it is not polled any more: the other side of the master has gone
                    self._typed = b""

    def _send_typed(self) -> bool:
        """Give the container what was typed; whether it has all of it."""
        try:
            while self._typed:
                self._typed = self._typed[os.write(self.master, self._typed) :]
        except BlockingIOError:
            return False
        except OSError:  # the other side of the master has gone
            self._typed = b""
        return True

    def _show(self) -> int | None:
        """Write what the container says; how much that was, 0 at the end, None when it says nothing now."""
        try:
            data = os.read(self.master, _BUFFER)
        except BlockingIOError:
            return None
        except OSError:  # EIO: the other side of the master has gone
            return 0
        left = data
        while left:
            left = left[os.write(1, left) :]
        return len(data)

    def drain(self) -> None:
        while self._show():
            pass

    def close(self) -> None:
        termios.tcsetattr(self.ours, termios.TCSADRAIN, self.saved)
        os.close(self.ours)


def _typed() -> bytes:
    try:
        return os.read(0, _BUFFER)
    except OSError:  # a terminal that went away reads as the end
        return b""


def dial(path: str) -> socket.socket:
    """Connect to the unix socket that is to get a descriptor. Raises: CommandFailure when nobody listens there."""
    import socket  # a tenth of the start-up time, and few callers want this

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_CLOEXEC)
        try:  # sun_path holds 108 bytes only
            connection.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        finally:
            os.close(directory)
    except OSError as error:
        connection.close()
        why = strerror(error.errno or 0) if error.errno else str(error)
        raise CommandFailure(f"dial unix {path}: connect: {why}") from error
    return connection


def dial_for_pidfd(path: str) -> socket.socket | None:
    """Connect to --pidfd-socket, when there is one. Raises: CommandFailure."""
    if not path:
        return None
    try:
        return dial(path)
    except CommandFailure as error:
        raise CommandFailure(f"failed to dial {path}: {error.message}") from error


def hand_out(fd: int | None, connection: socket.socket, message: bytes) -> None:
    """Send a terminal's master, or a pidfd, and close the connection. Raises: CommandFailure."""
    import array

    assert fd is not None
    try:
        with connection:
            connection.sendmsg([message], [(_SOL_SOCKET, _SCM_RIGHTS, array.array("i", [fd]))])
    except OSError as error:
        raise CommandFailure(f"sendmsg: {strerror(error.errno or 0)}") from error
