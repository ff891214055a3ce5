"""Plugins of the docker client, where the machine has them: buildx, compose."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.machine import lacks

DIRECTORIES = (
    "~/.docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


def plugin(name: str, variable: str) -> Path:
    """The program of a plugin: what the variable names, else what the client itself would find; a named skip without."""
    named = os.environ.get(variable)
    found = [named] if named else [os.path.join(os.path.expanduser(directory), name) for directory in DIRECTORIES]
    for path in found:
        if os.access(path, os.X_OK):
            return Path(path)
    lacks(f"no {name}: neither ${variable} nor a plugin of the docker client")
    raise AssertionError("not reached")


def client(directory: Path, **plugins: Path) -> dict[str, str]:
    """A configuration directory of the docker client with these plugins; returns the environment that names it."""
    (directory / "cli-plugins").mkdir(parents=True, exist_ok=True)
    for name, path in plugins.items():
        link = directory / "cli-plugins" / f"docker-{name}"
        if not link.exists():
            link.symlink_to(path)
    if shutil.which("docker") is None:
        lacks("no docker client")
    return {"DOCKER_CONFIG": str(directory)}
