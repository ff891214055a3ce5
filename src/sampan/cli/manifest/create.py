"""`sampan manifest create`."""

from __future__ import annotations

from sampan.cli.manifest import lists
from sampan.cli.manifest.lists import Lists
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "MANIFEST_LIST MANIFEST [MANIFEST...]"
ARGS = (2, None)
FLAGS = """
  -a, --amend      Add to a list that exists
      --insecure   Speak to a registry over plain http or with any certificate
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    target = lists.named(args[0], f"error parsing name for manifest list {args[0]}")
    mine = Lists(cli)
    if mine.all(target) and not opts.flag("amend"):
        raise CommandError("refusing to amend an existing manifest list with no --amend flag")
    for text in args[1:]:
        name = lists.named(text, "")
        if mine.get(target, name) is not None:
            continue
        place, raw, media_type, digest = lists.fetch(cli, name, insecure=opts.flag("insecure"))
        if media_type in lists.LISTS:
            raise CommandError(f"{text} is a manifest list")
        mine.put(target, name, lists.image(place, name, str(name), raw, media_type, digest))
    cli.line(f"Created manifest list {target}")
    return 0
