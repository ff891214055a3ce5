"""CLI plugins: `sampan compose` runs the `docker-compose` executable of a plugin directory, as docker does.

Searched: `cliPluginsExtraDirs` of config.json, cli-plugins below the configuration directory, then the system's. The
plugin takes this process's place and gets the whole command line, with every global flag: it decides by them, as this
program does, which engine it talks to. What only Sampan knows (SAMPAN_HOST, our own default socket) it gets as
DOCKER_HOST, so it never talks to another engine than `sampan` itself would.

Source: docker/cli cli-plugins (executables named docker-NAME; DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND).
"""

from __future__ import annotations

import os

from sampan.cli import endpoint
from sampan.cli.config import DEFAULT_CONTEXT, Config
from sampan.cli.session import CommandError
from sampan.errors import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues

SYSTEM = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
ORIGINAL_COMMAND = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND"
"""Variable that tells a plugin that a client started it, and how to call that client again."""


def execute(program: str, argv: list[str], name: str, options: FlagValues) -> None:
    """Become the plugin `name`; return when there is none. `program` and `argv` are this process's own, whole.

    Raises: CommandError when the plugin cannot be run, ContextError when no engine can be named.
    """
    config = Config(options.text("config"))
    path = found(name, config)
    if path:
        try:
            os.execve(path, [path, *argv], {**os.environ, **environment(program, options, config)})
        except OSError as e:
            raise CommandError(f"fork/exec {path}: {words(e)}") from e


def found(name: str, config: Config) -> str:
    """Return the path of a plugin, "" when there is none."""
    if not (name.isascii() and name.isalnum() and name[0].isalpha() and name == name.lower()):
        return ""
    extra = config.data.get("cliPluginsExtraDirs")
    places = [place for place in extra if isinstance(place, str)] if isinstance(extra, list) else []
    for place in (*places, os.path.join(config.directory, "cli-plugins"), *SYSTEM):
        path = os.path.join(place, f"docker-{name}")
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return ""


def environment(program: str, options: FlagValues, config: Config) -> dict[str, str]:
    """Return the variables that a plugin gets on top of this process's."""
    added = {ORIGINAL_COMMAND: program}
    if not options.many("host") and endpoint.context_name(options, config) == DEFAULT_CONTEXT:
        added["DOCKER_HOST"] = endpoint.resolve(options, config).address.url
    return added
