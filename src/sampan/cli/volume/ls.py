"""`sampan volume ls`."""

from __future__ import annotations

from sampan.cli import format as format_
from sampan.cli import units
from sampan.cli.listing import FORMAT_HELP, filters, print_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = f"""
      --cluster         Show only cluster volumes, with their columns
  -f, --filter filter   Show only volumes that match (e.g. "dangling=true")
      --format string   {FORMAT_HELP}
  -q, --quiet           Only show names
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    rows = cli.engine.get("/volumes", filters=filters(opts.many("filter")))["Volumes"] or []
    columns = "Driver Name"
    if opts.flag("cluster"):
        rows = [row for row in rows if row.get("ClusterVolume")]
        columns = "Name Group Driver Availability Status"
    rows.sort(key=lambda row: [int(p) if p.isdecimal() else p for p in _natural(row["Name"])])
    template = opts.text("format") or cli.config.text("volumesFormat")
    print_list(
        cli,
        FIELDS,
        rows,
        template,
        columns,
        quiet=opts.flag("quiet"),
        kind="volumeContext",
        quiet_field="Name",
        raw="name=Name driver=Driver",
    )
    return 0


def _natural(name: str) -> list[str]:
    """Cut into runs of digits and of others, so that v2 comes before v10; a leading empty text keeps types aligned."""
    parts = [""]
    for letter in name:
        if letter.isdecimal() == parts[-1].isdecimal() and parts[-1]:
            parts[-1] += letter
        elif letter.isdecimal() or len(parts) > 1 or parts[0]:
            parts.append(letter)
        else:
            parts[0] = letter
    return parts


def _cluster(volume: dict[str, Any]) -> dict[str, Any]:
    return (volume.get("ClusterVolume") or {}).get("Spec") or {}


def _size(volume: dict[str, Any]) -> str:
    usage = volume.get("UsageData")
    return units.human_size(usage["Size"]) if usage else "N/A"


FIELDS: format_.Fields = {
    "Name": ("VOLUME NAME", lambda v: v["Name"]),
    "Driver": ("DRIVER", lambda v: v["Driver"]),
    "Scope": ("SCOPE", lambda v: v["Scope"]),
    "Mountpoint": ("MOUNTPOINT", lambda v: v["Mountpoint"]),
    "Labels": ("LABELS", lambda v: ",".join(f"{k}={x}" for k, x in sorted((v.get("Labels") or {}).items()))),
    "Label": ("", lambda v, name="": (v.get("Labels") or {}).get(name, "")),
    "Links": ("LINKS", lambda v: str(v["UsageData"]["RefCount"]) if v.get("UsageData") else "N/A"),
    "Size": ("SIZE", _size),
    "Group": ("GROUP", lambda v: _cluster(v).get("Group", "N/A")),
    "Availability": ("AVAILABILITY", lambda v: _cluster(v).get("Availability", "N/A")),
    "Status": ("STATUS", lambda v: "N/A" if not v.get("ClusterVolume") else "pending creation"),
}
