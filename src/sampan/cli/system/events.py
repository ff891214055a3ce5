"""`sampan events`."""

from __future__ import annotations

from sampan.cli.listing import INSPECT_HELP, filters
from sampan.cli.session import CommandError
from sampan.cli.when import api_time
from sampan.client import jsontext
from sampan.spec import times

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = f"""
  -f, --filter filter   Show only events that match these conditions
      --format string   {INSPECT_HELP}
      --since string    Show events since this time too
      --until string    Stop at this time
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    template = opts.text("format")
    response = cli.engine.open(
        "GET",
        "/events",
        {
            "since": api_time(opts.text("since")),
            "until": api_time(opts.text("until")),
            "filters": filters(opts.many("filter")),
        },
    )
    compiled = None
    if template and template != "json":
        compiled = _compiled(template)
    for event in jsontext.stream(response.chunks()):
        if compiled is not None:
            cli.line(compiled(event))
        elif template:
            cli.line(jsontext.html_escaped(jsontext.dumps(event)))
        else:
            cli.line(text(event))
        cli.flush()
    return 0


NAMES = {"Status": "status", "ID": "id", "From": "from", "Scope": "scope", "Time": "time", "TimeNano": "timeNano"}


def _compiled(template: str) -> Callable[[dict[str, Any]], str]:
    """Compile a template over events by the names of Go's fields. Raises: CommandError, now or with the first event."""
    from sampan.cli.functions import Unfit
    from sampan.cli.template import Template, TemplateError

    def missing(name: str, holder: dict[str, Any]) -> Any:
        if name not in ("Type", "Action", "Actor") and name not in holder:
            raise Unfit(f"can't evaluate field {name} in type *events.Message")
        return ""

    def render(event: dict[str, Any]) -> str:
        try:
            return compiled.render({**event, **{name: event.get(key, "") for name, key in NAMES.items()}})
        except TemplateError as e:
            raise CommandError(f"Error parsing format: {e}", 64) from e

    try:
        compiled = Template(template, missing=missing)
    except TemplateError as e:
        raise CommandError(f"Error parsing format: {e}", 64) from e
    return render


def text(event: dict[str, Any]) -> str:
    """Write `2026-01-02T03:04:05.000000006Z container start <id> (image=busybox, name=x)`."""
    nanoseconds = event.get("timeNano") or event["time"] * 10**9
    stamp = times.rfc3339_nano_fixed(nanoseconds, local=True)
    actor = event["Actor"]
    attributes = actor.get("Attributes") or {}
    listed = f" ({', '.join(f'{key}={attributes[key]}' for key in sorted(attributes))})" if attributes else ""
    return f"{stamp} {event['Type']} {event['Action']} {actor['ID']}{listed}"
