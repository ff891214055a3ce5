"""`sampan system prune`."""

from __future__ import annotations

from sampan.cli import pruning
from sampan.cli.session import CommandError
from sampan.errors import NotFound, NotImplemented_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = """
  -a, --all             Remove all unused images, not only untagged ones
      --filter filter   Remove only what matches (e.g. "label=<key>=<value>")
  -f, --force           Do not ask
      --volumes         Remove anonymous volumes too
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    wanted = opts.many("filter")
    everything, volumes = opts.flag("all"), opts.flag("volumes")
    if volumes and any(item.startswith("until=") for item in wanted):
        raise CommandError('ERROR: The "until" filter is not supported with "--volumes"')
    pruners: list[Callable[[], pruning.Pruned]] = [
        lambda: pruning.containers(cli, wanted),
        lambda: pruning.networks(cli, wanted),
    ]
    if volumes:
        pruners.append(lambda: pruning.volumes(cli, wanted))
    pruners.append(lambda: pruning.images(cli, wanted, all_=everything))
    pruners.append(lambda: _cache(cli, wanted, everything))
    return pruning.ask_and_prune(cli, opts, _question(wanted, everything, volumes), pruners)


def _cache(cli: Cli, wanted: list[str], everything: bool) -> pruning.Pruned:
    try:
        return pruning.build_cache(cli, wanted, all_=everything)
    except (NotFound, NotImplemented_):  # an engine without a builder has no cache to prune
        return 0, ""


def _question(wanted: list[str], everything: bool, volumes: bool) -> str:
    lines = ["  - all stopped containers", "  - all networks not used by at least one container"]
    if volumes:
        lines.append("  - all anonymous volumes not used by at least one container")
    lines += [f"  - {pruning.IMAGES[everything]}", "  - all build cache" if everything else "  - unused build cache"]
    text = "WARNING! This will remove:\n" + "\n".join(lines) + "\n"
    if wanted:
        text += "\n  Items to be pruned will be filtered with:\n" + "".join(f"  - {item}\n" for item in wanted)
    return f"{text}\n{pruning.SURE}"
