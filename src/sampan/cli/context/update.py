"""`sampan context update`."""

from __future__ import annotations

from sampan.cli.context import create, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTEXT"
ABOUT = create.ABOUT.replace("Create a context", "Update a context").replace("context create", "context update")
ARGS = (1, 1)
FLAGS = """
      --description string      Description of the context
      --docker stringToString   Set the endpoint (default [])
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    name, directory = args[0], cli.config.directory
    store.check_name(name)
    meta = store.load(directory, name)
    if opts.changed("description"):
        meta.setdefault("Metadata", {})["Description"] = opts.text("description")
    tls: dict[str, bytes] = {}
    if settings := create.docker_settings(opts):
        meta.setdefault("Endpoints", {})["docker"], tls = create.endpoint_of(cli, settings)
    store.save(directory, name, meta, tls)
    cli.line(name)
    cli.warn(f'Successfully updated context "{name}"')
    return 0
