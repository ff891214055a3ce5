"""`sampan system df`."""

from __future__ import annotations

from sampan.cli import format as format_
from sampan.cli import units
from sampan.cli.container import ls as containers
from sampan.cli.image import ls as images
from sampan.cli.listing import FORMAT_HELP, print_list, templated
from sampan.cli.session import CommandError
from sampan.cli.volume import ls as volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = f"""
      --format string   {FORMAT_HELP}
  -v, --verbose         Show every object
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    usage = cli.engine.get("/system/df")
    if opts.flag("verbose"):
        if opts.text("format") not in ("", "json", "{{json .}}"):
            raise CommandError("verbose output takes no template but json")
        if opts.text("format"):
            return _verbose_json(cli, usage)
        return _verbose(cli, usage)
    rows = [_images(usage), _containers(usage), _volumes(usage), _cache(usage)]
    print_list(
        cli,
        FIELDS,
        rows,
        opts.text("format"),
        "Type TotalCount Active Size Reclaimable",
        kind="diskUsageImagesContext",
    )
    return 0


def _row(kind: str, total: int, active: int, size: int, reclaimable: int) -> dict[str, Any]:
    return {"Type": kind, "Total": total, "Active": active, "Size": size, "Reclaimable": reclaimable}


def _images(usage: dict[str, Any]) -> dict[str, Any]:
    rows, size = usage.get("Images") or [], usage.get("LayersSize") or 0
    used = sum(
        i["Size"] - i["SharedSize"] for i in rows if i["Containers"] and i["Size"] != -1 and i["SharedSize"] != -1
    )
    return _row("Images", len(rows), sum(1 for i in rows if i["Containers"] > 0), size, size - used)


def _containers(usage: dict[str, Any]) -> dict[str, Any]:
    rows = usage.get("Containers") or []
    active = [c for c in rows if c["State"] in ("running", "paused", "restarting")]
    size = sum(c.get("SizeRw") or 0 for c in rows)
    idle = sum(c.get("SizeRw") or 0 for c in rows if c not in active)
    return _row("Containers", len(rows), len(active), size, idle)


def _volumes(usage: dict[str, Any]) -> dict[str, Any]:
    rows = usage.get("Volumes") or []
    sized = [v["UsageData"] for v in rows if v.get("UsageData") and v["UsageData"]["Size"] != -1]
    idle = sum(u["Size"] for u in sized if u["RefCount"] == 0)
    active = sum(1 for v in rows if (v.get("UsageData") or {}).get("RefCount", 0) > 0)
    return _row("Local Volumes", len(rows), active, sum(u["Size"] for u in sized), idle)


def _cache(usage: dict[str, Any]) -> dict[str, Any]:
    rows = usage.get("BuildCache") or []
    size = sum(c["Size"] for c in rows if not c["Shared"])
    idle = sum(c["Size"] for c in rows if not c["Shared"] and not c["InUse"])
    return _row("Build Cache", len(rows), sum(1 for c in rows if c["InUse"]), size, idle)


def _reclaimable(row: dict[str, Any]) -> str:
    text = units.human_size(row["Reclaimable"])
    if row["Size"] > 0 and row["Type"] != "Build Cache":
        text += f" ({row['Reclaimable'] * 100 // row['Size']}%)"
    return text


FIELDS: format_.Fields = {
    "Type": ("TYPE", lambda r: r["Type"]),
    "TotalCount": ("TOTAL", lambda r: str(r["Total"])),
    "Active": ("ACTIVE", lambda r: str(r["Active"])),
    "Size": ("SIZE", lambda r: units.human_size(r["Size"])),
    "Reclaimable": ("RECLAIMABLE", _reclaimable),
}

IMAGES: format_.Fields = {
    **images.FIELDS,
    "SharedSize": ("SHARED SIZE", lambda i: units.human_size(i["SharedSize"])),
    "UniqueSize": ("UNIQUE SIZE", lambda i: units.human_size(i["Size"] - i["SharedSize"])),
}
CACHE: format_.Fields = {
    "ID": ("CACHE ID", lambda c: c["ID"][:12] + ("*" if c["InUse"] else "")),
    "CacheType": ("CACHE TYPE", lambda c: c["Type"]),
    "Size": ("SIZE", lambda c: units.human_size(c["Size"], 3)),
    "CreatedSince": ("CREATED", lambda c: units.ago_text(c["CreatedAt"])),
    "LastUsedSince": (
        "LAST USED",
        lambda c: units.ago_text(c["LastUsedAt"]) if c.get("LastUsedAt") else "",
    ),
    "UsageCount": ("USAGE", lambda c: str(c["UsageCount"])),
    "Shared": ("SHARED", lambda c: "true" if c["Shared"] else "false"),
}

DATA_ROOT = (
    ("Images", "Images"),
    ("Containers", "Containers"),
    ("  of it logs", "Logs"),
    ("Local Volumes", "Volumes"),
    ("Builds", "Builder"),
    ("Trash", "Trash"),
    ("Engine", "Engine"),
)


def _rows(usage: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for image in usage.get("Images") or () for row in images.named(image, False, False)]


def _verbose(cli: Cli, usage: dict[str, Any]) -> int:
    cli.out("Images space usage:\n\n")
    cli.out(
        format_.columns(IMAGES, _rows(usage), "Repository Tag ID CreatedSince Size SharedSize UniqueSize Containers")
    )
    cli.out("\nContainers space usage:\n\n")
    rows = usage.get("Containers") or []
    cli.out(format_.columns(containers.FIELDS, rows, "ID Image Command LocalVolumes Size RunningFor Status Names"))
    cli.out("\nLocal Volumes space usage:\n\n")
    cli.out(format_.columns(volumes.FIELDS, usage.get("Volumes") or [], "Name Links Size"))
    cache = usage.get("BuildCache") or []
    cli.out(f"\nBuild cache usage: {units.human_size(_cache(usage)['Size'])}\n\n")
    cli.out(format_.columns(CACHE, cache, "ID CacheType Size CreatedSince LastUsedSince UsageCount Shared"))
    if root := usage.get("DataRoot"):  # sampand tells what else lies there
        cli.out(f"\nData root: {root['Path']} takes {units.human_size(root['Total'])}\n\n")
        rows = [{"Type": kind, "Size": root[key]} for kind, key in DATA_ROOT]
        cli.out(format_.columns(FIELDS, rows, "Type Size"))
    return 0


def _verbose_json(cli: Cli, usage: dict[str, Any]) -> int:
    parts = []
    for name, fields, rows in (
        ("Images", IMAGES, _rows(usage)),
        ("Containers", containers.FIELDS, usage.get("Containers") or []),
        ("Volumes", volumes.FIELDS, usage.get("Volumes") or []),
        ("BuildCache", CACHE, usage.get("BuildCache") or []),
    ):
        lines = templated(fields, rows, "json", kind=name).splitlines()
        parts.append(f'"{name}":[{",".join(lines)}]')
    cli.line("{" + ",".join(parts) + "}")
    return 0
