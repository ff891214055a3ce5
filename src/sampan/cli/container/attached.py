"""A container's streams on this terminal: what run, start -a, attach and exec -it share.

    with Attached(...) as a:  a.copy()        the copy runs until the stream ends or the user detaches

With a terminal the local side is raw, follows the window's size and watches for the detach keys; without one, signals
are handed on to the container (sig-proxy).
"""

from __future__ import annotations

import os

from sampan.cli import streams, tty
from sampan.cli.session import CommandError
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.session import Cli
    from sampan.client.engine import UpgradedStream


def detach_keys(cli: Cli, given: str) -> tuple[str, bytes]:
    """Return the sequence in use, as text for the engine and as bytes to watch for."""
    text = given or cli.config.text("detachKeys")
    try:
        return text, tty.parse_keys(text or tty.DEFAULT_DETACH)
    except ValueError as e:
        raise CommandError(f"invalid detach keys ({text}): {e}") from e


def check_terminal(terminal: bool, stdin: bool) -> None:
    if terminal and stdin and not os.isatty(0):
        raise CommandError("the input device is not a TTY")


class Attached:
    """Local streams bound to a hijacked one. `resource` is its API path: "/containers/x" or "/exec/y"."""

    def __init__(
        self,
        cli: Cli,
        resource: str,
        stream: UpgradedStream,
        *,
        terminal: bool,
        stdin: bool,
        stdout: bool = True,
        stderr: bool = True,
        detach: bytes = b"",
        sig_proxy: bool = True,
    ) -> None:
        self._cli = cli
        self._resource = resource
        self._stream = stream
        self._terminal = terminal
        self._stdin = 0 if stdin else None
        self._raw = tty.RawMode(0) if terminal and stdin and os.isatty(0) else None
        self._detach = tty.DetachKeys(detach) if self._raw and detach else None
        self._output = streams.Demultiplexer(raw=terminal, stdout=1 if stdout else None, stderr=2 if stderr else None)
        proxied = tty.FORWARDED if sig_proxy and not terminal else ()
        self._signals = tty.Signals([*proxied, tty.WINDOW_CHANGED] if terminal else proxied)

    def __enter__(self) -> Attached:
        self._cli.flush()
        self._signals.__enter__()
        if self._raw:
            self._raw.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._raw:
            self._raw.__exit__()
        self._signals.__exit__()
        self._stream.close()

    def resize(self, larger: int = 0) -> None:
        """Tell the engine the size of this terminal."""
        if not self._terminal:
            return
        rows, columns = tty.size()
        if rows or columns:
            try:
                self._cli.engine.post(f"{self._resource}/resize", h=rows + larger, w=columns + larger)
            except SampanError:
                pass  # it may not run yet, or not any more

    def redraw(self) -> None:
        """Make the program draw itself again: a size that changes, and changes back, is a SIGWINCH to it."""
        self.resize(larger=1)
        self.resize()

    def copy(self) -> bool:
        """Copy until the end; True when the user detached."""
        return streams.copy(
            self._stream,
            self._output,
            stdin=self._stdin,
            detach=self._detach,
            signals=self._signals,
            on_signal=self._on_signal,
        )

    def _on_signal(self, number: int) -> None:
        if number == tty.WINDOW_CHANGED:
            self.resize()
            return
        try:
            self._cli.engine.post(f"{self._resource}/kill", signal=tty.SIGNAL_NAMES[number])
        except SampanError:
            pass  # it ended meanwhile
