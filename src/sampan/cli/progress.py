"""Progress of pull, push, load and import: JSON messages to lines.

On a terminal each id keeps a line of its own that is rewritten in place; elsewhere one plain line per status, without
bars. An `errorDetail` message ends the stream with its text as the error.

Source: Docker's jsonmessage stream (status, id, progressDetail, stream, aux, errorDetail).
"""

from __future__ import annotations

import time

from sampan.cli import tty
from sampan.cli.units import human_size
from sampan.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TextIO

    from sampan.client.http import Response

BAR_COLUMNS = 50
REDRAW_S = 0.1
WIDE_COLUMNS = 110  # a narrower terminal shows no bar


class ProgressError(Exception):
    """The operation failed after its stream had begun; the message is the engine's."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def show(
    response: Response, out: TextIO | None, *, terminal: bool = False, on_aux: Callable[[Any], None] | None = None
) -> None:
    """Render the whole stream to `out` (None: only watch for errors). Raises: ProgressError."""
    lines: dict[str, int] = {}
    for message in jsontext.stream(response.chunks()):
        if (failure := message.get("errorDetail") or message.get("error")) is not None:
            detail = failure if isinstance(failure, dict) else {"message": failure}
            raise ProgressError(str(detail.get("message", "")), int(detail.get("code") or 1))
        if message.get("aux") is not None:
            if on_aux is not None:
                on_aux(message["aux"])
            continue
        if out is None:
            continue
        if terminal:
            _on_terminal(message, out, lines)
        elif not _bar(message):
            out.write(_text(message))
        out.flush()


def sending(pieces: Iterable[bytes], what: str, out: TextIO, total: int = 0) -> Iterator[bytes]:
    """Pass an upload on, and show on the terminal `out` how far it is: one line, gone when all is sent.

    `total`: bytes in all, 0 when it is not known.
    """
    sent, shown = 0, 0.0
    for piece in pieces:
        yield piece
        sent += len(piece)
        now = time.monotonic()
        if now - shown >= REDRAW_S:
            shown = now
            message = {"progressDetail": {"current": sent, "total": total}}
            out.write(f"\r\x1b[2K{what} {_bar(message, wide=tty.size(out.fileno())[1] > WIDE_COLUMNS)}")
            out.flush()
    if shown:
        out.write("\r\x1b[2K")
        out.flush()


def _on_terminal(message: dict[str, Any], out: TextIO, lines: dict[str, int]) -> None:
    key = str(message.get("id") or "")
    has_progress = bool(message.get("progressDetail")) or "progress" in message
    if not key or not (has_progress or key in lines or "progressDetail" in message):
        if not key:
            lines.clear()  # a line that is nobody's: what is above stays as it is
        out.write(_text(message))
        return
    if key not in lines:
        lines[key] = len(lines)
        out.write("\n")
    up = len(lines) - lines[key]
    line = _text(message, end="")
    if "progressDetail" in message:
        line += " " + _bar(message, wide=tty.size(out.fileno())[1] > WIDE_COLUMNS)
    out.write(f"\x1b[{up}A\x1b[2K\r{line}\r\x1b[{up}B")


def _text(message: dict[str, Any], end: str = "\n") -> str:
    if message.get("stream") is not None:
        return str(message["stream"])
    head = f"{message['id']}: " if message.get("id") else ""
    if message.get("from"):
        head += f"(from {message['from']}) "
    return f"{head}{message.get('status', '')}{end}"


def _bar(message: dict[str, Any], *, wide: bool = False) -> str:
    """Draw `[====>    ]  1.2MB/3.4MB` where there is room for it, or only the amounts."""
    detail = message.get("progressDetail") or {}
    current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
    if current <= 0 and total <= 0:
        return ""
    units = detail.get("units")
    amount = f"{current} {units}" if units else human_size(current)
    if total <= 0:
        return amount if units else f"{amount:>8}"
    done = min(current * BAR_COLUMNS // total, BAR_COLUMNS)
    bar = f"[{'=' * done}>{' ' * (BAR_COLUMNS - done)}] " if wide else ""
    whole = f"{total} {units}" if units else human_size(total)
    left = ""
    if current and detail.get("start") and current < total:
        spent = time.time() - float(detail["start"])
        left = f" {int(spent / current * (total - current))}s"
    return f"{bar}{amount:>8}/{whole}{left}"
