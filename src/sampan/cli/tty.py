"""The terminal and signals: raw mode, window size, detach keys, and signals as readable bytes.

`Signals` turns chosen signals into bytes on a pipe (one byte per signal, its number), so that a poll loop can wait
for them beside sockets; nothing runs inside a handler. `_signal` and `termios` are the C modules: importing `signal`
would load `enum` for 3 ms.

Source: termios(3), cfmakeraw; signal(7); Docker's detach keys (`ctrl-p,ctrl-q`).
"""

from __future__ import annotations

import os
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable
    from typing import Any
else:
    import _signal

SIGNAL_NAMES = {
    getattr(_signal, "SIG" + name): name
    for name in [
        "HUP",
        "INT",
        "QUIT",
        "ABRT",
        "USR1",
        "USR2",
        "ALRM",
        "TERM",
        "CONT",
        "TSTP",
        "TTIN",
        "TTOU",
        "WINCH",
        "IO",
        "PWR",
        "SYS",
    ]
}
FORWARDED = tuple(n for n, name in SIGNAL_NAMES.items() if name not in ("WINCH", "ABRT", "SYS"))
WINDOW_CHANGED: int = _signal.SIGWINCH
TERMINATIONS = 3
"""So many SIGINT and SIGTERM together end the client, as docker's."""
DEFAULT_DETACH = "ctrl-p,ctrl-q"


class RawMode:
    """Context manager: the terminal `fd` passes every byte through unchanged; restored on leaving."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> RawMode:
        self._saved = termios.tcgetattr(self.fd)
        mode: list[Any] = termios.tcgetattr(self.fd)
        mode[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self.fd, termios.TCSADRAIN, mode)
        return self

    def __exit__(self, *_: object) -> None:
        termios.tcsetattr(self.fd, termios.TCSADRAIN, self._saved)


class Signals:
    """Context manager: the given signals arrive as bytes on `fd` instead of their default effect. The third SIGINT or
    SIGTERM ends this process.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = list(numbers)

    def __enter__(self) -> Signals:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_fd = _signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._terminations = 0
        self._old = {n: _signal.signal(n, self._arrived) for n in self._numbers}
        return self

    def _arrived(self, number: int, _frame: object) -> None:
        """Leave at the third SIGINT or SIGTERM, whatever is being waited for: the engine or the program may hang."""
        self._terminations += number in (_signal.SIGINT, _signal.SIGTERM)
        if self._terminations == TERMINATIONS:
            os.write(2, b"\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n")
            os._exit(1)

    def take(self) -> bytes:
        """Return the numbers that have arrived, one byte each."""
        try:
            return os.read(self.fd, 64)
        except BlockingIOError:
            return b""

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            _signal.signal(number, handler)
        _signal.set_wakeup_fd(self._old_fd)
        os.close(self.fd)
        os.close(self._write)


def size(fd: int = 1) -> tuple[int, int]:
    """Return (rows, columns) of a terminal, (0, 0) when it is none."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return rows, columns


def parse_keys(text: str) -> bytes:
    """Turn `ctrl-p,ctrl-q` into the bytes they send. Raises: ValueError."""
    out = b""
    for key in text.split(","):
        if len(key) == 1:
            out += key.encode()
        elif len(key) == 6 and key.startswith("ctrl-") and (code := ord(key[5].upper()) & 0x7F) in range(0x40, 0x60):
            out += bytes([code - 0x40])
        else:
            raise ValueError(f"Unknown character: '{key}'")
    return out


class DetachKeys:
    """Watches typed bytes for the detach sequence. Bytes that may begin it are held back until it is clear."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return (bytes to send on, whether the sequence is complete)."""
        out = bytearray()
        for byte in data:
            self._held += bytes([byte])
            while self._held and not self._sequence.startswith(self._held):
                out.append(self._held[0])
                self._held = self._held[1:]
            if self._held == self._sequence:
                return bytes(out), True
        return bytes(out), False
