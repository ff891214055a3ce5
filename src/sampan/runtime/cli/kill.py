"""kill: send a signal to a container's init, or to all its processes."""

from __future__ import annotations

import signal

from sampan.runtime.__main__ import Invocation
from sampan.runtime.cli.create import load
from sampan.runtime.cli.output import CommandFailure
from sampan.runtime.failure import strerror

#: What ends the reference's init while it waits for `start`.
_ENDS_INIT = frozenset(
    (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGABRT,
        signal.SIGTERM,
        signal.SIGSTKFLT,
        signal.SIGSYS,
    )
)


def kill(call: Invocation) -> int:
    number = parse_signal(call.arguments[1] if len(call.arguments) > 1 else "SIGTERM") if _named(call) else 0
    entry = load(call)
    everyone = bool(call.flags.get("all"))
    status = entry.status()
    if status == "stopped" and not everyone:
        raise CommandFailure("container not running")
    if status == "created" and number in _ENDS_INIT:
        number = signal.SIGKILL  # the first process of a pid namespace ignores what it does not handle
    try:
        entry.container.signal(number, all=everyone)
    except ProcessLookupError:
        raise CommandFailure("container not running") from None
    except OSError as error:
        raise CommandFailure(f"unable to signal init: {strerror(error.errno or 0)}") from error
    return 0


def _named(call: Invocation) -> bool:
    """Load the container first: that it does not exist is reported before a signal that does not."""
    return load(call) is not None


def parse_signal(text: str) -> int:
    """Return a signal's number from "9", "KILL" or "SIGKILL". Raises: CommandFailure."""
    if text.lstrip("+-").isdecimal():
        return int(text)
    name = text.upper().removeprefix("SIG")
    if name.startswith("RTMIN+") and name[6:].isdecimal():
        return int(signal.SIGRTMIN) + int(name[6:])
    try:
        return int(signal.Signals["SIG" + name])
    except KeyError:
        raise CommandFailure(f'unknown signal "{text}"') from None
