"""`sampan system fsck`: ours, not Docker's."""

from __future__ import annotations

from sampan.cli import format as format_
from sampan.cli import units
from sampan.cli.listing import FORMAT_HELP, print_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = f"""
      --format string   {FORMAT_HELP}
      --repair          Remove what nothing refers to
      --verify          Read every layer and compare it with its digest
"""

FIELDS: format_.Fields = {
    "Kind": ("KIND", lambda f: f["Kind"]),
    "ID": ("ID", lambda f: f["ID"]),
    "Problem": ("PROBLEM", lambda f: f["Problem"]),
    "Size": ("SIZE", lambda f: units.human_size(f["SizeBytes"])),
    "Path": ("PATH", lambda f: f["Path"]),
    "State": ("STATE", lambda f: "repaired" if f["Repaired"] else "repairable" if f["Repairable"] else "yours to mend"),
    "Remedy": ("REMEDY", lambda f: f["Remedy"]),
}


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    """Return 0: nothing was found, or all of it is repaired; 1: something is left."""
    asked = {name: "1" if opts.flag(name) else "0" for name in ("repair", "verify")}
    answer = cli.engine.post("/system/fsck", **asked)
    found = answer["Findings"]
    if not found and not opts.text("format"):
        cli.line("No problems found.")
        return 0
    print_list(cli, FIELDS, found, opts.text("format"), "Kind ID Problem Size State Remedy", kind="findingContext")
    return 0 if all(f["Repaired"] for f in found) else 1
