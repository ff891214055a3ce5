"""Docker's newer clients, buildx and compose, as programs: what the machine has, else Debian's packages, unpacked in
the cache.

Debian 12 has neither; the packages of Debian's unstable distribution run on it. They are fetched once, with apt and
into the tests' cache only: nothing is installed. DOCKER_BUILDX and DOCKER_COMPOSE name other programs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support import debian
from tests.support.machine import lacks

PACKAGES = ("docker-buildx", "docker-compose")
SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main\n"
PLUGINS = ("/usr/local/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins")


def buildx() -> Path:
    return program("docker-buildx")


def compose() -> Path:
    return program("docker-compose")


def program(name: str) -> Path:
    """The plugin as a program of its own. Skips by name where it cannot be had."""
    given = os.environ.get(name.upper().replace("-", "_"))
    if given:
        return Path(given)
    own = Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser() / "cli-plugins"
    for directory in (own, *map(Path, PLUGINS)):
        if (directory / name).exists():
            return directory / name
    unpacked = debian.cache() / "docker-clients"
    with open(f"{unpacked}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not unpacked.exists():
            _fetch(unpacked)
    return next(unpacked.rglob(f"cli-plugins/{name}"))


def configured(directory: Path, **plugins: Path) -> dict[str, str]:
    """A configuration directory of the docker client with these plugins; returns the environment that names it."""
    (directory / "cli-plugins").mkdir(parents=True, exist_ok=True)
    for name, path in plugins.items():
        link = directory / "cli-plugins" / f"docker-{name}"
        if not link.exists():
            link.symlink_to(path)
    if shutil.which("docker") is None:
        lacks("no docker client")
    return {"DOCKER_CONFIG": str(directory)}


def _fetch(target: Path) -> None:
    if shutil.which("apt-get") is None:
        lacks("docker buildx and compose: neither plugins of the docker client nor apt-get")
    with tempfile.TemporaryDirectory(prefix="clients-", dir=target.parent) as scratch:
        root = Path(scratch)
        for name in ("lists/partial", "archives/partial", "made"):
            (root / name).mkdir(parents=True)
        (root / "sources").write_text(SOURCE)
        settings = {
            "Dir::Etc::sourcelist": root / "sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": root / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": root,
            "Dir::Cache::archives": root / "archives",
            "APT::Sandbox::User": "root",
        }
        apt = ["apt-get", "-qq", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
        for command in ([*apt, "update"], [*apt, "download", *PACKAGES]):
            done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300, check=False)
            if done.returncode != 0:
                lacks(f"docker buildx and compose cannot be fetched: {done.stderr.strip()[-300:]}")
        for package in root.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(root / "made")], check=True)
        (root / "made").rename(target)
