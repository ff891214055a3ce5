"""CLI plugins: `sampan compose` runs the `docker-compose` executable of a plugin directory, as docker does.

Searched: cli-plugins below the configuration directory, then the system's. The plugin gets the whole command line and
takes this process's place.

Source: docker/cli cli-plugins (executables named docker-NAME).
"""

from __future__ import annotations

import os

from sampan.cli.config import home

SYSTEM = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


def execute(words: list[str]) -> None:
    """Become the plugin that `words[0]` names; return when there is none."""
    name = words[0]
    if not name.isalnum() or not name.islower():
        return
    directory = os.environ.get("DOCKER_CONFIG") or os.path.join(home(), ".docker")
    for place in (os.path.join(directory, "cli-plugins"), *SYSTEM):
        path = os.path.join(place, f"docker-{name}")
        if os.access(path, os.X_OK):
            os.execv(path, [path, *words])
