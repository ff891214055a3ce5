"""`sampan context ls`."""

from __future__ import annotations

from sampan.cli import endpoint
from sampan.cli import format as format_
from sampan.cli.config import DEFAULT_CONTEXT, ContextError
from sampan.cli.context import store
from sampan.cli.listing import FORMAT_HELP, print_list
from sampan.cli.units import truncated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = f"""
      --format string   {FORMAT_HELP}
  -q, --quiet           Only show names
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    current = endpoint.context_name(cli.options, cli.config)
    rows: list[dict[str, Any]] = []
    for name in [DEFAULT_CONTEXT, *store.names(cli.config.directory)]:
        row = {"Name": name, "Current": name == current, "Description": "", "Host": "", "Error": ""}
        try:
            described = endpoint.described(cli.options, cli.config, name)
            row["Description"] = described["Metadata"].get("Description", "")
            row["Host"] = (described["Endpoints"].get("docker") or {}).get("Host", "")
        except ContextError as e:
            row["Error"] = str(e)
        if name == DEFAULT_CONTEXT:
            row["Description"] = "Current DOCKER_HOST based configuration"
        rows.append(row)
    rows.sort(key=lambda row: str(row["Name"]))
    if opts.flag("quiet") and not opts.text("format"):
        cli.out("".join(f"{row['Name']}\n" for row in rows))
    elif opts.text("format") in ("", "table"):
        marked = [{**row, "Name": f"{row['Name']} *" if row["Current"] else row["Name"]} for row in rows]
        cli.out(format_.columns(FIELDS, marked, "Name Description DockerEndpoint Error"))
    else:
        print_list(cli, FIELDS, rows, opts.text("format"), "", kind="clientContextContext")
    import os

    if os.environ.get("DOCKER_HOST"):
        cli.warn(
            "Warning: DOCKER_HOST environment variable overrides the active context. "
            "To use a context, either set the global --context flag, or unset DOCKER_HOST environment variable."
        )
    return 0


FIELDS: format_.Fields = {
    "Name": ("NAME", lambda c: c["Name"]),
    "Current": ("", lambda c: c["Current"]),
    "Description": ("DESCRIPTION", lambda c: truncated(c["Description"], 60)),
    "DockerEndpoint": ("DOCKER ENDPOINT", lambda c: c["Host"]),
    "Error": ("ERROR", lambda c: truncated(c["Error"], 45)),
}
