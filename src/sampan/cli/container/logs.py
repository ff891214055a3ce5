"""`sampan logs`."""

from __future__ import annotations

from sampan.cli.streams import Demultiplexer
from sampan.cli.when import api_time
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTAINER"
ARGS = (1, 1)
FLAGS = """
      --details        Show the extra attributes that log options asked for
  -f, --follow         Go on with new output
      --since string   Show output since a time (e.g. "2013-01-02T13:23:37Z") or a duration ago (e.g. "42m")
  -n, --tail string    Number of lines to show from the end (default "all")
  -t, --timestamps     Show the time of each line
      --until string   Show output before a time (e.g. "2013-01-02T13:23:37Z") or a duration ago (e.g. "42m")
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    container = cli.engine.get(f"/containers/{quoted(args[0])}/json")
    response = cli.engine.open(
        "GET",
        f"/containers/{container['Id']}/logs",
        {
            "stdout": True,
            "stderr": True,
            "since": api_time(opts.text("since")),
            "until": api_time(opts.text("until")),
            "timestamps": opts.flag("timestamps"),
            "follow": opts.flag("follow"),
            "tail": opts.text("tail"),
            "details": opts.flag("details"),
        },
    )
    output = Demultiplexer(raw=container["Config"]["Tty"])
    for chunk in response.chunks():
        output.feed(chunk)
    return 0
