"""The prune verbs: one question, one call for each kind of object, one report. `system prune` runs several.

A pruner makes the call and returns what it freed, in bytes, and the text about what went. Networks take no space.
"""

from __future__ import annotations

from sampan.cli import units
from sampan.cli.listing import filters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

    Pruned = tuple[int, str]

FLAGS = """
      --filter filter   Remove only what matches (e.g. "until=<timestamp>")
  -f, --force           Do not ask
"""
SURE = "Are you sure you want to continue?"
IMAGES = {False: "all dangling images", True: "all images without at least one container associated to them"}
"""Which images go, without and with `--all`."""


def ask_and_prune(cli: Cli, opts: FlagValues, question: str, pruners: Iterable[Callable[[], Pruned]]) -> int:
    """Do a prune command: ask, unless `--force` was given, prune, and report what was freed."""
    if not opts.flag("force") and not cli.confirm(question):
        return 0
    freed = 0
    for prune in pruners:
        size_bytes, text = prune()
        freed += size_bytes
        if text:
            cli.line(text)
    cli.line(f"Total reclaimed space: {units.human_size(freed)}")
    return 0


def warning(which: str) -> str:
    """Word the question about one kind of object."""
    return f"WARNING! This will remove {which}.\n{SURE}"


def _filters(cli: Cli, wanted: list[str]) -> dict[str, dict[str, bool]] | None:
    """Return what the user asked for, and the configuration's pruneFilters."""
    configured = cli.config.data.get("pruneFilters") or []
    return filters([*wanted, *configured])


def containers(cli: Cli, wanted: list[str]) -> Pruned:
    answer = cli.engine.post("/containers/prune", filters=_filters(cli, wanted))
    removed = answer.get("ContainersDeleted") or ()
    return answer.get("SpaceReclaimed") or 0, _listed("Deleted Containers:", removed)


def volumes(cli: Cli, wanted: list[str]) -> Pruned:
    answer = cli.engine.post("/volumes/prune", filters=_filters(cli, wanted))
    return answer.get("SpaceReclaimed") or 0, _listed("Deleted Volumes:", answer.get("VolumesDeleted") or ())


def networks(cli: Cli, wanted: list[str]) -> Pruned:
    answer = cli.engine.post("/networks/prune", filters=_filters(cli, wanted))
    return 0, _listed("Deleted Networks:", answer.get("NetworksDeleted") or ())


def images(cli: Cli, wanted: list[str], *, all_: bool) -> Pruned:
    dangling = f"dangling={'false' if all_ else 'true'}"
    answer = cli.engine.post("/images/prune", filters=_filters(cli, [*wanted, dangling]))
    lines = []
    for item in answer.get("ImagesDeleted") or ():
        lines.append(f"untagged: {item['Untagged']}" if item.get("Untagged") else f"deleted: {item.get('Deleted', '')}")
    return answer.get("SpaceReclaimed") or 0, _listed("Deleted Images:", lines)


def build_cache(cli: Cli, wanted: list[str], *, all_: bool, space: Mapping[str, object] | None = None) -> Pruned:
    query = {"all": all_, "filters": _filters(cli, wanted), **(space or {})}
    answer = cli.engine.call("POST", "/build/prune", query)
    removed = answer.get("CachesDeleted") or ()
    return answer.get("SpaceReclaimed") or 0, _listed("Deleted build cache objects:", removed)


def _listed(title: str, lines: tuple[str, ...] | list[str]) -> str:
    return "\n".join([title, *lines, ""]) if lines else ""
