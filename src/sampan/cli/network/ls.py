"""`sampan network ls`."""

from __future__ import annotations

from sampan.cli import format as format_
from sampan.cli import units
from sampan.cli.listing import FORMAT_HELP, filters, print_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = f"""
  -f, --filter filter   Show only networks that match (e.g. "driver=bridge")
      --format string   {FORMAT_HELP}
      --no-trunc        Do not cut anything short
  -q, --quiet           Only show IDs
"""
RAW_FORMAT = "network_id=ID name=Name driver=Driver scope=Scope"


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    rows = cli.engine.get("/networks", filters=filters(opts.many("filter")))
    rows.sort(key=lambda row: row["Name"])
    for row in rows:
        row["no-trunc"] = opts.flag("no-trunc")
    template = opts.text("format") or cli.config.text("networksFormat")
    print_list(
        cli,
        FIELDS,
        rows,
        template,
        "ID Name Driver Scope",
        quiet=opts.flag("quiet"),
        kind="network.networkContext",
        raw=RAW_FORMAT,
    )
    return 0


def _boolean(value: bool) -> str:
    return "true" if value else "false"


FIELDS: format_.Fields = {
    "ID": ("NETWORK ID", lambda n: n["Id"] if n["no-trunc"] else units.short_id(n["Id"])),
    "Name": ("NAME", lambda n: n["Name"]),
    "Driver": ("DRIVER", lambda n: n["Driver"]),
    "Scope": ("SCOPE", lambda n: n["Scope"]),
    "IPv4": ("IPV4", lambda n: _boolean(n.get("EnableIPv4", True))),
    "IPv6": ("IPV6", lambda n: _boolean(n["EnableIPv6"])),
    "Internal": ("INTERNAL", lambda n: _boolean(n["Internal"])),
    "Labels": ("LABELS", lambda n: ",".join(f"{k}={v}" for k, v in sorted((n.get("Labels") or {}).items()))),
    "Label": ("", lambda n, name="": (n.get("Labels") or {}).get(name, "")),
    "CreatedAt": ("CREATED AT", lambda n: created(n["Created"])),
}


def created(text: str) -> str:
    """Write an RFC 3339 time as Go prints a time: with its fraction, in the zone it came in."""
    date, _, clock = text.rstrip("Z").partition("T")
    return f"{date} {clock} +0000 UTC"
