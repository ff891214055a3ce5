"""SIGHUP: registries and the disk budget change while the engine runs; a file that cannot be accepted changes
nothing.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api import certificates
from tests.support import registry
from tests.support.engine import Engine, until
from tests.support.registry import Liar
from tests.support.transfers import forget, import_file, pull, random_image, states

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]


@pytest.fixture
def own() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


def reload(engine: Engine, document: dict[str, Any], *, refused: str = "") -> None:
    """Write daemon.json, signal, and wait until it is in force, or was refused with these words."""
    (engine.directory / "daemon.json").write_text(json.dumps(document))
    said = engine.log.read_text().count("Reloaded configuration") if engine.log.exists() else 0
    os.kill(engine.pid_of("sampand "), signal.SIGHUP)
    if refused:
        until(lambda: refused in engine.log.read_text(), 10, refused)
    else:
        until(lambda: engine.log.read_text().count("Reloaded configuration") > said, 10, "the reload")


def test_mirrors_of_the_table(own: Engine) -> None:
    origin, mirror = Liar(), Liar()
    try:
        own.start()
        wanted = random_image(1, layers=1, size=1000)
        origin.images["team/app"] = mirror.images["cache/app"] = wanted
        name = f"{origin.host}/team/app"
        states(pull(own, name))
        assert origin.server.requests and not mirror.server.requests
        forget(own, wanted.id)
        row = {"mirrors": [f"http://{mirror.host}"], "rewrite": {"^team/(.*)$": "cache/$1"}}
        reload(own, {"registries": {origin.host: row}})
        origin.server.requests.clear()
        states(pull(own, name))
        assert not origin.server.requests and mirror.server.requests
        forget(own, wanted.id)
        reload(own, {"registries": {origin.host: {"mirrors": "x"}}}, refused="registries")
        mirror.server.requests.clear()
        states(pull(own, name))
        assert not origin.server.requests and mirror.server.requests
        forget(own, wanted.id)
        reload(own, {})
        mirror.server.requests.clear()
        states(pull(own, name))
        assert origin.server.requests and not mirror.server.requests
        forget(own, wanted.id)
    finally:
        origin.close()
        mirror.close()


def test_mirrors_of_docker_hub(own: Engine) -> None:
    mirror = Liar()
    try:
        own.start()
        wanted = mirror.images["library/app"] = random_image(2, layers=1, size=1000)
        reload(own, {"registry-mirrors": [f"http://{mirror.host}"]})
        assert own.call("GET", "/info")["RegistryConfig"]["Mirrors"] == [f"http://{mirror.host}/"]
        states(pull(own, "app"))
        assert own.call("GET", "/images/app:1/json")["Id"] == wanted.id
        forget(own, wanted.id)
    finally:
        mirror.close()


def test_insecure_registries(own: Engine, tmp_path: Path) -> None:
    """A name that is no loopback's, so that the reload alone decides whether its certificate is believed."""
    certificates.make(tmp_path)
    server = Liar(tmp_path)
    try:
        hosts = own.directory / "hosts"
        hosts.write_text("127.0.0.1 localhost registry.test\n")
        mounted = f'mount --bind {hosts} /etc/hosts && exec "$@"'
        own.wrapper = ["unshare", "--mount", "sh", "-c", mounted, "sh"]
        own.start()
        wanted = server.images["app"] = random_image(3, layers=1, size=1000)
        host = f"registry.test:{server.server.port}"
        assert "certificate" in pull(own, f"{host}/app").message
        reload(own, {"insecure-registries": [host]})
        states(pull(own, f"{host}/app"))
        forget(own, wanted.id)
        reload(own, {"insecure-registries": []})
        assert "certificate" in pull(own, f"{host}/app").message
    finally:
        server.close()


def test_the_disk_budget(own: Engine, tmp_path: Path) -> None:
    own.start()
    tar = tmp_path / "tar"
    made = []
    for number in range(3):
        tar.write_bytes(registry.layer({f"f{number}": os.urandom(8_000_000)}))
        made.append(import_file(own, tar, f"app{number}"))

    def kept() -> list[str]:
        there = {image["Id"] for image in own.call("GET", "/images/json")}
        return [image for image in made if image in there]

    reload(own, {"disk-budget": "25m"})
    assert kept() == made
    reload(own, {"disk-budget": "20m"})
    until(lambda: kept() == made[1:], 20, "the oldest is gone")
    reload(own, {"disk-budget": "0"})
    tar.write_bytes(registry.layer({"more": os.urandom(30_000_000)}))
    made.append(import_file(own, tar, "more"))
    assert kept() == made[1:]
    reload(own, {"disk-budget": "-1"}, refused="disk-budget")
