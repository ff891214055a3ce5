"""Prune of each kind of object: the call, and the text of what went. `system prune` runs them one after the other."""

from __future__ import annotations

from sampan.cli import units
from sampan.cli.listing import filters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.cli.session import Session


def report(cli: Session, freed: int, text: str) -> int:
    """What a prune command prints."""
    if text:
        cli.line(text)
    cli.line(f"Total reclaimed space: {units.human_size(freed)}")
    return 0


def _filters(cli: Session, wanted: list[str]) -> dict[str, dict[str, bool]] | None:
    """What the user asked for, and the configuration's pruneFilters."""
    configured = cli.config.data.get("pruneFilters") or []
    return filters([*wanted, *configured])


def containers(cli: Session, wanted: list[str]) -> tuple[int, str]:
    answer = cli.engine.post("/containers/prune", filters=_filters(cli, wanted))
    removed = answer.get("ContainersDeleted") or ()
    return answer.get("SpaceReclaimed") or 0, _listed("Deleted Containers:", removed)


def volumes(cli: Session, wanted: list[str]) -> tuple[int, str]:
    answer = cli.engine.post("/volumes/prune", filters=_filters(cli, wanted))
    return answer.get("SpaceReclaimed") or 0, _listed("Deleted Volumes:", answer.get("VolumesDeleted") or ())


def networks(cli: Session, wanted: list[str]) -> tuple[int, str]:
    answer = cli.engine.post("/networks/prune", filters=_filters(cli, wanted))
    return 0, _listed("Deleted Networks:", answer.get("NetworksDeleted") or ())


def images(cli: Session, wanted: list[str], *, all_: bool) -> tuple[int, str]:
    dangling = f"dangling={'false' if all_ else 'true'}"
    answer = cli.engine.post("/images/prune", filters=_filters(cli, [*wanted, dangling]))
    lines = []
    for item in answer.get("ImagesDeleted") or ():
        lines.append(f"untagged: {item['Untagged']}" if item.get("Untagged") else f"deleted: {item.get('Deleted', '')}")
    return answer.get("SpaceReclaimed") or 0, _listed("Deleted Images:", lines)


def build_cache(
    cli: Session, wanted: list[str], *, all_: bool, space: Mapping[str, object] | None = None
) -> tuple[int, str]:
    query = {"all": all_, "filters": _filters(cli, wanted), **(space or {})}
    answer = cli.engine.call("POST", "/build/prune", query)
    removed = answer.get("CachesDeleted") or ()
    return answer.get("SpaceReclaimed") or 0, _listed("Deleted build cache objects:", removed)


def _listed(title: str, lines: tuple[str, ...] | list[str]) -> str:
    return "\n".join([title, *lines, ""]) if lines else ""
