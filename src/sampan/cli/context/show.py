"""`sampan context show`."""

from __future__ import annotations

from sampan.cli import endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

USAGE = ""
ARGS = (0, 0)
FLAGS = ""


def run(cli: Session, opts: Options, args: list[str]) -> int:
    cli.line(endpoint.context_name(cli.options, cli.config))
    return 0
