"""`sampan builder du`: what the build cache takes, record by record."""

from __future__ import annotations

from sampan.cli import format as format_
from sampan.cli import units
from sampan.cli.listing import FORMAT_HELP, templated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = f"""
      --format string   {FORMAT_HELP}
      --verbose         Show every record whole
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    rows = cli.engine.get("/system/df", type="build-cache").get("BuildCache") or []
    if opts.flag("verbose"):
        cli.out("".join(f"{_whole(row)}\n" for row in rows))
    elif template := opts.text("format"):
        cli.out(templated(FIELDS, rows, template, kind="buildCacheContext"))
        return 0
    elif rows:
        cli.out(format_.columns(FIELDS, rows, "ID Reclaimable Size LastAccessed"))
    cli.out(_totals(rows))
    return 0


def _totals(rows: list[dict[str, Any]]) -> str:
    shared = sum(row["Size"] for row in rows if row["Shared"])
    total = sum(row["Size"] for row in rows)
    idle = sum(row["Size"] for row in rows if not row["InUse"])
    lines = [("Shared:", shared), ("Private:", total - shared)] if shared else []
    lines += [("Reclaimable:", idle), ("Total:", total)]
    return "".join(f"{name}\t{units.human_size(size)}\n" for name, size in lines)


def _whole(row: dict[str, Any]) -> str:
    words = {
        "ID": row["ID"],
        "Parents": ", ".join(row.get("Parents") or ()),
        "Created at": row["CreatedAt"],
        "Reclaimable": _reclaimable(row),
        "Shared": str(row["Shared"]).lower(),
        "Size": units.human_size(row["Size"]),
        "Description": row["Description"],
        "Usage count": row["UsageCount"],
        "Last used": _used(row),
        "Type": row["Type"],
    }
    return "".join(f"{name + ':':<16}{value}\n" for name, value in words.items() if value != "")


def _reclaimable(row: dict[str, Any]) -> str:
    return str(not row["InUse"]).lower()


def _used(row: dict[str, Any]) -> str:
    return units.ago_text(row["LastUsedAt"]) if row.get("LastUsedAt") else ""


FIELDS: format_.Fields = {
    "ID": ("ID", lambda row: row["ID"]),
    "Reclaimable": ("RECLAIMABLE", _reclaimable),
    "Size": ("SIZE", lambda row: units.human_size(row["Size"]) + ("*" if row["Shared"] else "")),
    "LastAccessed": ("LAST ACCESSED", _used),
    "Type": ("TYPE", lambda row: row["Type"]),
    "Description": ("DESCRIPTION", lambda row: row["Description"]),
    "Shared": ("SHARED", lambda row: str(row["Shared"]).lower()),
    "UsageCount": ("USAGE COUNT", lambda row: str(row["UsageCount"])),
    "CreatedAt": ("CREATED AT", lambda row: row["CreatedAt"]),
}
