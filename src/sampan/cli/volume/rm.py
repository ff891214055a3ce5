"""`sampan volume rm`."""

from __future__ import annotations

from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

USAGE = "[OPTIONS] VOLUME [VOLUME...]"
ARGS = (1, None)
FLAGS = """
  -f, --force   Force the removal of one or more volumes
"""


def run(cli: Session, opts: Options, args: list[str]) -> int:
    force = opts.flag("force")
    return cli.for_each(args, lambda name: cli.engine.delete(f"/volumes/{quoted(name)}", force=force))
