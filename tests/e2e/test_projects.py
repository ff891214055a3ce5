"""Dockerfiles of the shape that real projects have, over a Debian base with a working apt, through the real clients.

Go (multi-stage to scratch, module cache), Node (users, COPY --chown), Python (secret, heredoc), C (bind mount, checks,
a test stage) and an ONBUILD base. Packages come from the distribution's mirror; without it this is a named skip.
"""

from __future__ import annotations

import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import debian
from tests.support.engine import Engine
from tests.support.machine import lacks

PROJECTS = Path(__file__).parent / "projects"
MIRROR = "http://deb.debian.org/debian/dists/bookworm/InRelease"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def ours(root: None) -> Iterator[Engine]:
    """An engine with debian:bookworm, whose containers reach the mirror."""
    base = debian.base_tar()
    try:
        urllib.request.urlopen(MIRROR, timeout=20).close()
    except OSError as e:
        lacks(f"the package mirror does not answer: {e}")
    engine = Engine().start()
    try:
        engine.request(
            "POST", "/images/create", base.read_bytes(), headers={"Content-Type": "application/x-tar"},
            fromSrc="-", repo="debian", tag="bookworm", changes='CMD ["bash"]',
        )  # fmt: skip
        yield engine
    finally:
        engine.close()


def built(ours: Engine, buildx: str, name: str, *options: str, file: str = "Dockerfile") -> str:
    """Build a project with the real client at BuildKit's door; returns the image's name."""
    directory = PROJECTS / name
    image = f"projects/{name if file == 'Dockerfile' else name + '-' + file.partition('.')[0]}"
    command = [buildx, "build", "--progress=plain", "-f", str(directory / file), "-t", image, *options, str(directory)]
    done = subprocess.run(
        command, env={**os.environ, "DOCKER_HOST": ours.host}, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return image


def says(ours: Engine, docker: str, *command: str) -> str:
    done = subprocess.run(
        [docker, "run", "--rm", *command], env={**os.environ, "DOCKER_HOST": ours.host}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_go(ours: Engine, docker: str, buildx: str) -> None:
    image = built(ours, buildx, "go", "--build-arg", "VERSION=1.2.3")
    assert says(ours, docker, image) == "server 1.2.3\n"
    found = ours.request("GET", f"/images/{image}/json").json
    assert found["Config"]["User"] == "65534:65534" and len(found["RootFS"]["Layers"]) == 1
    built(ours, buildx, "go", "--target", "vet")


def test_node(ours: Engine, docker: str, buildx: str) -> None:
    image = built(ours, buildx, "node")
    assert says(ours, docker, image) == "hello production\n"
    assert says(ours, docker, image, "stat", "-c", "%U %G", "/app/src/index.js") == "node node\n"


def test_python_with_a_secret(ours: Engine, docker: str, buildx: str, tmp_path: Path) -> None:
    secret = tmp_path / "settings"
    secret.write_text("a secret of 25 characters")
    image = built(ours, buildx, "python", "--secret", f"id=settings,src={secret}")
    assert says(ours, docker, image) == "app 3 25\n"
    assert says(ours, docker, "--entrypoint", "ls", image, "app") == "__init__.py\n__main__.py\n__pycache__\n"


def test_c(ours: Engine, docker: str, buildx: str) -> None:
    built(ours, buildx, "c", "--target", "test")
    assert says(ours, docker, built(ours, buildx, "c")) == "42\n"


def test_onbuild(ours: Engine, docker: str, buildx: str) -> None:
    built(ours, buildx, "onbuild", file="base.Dockerfile")
    image = built(ours, buildx, "onbuild", "--build-arg", "TITLE=a site")
    assert says(ours, docker, image) == "a site\n"
    assert says(ours, docker, image, "ls", "/site") == "Dockerfile\nindex.html\ntitle\n"
