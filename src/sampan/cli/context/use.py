"""`sampan context use`."""

from __future__ import annotations

import os

from sampan.cli.config import DEFAULT_CONTEXT
from sampan.cli.context import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "CONTEXT"
ARGS = (1, 1)
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    name = args[0]
    if name != DEFAULT_CONTEXT:
        store.check_name(name)
        store.load(cli.config.directory, name)
    store.use(cli.config, name)
    cli.line(name)
    cli.warn(f'Current context is now "{name}"')
    if name != DEFAULT_CONTEXT and os.environ.get("DOCKER_HOST"):
        cli.warn(
            f'Warning: DOCKER_HOST environment variable overrides the active context. To use "{name}", '
            "either set the global --context flag, or unset DOCKER_HOST environment variable."
        )
    return 0
