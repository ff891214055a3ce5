"""`sampan load`."""

from __future__ import annotations

import os
import stat
import sys

from sampan.cli import progress
from sampan.cli.platforms import platform_json
from sampan.cli.session import CommandError
from sampan.errors import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = """
  -i, --input string      Read this tar archive instead of STDIN
      --platform string   Load only this platform: "os[/arch[/variant]]" (e.g., "linux/amd64")
  -q, --quiet             Do not show the progress
"""
READ_BYTES = 1 << 20


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    fd = 0
    if path := opts.text("input"):
        fd = opened(path)
    elif os.isatty(0):
        raise CommandError("requested load from stdin, but stdin is empty")
    quiet = opts.flag("quiet") or not os.isatty(1)
    archive = pieces(fd)
    if not quiet:
        archive = progress.sending(archive, "Sending archive", sys.stdout, size_bytes(fd))
    response = cli.engine.open(
        "POST",
        "/images/load",
        {"quiet": quiet, "platform": platform_json(opts.text("platform"))},
        headers=[("Content-Type", "application/x-tar")],
        raw=archive,
    )
    try:
        progress.show(response, sys.stdout, terminal=os.isatty(1))
    except progress.ProgressError as e:
        raise CommandError(e.message) from e
    return 0


def opened(path: str) -> int:
    """Open a file to read; yield its descriptor."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise CommandError(f"open {path}: {words(e)}") from e


def size_bytes(fd: int) -> int:
    """Return how long a file is, 0 for what has no length of its own."""
    status = os.fstat(fd)
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def pieces(fd: int) -> Iterator[bytes]:
    """Read a descriptor to its end."""
    while data := os.read(fd, READ_BYTES):
        yield data
