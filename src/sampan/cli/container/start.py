"""`sampan start`."""

from __future__ import annotations

from sampan.cli.container.attached import Attached, check_terminal, detach_keys
from sampan.cli.container.run import exit_status
from sampan.cli.session import CommandError, describe
from sampan.client.engine import quoted
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTAINER [CONTAINER...]"
ARGS = (1, None)
FLAGS = """
  -a, --attach                  Attach STDOUT and STDERR, and hand signals on
      --checkpoint string       Restore from this checkpoint
      --checkpoint-dir string   Directory of the checkpoint
      --detach-keys string      Key sequence that detaches from the container
  -i, --interactive             Attach the container's STDIN
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    if opts.flag("attach") or opts.flag("interactive"):
        if len(args) > 1:
            raise CommandError("you cannot start and attach multiple containers at once")
        return _attached(cli, opts, args[0])
    query = {"checkpoint": opts.text("checkpoint") or None, "checkpoint-dir": opts.text("checkpoint-dir") or None}
    if query["checkpoint"] and len(args) > 1:
        raise CommandError("you cannot restore multiple containers at once")
    failed = []
    for name in args:
        try:
            cli.engine.call("POST", f"/containers/{quoted(name)}/start", query)
        except SampanError as e:
            cli.warn(describe(e))
            failed.append(name)
            continue
        if not query["checkpoint"]:
            cli.line(name)
    if failed:
        raise CommandError(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _attached(cli: Cli, opts: FlagValues, name: str) -> int:
    container = cli.engine.get(f"/containers/{quoted(name)}/json")
    resource, config = f"/containers/{container['Id']}", container["Config"]
    stdin = opts.flag("interactive") and config["OpenStdin"]
    check_terminal(config["Tty"], stdin)
    keys, sequence = detach_keys(cli, opts.text("detach-keys"))
    query = {"stream": True, "stdin": stdin, "stdout": True, "stderr": True, "detachKeys": keys or None}
    stream = cli.engine.hijack(f"{resource}/attach", query)
    auto_remove = container["HostConfig"]["AutoRemove"]
    waiting = cli.engine.open("POST", f"{resource}/wait", {"condition": "removed" if auto_remove else "next-exit"})
    with Attached(cli, resource, stream, terminal=config["Tty"], stdin=stdin, detach=sequence) as session:
        cli.engine.call("POST", f"{resource}/start", {"checkpoint": opts.text("checkpoint") or None})
        session.resize()
        if session.copy():
            return 0
    return exit_status(waiting)
