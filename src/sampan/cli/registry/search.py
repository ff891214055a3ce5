"""`sampan search`."""

from __future__ import annotations

from sampan.cli import format as format_
from sampan.cli import units
from sampan.cli.listing import filters, print_list
from sampan.cli.registry import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] TERM"
ARGS = (1, 1)
FLAGS = """
  -f, --filter filter   Show only results that match these conditions
      --format string   Print with a Go template
      --limit int       Not more results than this
      --no-trunc        Do not cut anything short
"""
DESCRIPTION_COLUMNS = 45


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    wanted = filters(opts.many("filter"))
    if wanted and "is-automated" in wanted:
        cli.warn(
            'WARNING: the "is-automated" filter is deprecated, and searching for "is-automated=true" will not yield '
            "any "
            "results in future."
        )
    query = {"term": args[0], "limit": opts.number("limit") or None, "filters": wanted}
    response = cli.engine.open("GET", "/images/search", query, headers=credentials.header(cli.config, args[0]))
    rows: list[dict[str, Any]] = response.json()
    cli.engine.finish(response)
    for row in rows:
        row["no-trunc"], row["json"] = opts.flag("no-trunc"), opts.text("format") in ("json", "{{json .}}")
    columns = "Name Description StarCount IsOfficial"
    print_list(cli, FIELDS, rows, opts.text("format"), columns, kind="searchContext")
    return 0


def _description(row: dict[str, Any]) -> str:
    text: str = row["description"].replace("\n", " ").replace("\r", " ")
    return text if row["no-trunc"] else units.truncated(text, DESCRIPTION_COLUMNS)


def _official(row: dict[str, Any]) -> str:
    if row["json"]:
        return "true" if row["is_official"] else "false"
    return "[OK]" if row["is_official"] else ""


FIELDS: format_.Fields = {
    "Name": ("NAME", lambda r: r["name"]),
    "Description": ("DESCRIPTION", _description),
    "StarCount": ("STARS", lambda r: str(r["star_count"])),
    "IsOfficial": ("OFFICIAL", _official),
}
