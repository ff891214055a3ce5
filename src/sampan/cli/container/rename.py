"""`sampan rename`."""

from __future__ import annotations

from sampan.cli.session import CommandError, describe
from sampan.client.engine import quoted
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "CONTAINER NEW_NAME"
ARGS = (2, 2)
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    old, new = (name.strip() for name in args)
    if not old or not new:
        raise CommandError("Error: Neither old nor new names may be empty")
    try:
        cli.engine.post(f"/containers/{quoted(old)}/rename", name=new)
    except SampanError as e:
        raise CommandError(f"{describe(e)}\nError: failed to rename container named {old}") from e
    return 0
