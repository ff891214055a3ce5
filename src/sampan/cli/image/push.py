"""`sampan push`."""

from __future__ import annotations

import os
import sys

from sampan.cli import progress
from sampan.cli.image.names import check, split
from sampan.cli.platforms import platform_json
from sampan.cli.registry import credentials
from sampan.cli.session import CommandError
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] NAME[:TAG]"
ARGS = (1, 1)
FLAGS = """
  -a, --all-tags                Push every tag of the image
      --disable-content-trust   Skip signing (default true)
      --platform string         Push only this platform, as an image of a single platform
                                'os[/arch[/variant]]': the platform (eg. linux/amd64)
  -q, --quiet                   Only print the name at the end
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    check(args[0])
    repository, tag = split(args[0])
    everything = opts.flag("all-tags")
    if everything and tag:
        raise CommandError("tag can't be used with --all-tags/-a")
    if not everything and not tag:
        tag = "latest"
        if not opts.flag("quiet"):
            cli.line("Using default tag: latest")
    name = credentials.full_name(repository)
    response = cli.engine.open(
        "POST",
        f"/images/{quoted(name)}/push",
        {"tag": tag or None, "platform": platform_json(opts.text("platform"))},
        {},
        headers=credentials.header(cli.config, repository),
    )
    try:
        progress.show(response, None if opts.flag("quiet") else sys.stdout, terminal=os.isatty(1))
    except progress.ProgressError as e:
        raise CommandError(e.message) from e
    if opts.flag("quiet"):
        cli.line(f"{name}:{tag}" if tag else name)
    return 0
