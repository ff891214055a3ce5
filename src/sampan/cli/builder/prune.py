"""`sampan builder prune`."""

from __future__ import annotations

from sampan.cli import pruning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = """
  -a, --all                    Remove all unused build cache, not only what no image shares
      --filter filter          Remove only what matches (e.g. "until=24h")
  -f, --force                  Do not ask
      --keep-storage bytes     Amount of disk that the cache may keep
      --max-used-space bytes   The same
      --min-free-space bytes   Amount of disk that shall be free afterwards
      --reserved-space bytes   Amount of disk that the cache keeps in any case
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    which = "all build cache" if opts.flag("all") else "all dangling build cache"
    space = {
        "reserved-space": opts.number("reserved-space") or opts.number("keep-storage") or None,
        "max-used-space": opts.number("max-used-space") or None,
        "min-free-space": opts.number("min-free-space") or None,
    }
    return pruning.ask_and_prune(
        cli,
        opts,
        f"WARNING! This will remove {which}. {pruning.SURE}",
        [lambda: pruning.build_cache(cli, opts.many("filter"), all_=opts.flag("all"), space=space)],
    )
