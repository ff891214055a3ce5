"""`sampan run`: create, attach, wait, start, copy, and leave with the container's exit code.

The order matters: attached before started, so that no byte is lost; waiting before started, so that no exit is missed.
"""

from __future__ import annotations

from sampan.cli import tty
from sampan.cli.container import create, options
from sampan.cli.container.attached import Attached, check_terminal, detach_keys
from sampan.cli.session import CommandError, describe
from sampan.client.engine import quoted
from sampan.client.http import MalformedResponse
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli
    from sampan.client.http import Response

USAGE = "[OPTIONS] IMAGE [COMMAND] [ARG...]"
ARGS = (1, None)
INTERSPERSED = False
PARSERS = options.PARSERS
FLAGS = (
    options.FLAGS
    + """
  -d, --detach                           Run in the background and print the container's ID
      --detach-keys string               Key sequence that detaches from the container
      --sig-proxy                        Hand signals on to the process (default true)
"""
)


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    if opts.flag("detach") and opts.many("attach"):
        raise CommandError("conflicting options: cannot specify both --attach and --detach")
    body = create.request(cli, opts, args, detach=opts.flag("detach"))
    if not opts.flag("detach"):
        check_terminal(body["Tty"], body["AttachStdin"])
    body["HostConfig"]["ConsoleSize"] = list(tty.size())
    keys, sequence = detach_keys(cli, opts.text("detach-keys"))
    try:
        identifier = create.create(cli, opts, body)
    except create.CreateRefused as e:
        raise _failure(cli, str(e)) from e
    resource = f"/containers/{quoted(identifier)}"
    if opts.flag("detach"):
        cli.line(identifier)  # also when it does not start: it exists
        _start(cli, resource, None)
        return 0
    wants = {name: body[f"Attach{name.title()}"] for name in ("stdin", "stdout", "stderr")}
    if not any(wants.values()):
        cli.line(identifier)
    try:
        stream = cli.engine.hijack(f"{resource}/attach", {"stream": True, **wants, "detachKeys": keys or None})
        condition = "removed" if opts.flag("rm") else "next-exit"
        waiting = cli.engine.open("POST", f"{resource}/wait", {"condition": condition})
    except SampanError as e:
        raise _failure(cli, describe(e)) from e
    session = Attached(
        cli, resource, stream, terminal=body["Tty"], detach=sequence, sig_proxy=opts.flag("sig-proxy"), **wants
    )
    with session:
        _start(cli, resource, waiting if opts.flag("rm") else None)
        session.resize()
        if session.copy():
            return 0
    return exit_status(waiting)


def _start(cli: Cli, resource: str, removed: Response | None) -> None:
    try:
        cli.engine.post(f"{resource}/start")
    except SampanError as e:
        if removed is not None:
            removed.read()  # with --rm the engine removes what did not start: leave when it is gone
        raise _failure(cli, describe(e)) from e


def _failure(cli: Cli, message: str) -> CommandError:
    hint = f"Run 'sampan {cli.path} --help' for more information"
    return CommandError(f"sampan: {message}\n\n{hint}", failure_code(message))


def failure_code(message: str) -> int:
    """Return 127 when the command was not found, 126 when it may not be run, else 125: docker's rule, which knows no
    other sign of it than the engine's words."""
    if any(words in message for words in ("executable file not found", "no such file or directory")):
        return 127
    if any(words in message for words in ("permission denied", "is a directory")):
        return 126
    return 125


def exit_status(waiting: Response) -> int:
    """Return the exit code out of the answer to wait."""
    try:
        answer: dict[str, Any] = waiting.json() or {}
    except (MalformedResponse, OSError) as e:
        raise CommandError(f"error waiting for container: {e}", 125) from e
    if error := (answer.get("Error") or {}).get("Message"):
        raise CommandError(f"Error waiting for container: {error}", 125)
    code: int = answer.get("StatusCode", 125)
    return code
