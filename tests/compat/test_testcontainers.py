"""testcontainers, unmodified: containers on a network of the test's own, reached by name and by published port.

Its reaper, an image of its own that is pulled, is switched off.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.support.engine import Engine

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SERVER = "echo ready; exec nc -ll -p 80 -e echo it is the server"


@pytest.fixture
def environment(shared_engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Where the library looks for an engine; nothing is left on it."""
    monkeypatch.setenv("DOCKER_HOST", shared_engine.host)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    before = [n["Name"] for n in shared_engine.call("GET", "/networks")]
    yield
    assert [n["Name"] for n in shared_engine.call("GET", "/networks")] == before
    gc.collect()


@pytest.mark.usefixtures("environment")
def test_containers_reach_each_other_by_name() -> None:
    with Network() as network:
        server = DockerContainer("busybox").with_command(["sh", "-c", SERVER])
        server.with_network(network).with_network_aliases("server", "other-name").with_exposed_ports(80)
        visitor = DockerContainer("busybox").with_command(["sleep", "1000"])
        visitor.with_network(network).with_network_aliases("visitor")
        with server.waiting_for(LogMessageWaitStrategy("ready")), visitor:
            name = server.get_wrapped_container().name
            for asked in ("server", "other-name", name, server.get_wrapped_container().short_id):
                code, said = visitor.exec(["nc", "-w", "5", asked, "80"])
                assert (code, said) == (0, b"it is the server\n"), asked
            assert server.exec(["nslookup", "visitor"])[0] == 0
            address = server.get_container_host_ip(), int(server.get_exposed_port(80))
            with socket.create_connection(address, 10) as published:
                assert published.makefile().readline() == "it is the server\n"
