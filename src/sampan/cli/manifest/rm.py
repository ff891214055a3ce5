"""`sampan manifest rm`."""

from __future__ import annotations

from sampan.cli.manifest import lists
from sampan.cli.manifest.lists import Lists
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "MANIFEST_LIST [MANIFEST_LIST...]"
ARGS = (1, None)
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    mine = Lists(cli)
    missing = [text for text in args if not mine.remove(lists.named(text, ""))]
    if missing:
        raise CommandError("\n".join(f"No such manifest: {text}" for text in missing))
    return 0
