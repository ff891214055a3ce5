"""`sampan attach`."""

from __future__ import annotations

from sampan.cli.container.attached import Attached, check_terminal, detach_keys
from sampan.cli.container.run import exit_status
from sampan.cli.session import CommandError
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTAINER"
ARGS = (1, 1)
FLAGS = """
      --detach-keys string   Key sequence that detaches from the container
      --no-stdin             Do not attach STDIN
      --sig-proxy            Hand all signals on to the process (default true)
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    resource = f"/containers/{quoted(args[0])}"
    container = cli.engine.get(f"{resource}/json")
    state, config = container["State"], container["Config"]
    if not state["Running"]:
        raise CommandError("You cannot attach to a stopped container, start it first")
    if state["Paused"]:
        raise CommandError("You cannot attach to a paused container, unpause it first")
    if state["Restarting"]:
        raise CommandError("You cannot attach to a restarting container, wait until it is running")
    stdin = not opts.flag("no-stdin") and config["OpenStdin"]
    check_terminal(config["Tty"], stdin)
    keys, sequence = detach_keys(cli, opts.text("detach-keys"))
    waiting = cli.engine.open("POST", f"{resource}/wait")
    query = {"stream": True, "stdin": stdin, "stdout": True, "stderr": True, "detachKeys": keys or None}
    stream = cli.engine.hijack(f"{resource}/attach", query)
    session = Attached(
        cli, resource, stream, terminal=config["Tty"], stdin=stdin, detach=sequence, sig_proxy=opts.flag("sig-proxy")
    )
    with session:
        session.redraw()
        detached = session.copy()
    if detached:
        cli.warn("read escape sequence")
        return 1
    return exit_status(waiting)
