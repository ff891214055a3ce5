"""Signals as clients write them: `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`.

Source: signal(7); Docker accepts the same names and any number but 0.
"""

from __future__ import annotations

import signal

from sampan.errors import InvalidArgument

NUMBERS: dict[str, int] = {s.name.removeprefix("SIG"): s.value for s in signal.Signals}
NUMBERS |= {"CLD": signal.SIGCHLD, "POLL": signal.SIGIO, "IOT": signal.SIGABRT, "STKFLT": 16, "UNUSED": 31}
NUMBERS |= {f"RTMIN+{n}": signal.SIGRTMIN + n for n in range(1, 16)}
NUMBERS |= {f"RTMAX-{n}": signal.SIGRTMAX - n for n in range(1, 15)}


def parse(text: str) -> int:
    """Return the signal's number. Raises: InvalidArgument `invalid signal: …`."""
    if text.isascii() and text.isdecimal():
        number = int(text)
        if number == 0:
            raise InvalidArgument(f"invalid signal: {text}")
        return number
    found = NUMBERS.get(text.upper().removeprefix("SIG"))
    if found is None:
        raise InvalidArgument(f"invalid signal: {text}")
    return int(found)
