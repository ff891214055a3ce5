"""`sampan import`."""

from __future__ import annotations

import os
import sys

from sampan.cli import progress
from sampan.cli.image.load import opened, pieces
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]"
ARGS = (1, None)
FLAGS = """
  -c, --change list       Apply a Dockerfile instruction to the new image
  -m, --message string    Commit message of the new image
      --platform string   Platform of the new image
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    source = args[0]
    remote = source.startswith(("http://", "https://"))
    body = None
    if not remote:
        body = pieces(0 if source == "-" else opened(source))
    query = {
        "fromSrc": source if remote else "-",
        "repo": args[1] if len(args) > 1 else None,
        "message": opts.text("message") or None,
        "changes": opts.many("change"),
        "platform": opts.text("platform").lower() or None,
    }
    response = cli.engine.open("POST", "/images/create", query, headers=[("Content-Type", "text/plain")], raw=body)
    try:
        progress.show(response, sys.stdout, terminal=os.isatty(1))
    except progress.ProgressError as e:
        raise CommandError(e.message) from e
    return 0
