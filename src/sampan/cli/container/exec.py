"""`sampan exec`."""

from __future__ import annotations

from sampan.cli import tty, values
from sampan.cli.container import environment
from sampan.cli.container.attached import Attached, check_terminal, detach_keys
from sampan.cli.session import CommandError
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTAINER COMMAND [ARG...]"
ARGS = (2, None)
INTERSPERSED = False
PARSERS = {"env": values.env}
FLAGS = """
  -d, --detach               Run the command in the background
      --detach-keys string   Key sequence that detaches from the container
  -e, --env list             Set environment variables
      --env-file list        Read environment variables from a file
  -i, --interactive          Keep STDIN open even if not attached
      --privileged           Give the command extended privileges
  -t, --tty                  Allocate a pseudo-TTY
  -u, --user string          User name or UID (format: "<name|uid>[:<group|gid>]")
  -w, --workdir string       Working directory inside the container
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    detach, terminal, stdin = opts.flag("detach"), opts.flag("tty"), opts.flag("interactive")
    try:
        env = environment.of(opts)
    except ValueError as e:
        raise CommandError(str(e)) from e
    keys, sequence = detach_keys(cli, opts.text("detach-keys"))
    container = f"/containers/{quoted(args[0])}"
    cli.engine.get(f"{container}/json")  # a container that does not exist is named before a missing terminal
    if not detach:
        check_terminal(terminal, stdin)
    request: dict[str, Any] = {
        "User": opts.text("user"),
        "Privileged": opts.flag("privileged"),
        "Tty": terminal,
        "Detach": False,
        "AttachStdin": stdin and not detach,
        "AttachStderr": not detach,
        "AttachStdout": not detach,
        "DetachKeys": keys,
        "Env": env or None,
        "WorkingDir": opts.text("workdir"),
        "Cmd": args[1:],
    }
    size = list(tty.size())
    if terminal and size != [0, 0]:
        request["ConsoleSize"] = size
    identifier = cli.engine.post(f"{container}/exec", request)["Id"]
    resource = f"/exec/{identifier}"
    start = {"Detach": detach, "Tty": terminal}
    if detach:
        cli.engine.post(f"{resource}/start", start)
        return 0
    if "ConsoleSize" in request:
        start["ConsoleSize"] = request["ConsoleSize"]
    stream = cli.engine.hijack(f"{resource}/start", body=start)
    session = Attached(cli, resource, stream, terminal=terminal, stdin=stdin, detach=sequence, sig_proxy=False)
    with session:
        detached = session.copy()
    if detached:
        cli.warn("read escape sequence")
        return 1
    code: int = cli.engine.get(f"{resource}/json")["ExitCode"] or 0
    return code
