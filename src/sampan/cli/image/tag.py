"""`sampan tag`."""

from __future__ import annotations

from sampan.cli.image.names import problem, split
from sampan.cli.registry.credentials import full_name
from sampan.cli.session import CommandError
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]"
ARGS = (2, 2)
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    if wrong := problem(args[1]):
        raise CommandError(f'Error parsing reference: "{args[1]}" is not a valid repository/tag: {wrong}')
    repository, tag = split(args[1])
    cli.engine.post(f"/images/{quoted(args[0])}/tag", repo=full_name(repository), tag=tag or "latest")
    return 0
