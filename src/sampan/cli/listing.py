"""What all list commands share: `--filter` to the API's JSON, and the choice between table, template and ids."""

from __future__ import annotations

from sampan.cli import format as format_
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from sampan.cli.session import Cli

_KINDS = """Print with a Go template:
                        'table':            a table with headings (default)
                        'table TEMPLATE':   a table of these columns
                        'json':             one JSON object a line
                        'TEMPLATE':         whatever the template says"""
FORMAT_HELP = _KINDS
INSPECT_HELP = """Print with a Go template:
                        'json':             JSON
                        'TEMPLATE':         whatever the template says"""


def filters(items: Iterable[str]) -> dict[str, dict[str, bool]] | None:
    """Read filters: `["label=a", "label=b"]` → {"label": {"a": true, "b": true}}, None when there are none."""
    out: dict[str, dict[str, bool]] = {}
    for item in items:
        key, _, value = item.partition("=")
        out.setdefault(key.strip().lower(), {})[value.strip()] = True
    return out or None


Unfit = tuple[str, str]
"""How the words begin for a template that cannot be read, and for one that the rows do not fit."""
UNFIT: Unfit = ("template parsing error", "template parsing error")


def print_list(
    cli: Cli,
    fields: format_.Fields,
    rows: Sequence[Any],
    template: str,
    columns: str,
    *,
    quiet: bool = False,
    kind: str,
    quiet_field: str = "ID",
    raw: str = "",
    unfit: Unfit = UNFIT,
) -> None:
    """Print rows: `columns` names the default table's, `template` is what the user gave or the configuration holds.

    `raw` is what the format "raw" shows: "label=Field" words, one line each.
    """
    if template == "raw" and raw:
        pairs = [word.partition("=") for word in (raw.split()[:1] if quiet else raw.split())]
        template = "\\n".join(f"{label}: {{{{.{field}}}}}" for label, _, field in pairs) + ("" if quiet else "\\n")
    if quiet and not (template and template not in ("table", "json") and not template.startswith("table ")):
        cli.out("".join(f"{fields[quiet_field][1](row)}\n" for row in rows))
    elif template in ("", "table"):
        cli.out(format_.columns(fields, rows, columns))
    else:
        cli.out(templated(fields, rows, template, kind=kind, unfit=unfit))


def templated(
    fields: format_.Fields,
    rows: Iterable[Any],
    template: str,
    *,
    kind: str,
    unfit: Unfit = UNFIT,
) -> str:
    """Write rows by a template. Raises: CommandError for a bad one."""
    from sampan.cli.template import TemplateError

    try:
        return format_.show(fields, rows, template, kind=kind)
    except TemplateError as e:
        message = str(e)
        raise CommandError(f"{unfit['executing' in message]}: {message}") from e
