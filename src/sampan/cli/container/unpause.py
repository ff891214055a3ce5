"""`sampan unpause`."""

from __future__ import annotations

from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

USAGE = "CONTAINER [CONTAINER...]"
ARGS = (1, None)
FLAGS = ""


def run(cli: Session, opts: Options, args: list[str]) -> int:
    return cli.for_each(args, lambda name: cli.engine.post(f"/containers/{quoted(name)}/unpause"))
