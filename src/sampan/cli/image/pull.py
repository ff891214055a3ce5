"""`sampan pull`, and the pull that `run` and `create` begin with."""

from __future__ import annotations

import os
import sys

from sampan.cli import progress
from sampan.cli.image.names import check, split
from sampan.cli.registry import credentials
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] NAME[:TAG|@DIGEST]"
ARGS = (1, 1)
FLAGS = """
  -a, --all-tags                Download every tag of the repository
      --disable-content-trust   Skip verification of image signatures (default true)
      --platform string         Platform of the image, where there are several
  -q, --quiet                   Only print the name at the end
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    name = args[0]
    check(name)
    everything = opts.flag("all-tags")
    if everything and (split(name)[1] or "@" in name):
        raise CommandError("tag can't be used with --all-tags/-a")
    if not everything and not split(name)[1] and "@" not in name and not opts.flag("quiet"):
        cli.line("Using default tag: latest")
    try:
        pull(
            cli,
            name,
            platform=opts.text("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM", ""),
            everything=everything,
            out=None if opts.flag("quiet") else sys.stdout,
            terminal=os.isatty(1),
        )
    except progress.ProgressError as e:
        raise CommandError(e.message) from e
    cli.line(credentials.full_name(name if everything or split(name)[1] or "@" in name else name + ":latest"))
    return 0


def pull(cli: Cli, name: str, *, platform: str, out: TextIO | None, terminal: bool, everything: bool = False) -> None:
    """Have the engine pull `name` and show how it goes. Raises: ProgressError."""
    repository, tag = split(name) if "@" not in name else (name.partition("@")[0], name.partition("@")[2])
    response = cli.engine.open(
        "POST",
        "/images/create",
        {
            "fromImage": credentials.full_name(repository),
            "tag": tag or (None if everything else "latest"),
            "platform": platform.lower() or None,
        },
        headers=credentials.header(cli.config, repository),
    )
    progress.show(response, out, terminal=terminal)
    cli.engine.finish(response)
