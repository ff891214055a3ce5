"""`sampan history`."""

from __future__ import annotations

from sampan.cli import format as format_
from sampan.cli import units
from sampan.cli.listing import FORMAT_HELP, print_list
from sampan.cli.platforms import platform_json
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] IMAGE"
ARGS = (1, 1)
FLAGS = f"""
      --format string     {FORMAT_HELP}
  -H, --human             Print sizes and dates for people (default true)
      --no-trunc          Do not cut anything short
      --platform string   Platform: "os[/arch[/variant]]" (e.g., "linux/amd64")
  -q, --quiet             Only show image IDs
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    platform = platform_json(opts.text("platform"))
    layers = cli.engine.get(f"/images/{quoted(args[0])}/history", platform=platform)
    for layer in layers:
        layer["human"], layer["no-trunc"] = opts.flag("human"), opts.flag("no-trunc")
    columns = f"ID {'CreatedSince' if opts.flag('human') else 'CreatedAt'} CreatedBy Size Comment"
    print_list(cli, FIELDS, layers, opts.text("format"), columns, quiet=opts.flag("quiet"), kind="image.historyContext")
    return 0


def _created(layer: dict[str, Any]) -> str:
    if layer["Created"] <= 0:
        return "N/A"
    return units.ago(layer["Created"]) if layer["human"] else units.rfc3339_local(layer["Created"])


def _created_by(layer: dict[str, Any]) -> str:
    text: str = layer["CreatedBy"].replace("\t", " ")
    return text if layer["no-trunc"] else units.truncated(text, 45)


FIELDS: format_.Fields = {
    "ID": ("IMAGE", lambda h: h["Id"] if h["no-trunc"] else units.short_id(h["Id"])),
    "CreatedSince": ("CREATED", _created),
    "CreatedAt": ("CREATED AT", lambda h: units.rfc3339_local(h["Created"])),
    "CreatedBy": ("CREATED BY", _created_by),
    "Size": ("SIZE", lambda h: units.human_size(h["Size"], 3) if h["human"] else str(h["Size"])),
    "Comment": ("COMMENT", lambda h: h["Comment"]),
}
