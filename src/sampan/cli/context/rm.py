"""`sampan context rm`."""

from __future__ import annotations

from sampan.cli import endpoint
from sampan.cli.config import DEFAULT_CONTEXT, ContextError
from sampan.cli.context import store
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "CONTEXT [CONTEXT...]"
ARGS = (1, None)
FLAGS = """
  -f, --force   Remove a context even when it is in use
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    failed = []
    current = endpoint.context_name(cli.options, cli.config)
    for name in args:
        try:
            _remove(cli, name, current, opts.flag("force"))
        except ContextError as e:
            failed.append(str(e))
        else:
            cli.line(name)
    if failed:
        raise CommandError("\n".join(failed))
    return 0


def _remove(cli: Cli, name: str, current: str, force: bool) -> None:
    if name == DEFAULT_CONTEXT:
        raise ContextError('context "default" cannot be removed')
    if name not in store.names(cli.config.directory):
        if force:
            return
        raise ContextError(f'context "{name}" does not exist')
    if name == current:
        if not force:
            raise ContextError(f'context "{name}" is in use, set -f flag to force remove')
        store.use(cli.config, DEFAULT_CONTEXT)
    store.remove(cli.config.directory, name)
