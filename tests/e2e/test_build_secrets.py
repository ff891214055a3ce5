"""A secret in each place of a build that takes one is nowhere afterwards: not in the data root, the exec root, the log,
an answer of the API, an image, or the arguments of a process.

Each build is done with buildx, once so that it succeeds, where it can, and once so that it fails behind the place.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.builder.server import serving
from tests.support.engine import Engine

FAILING = "RUN exit 7\n"
pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Place:
    """How a secret comes into a build. {t} is the secret, {s} a web server's address without its scheme."""

    name: str
    dockerfile: str = "RUN true\n"
    flags: tuple[str, ...] = ()
    context: str = "."
    files: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


SECRET = "RUN --mount=type=secret,id=s,required test $(wc -c < /run/secrets/s) -gt 9\n"
ENVIRONMENT = "RUN --mount=type=secret,id=s,env=TOKEN test ${#TOKEN} -gt 9\n"
ADDED = "ADD http://user:{t}@{s}/plain /x\n"
PLACES = [
    Place("secret-file", SECRET, ("--secret=id=s,src=token",), files={"token": "{t}", ".dockerignore": "token"}),
    Place("secret-variable", ENVIRONMENT, ("--secret=id=s,env=TOKEN",), environment={"TOKEN": "{t}"}),
    Place("proxy", flags=("--build-arg=HTTP_PROXY=http://user:{t}@{s}", "--build-arg=https_proxy=http://{t}@{s}")),
    Place("url", ADDED),
    Place("url-missing", ADDED.replace("plain", "missing")),
    Place(
        "url-token",
        "ADD http://{s}/plain /x\n",
        ("--secret=id=HTTP_AUTH_TOKEN_{s},env=TOKEN",),
        environment={"TOKEN": "{t}"},
    ),
    Place("git-context", context="http://user:{t}@{s}/nosuch.git"),
    Place("git-context-query", context="http://user:{t}@{s}/nosuch.git?ref=main"),
    Place("git-add", "ADD http://user:{t}@{s}/missing.git /x\n"),
    Place(
        "git-token",
        "ADD http://{s}/missing.git /x\n",
        ("--secret=id=GIT_AUTH_TOKEN,env=TOKEN",),
        environment={"TOKEN": "{t}"},
    ),
    Place("context-archive", context="http://user:{t}@{s}/t.tar"),
    Place("named-context", "COPY --from=c / /x\n", ("--build-context=c=http://user:{t}@{s}/missing.git",)),
    Place("registry", "COPY --from={s}/private /x /x\n"),
    Place("cache", flags=("--cache-from=type=s3,region=r,bucket=b,access_key_id=k,secret_access_key={t}",)),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(None, "--debug").start()
    try:
        engine.import_busybox()
        yield engine
    finally:
        engine.close()


class Arguments:
    """Watches the command lines of all processes but the client's own."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Arguments:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for directory in Path("/proc").glob("[0-9]*"):
                try:
                    line = (directory / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"buildx" not in line:
                    self.seen.add(line)


def on_disk(engine: Engine, token: bytes) -> list[str]:
    """The files below the engine's directories that have it, in their content or their name."""
    found = []
    for root in (engine.data_root, engine.exec_root):
        for directory, _, names in os.walk(root):
            if token in os.fsencode(directory):
                found.append(directory)
            for name in names:
                path = Path(directory) / name
                try:
                    if path.is_symlink() or not path.is_file():
                        continue
                    if token in os.fsencode(name) or token in path.read_bytes():
                        found.append(str(path))
                except OSError:
                    continue
    return found


def clients_own(engine: Engine, place: Place, path: str) -> bool:
    """A client's directory is kept as it came; a Dockerfile with a secret in its text is its own place for it."""
    return "{t}" in place.dockerfile and path.startswith(str(engine.data_root / "builder/tmp/"))


def answers(engine: Engine, began: float) -> dict[str, bytes]:
    """What the API says of all there is."""
    since, until = str(int(began) - 1), str(int(time.time()))
    found = {"events": engine.request("GET", "/events", since=since, until=until).raw}
    for path in ("/info", "/system/df", "/images/json"):
        found[path] = engine.request("GET", path).raw
    for image in engine.call("GET", "/images/json", all="1"):
        for path in (f"/images/{image['Id']}/json", f"/images/{image['Id']}/history"):
            found[path] = engine.request("GET", path).raw
    return found


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_a_planted_secret_is_found_nowhere(engine: Engine, buildx: str, tmp_path: Path, place: Place) -> None:
    token = f"planted{secrets.token_hex(12)}"
    began = time.time()
    with serving() as address, Arguments() as arguments:
        words = {"{t}": token, "{s}": address.removeprefix("http://")}

        def filled(text: str) -> str:
            return re.sub(r"\{[ts]\}", lambda m: words[m[0]], text)

        for name, text in place.files.items():
            (tmp_path / name).write_text(filled(text))
        auth = base64.b64encode(f"user:{token}".encode()).decode()
        (tmp_path / "client").mkdir()
        config = {"auths": {words["{s}"]: {"auth": auth}}}
        (tmp_path / "client/config.json").write_text(json.dumps(config))
        environment = {**engine.environment, "BUILDX_BUILDER": "default", "DOCKER_CONFIG": str(tmp_path / "client")}
        environment |= {name: filled(text) for name, text in place.environment.items()}
        (tmp_path / "context").mkdir()
        for name in place.files:
            (tmp_path / name).rename(tmp_path / "context" / name)
        for ending in ("", FAILING):
            (tmp_path / "context/Dockerfile").write_text("FROM busybox\n" + filled(place.dockerfile) + ending)
            argv = [buildx, "build", "--progress=plain", "--network=none", *map(filled, place.flags)]
            done = subprocess.run(
                [*argv, filled(place.context)],
                cwd=tmp_path / "context",
                env=environment,
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert not ending or done.returncode, done.stderr
            lines = done.stderr.splitlines()
            shown = [line for line in lines if token.encode() in line and not re.match(rb" +\d+ \| ", line)]
            assert shown == [], "what the client is told"
    for form in (token.encode(), auth.encode(), base64.b64encode(token.encode()).rstrip(b"=")):
        assert [path for path in on_disk(engine, form) if not clients_own(engine, place, path)] == []
        assert [line for line in engine.log.read_bytes().splitlines() if form in line] == []
        assert [path for path, raw in answers(engine, began).items() if form in raw] == []
        assert [line for line in arguments.seen if form in line] == []
