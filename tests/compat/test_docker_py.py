"""docker-py, unmodified: what its users do first."""

from __future__ import annotations

import contextlib
import gc
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

from tests.support.engine import Engine
from tests.support.tars import tar_of

# docker-py leaves sockets of streams to the garbage collector.
pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def client(shared_engine: Engine) -> Iterator[Any]:
    """A client; what the test made is removed."""
    before = {c["Id"] for c in shared_engine.call("GET", "/containers/json", all="1")}
    with contextlib.closing(docker.DockerClient(base_url=shared_engine.host, version="auto")) as found:
        yield found
    for container in shared_engine.call("GET", "/containers/json", all="1"):
        if container["Id"] not in before:
            shared_engine.remove(container["Id"])
    gc.collect()  # here, where their warnings are expected, and not in whatever test comes next


def test_run_returns_the_output(client: Any) -> None:
    assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"


def test_a_failure_is_an_exception_with_exit_status_and_stderr(client: Any) -> None:
    with pytest.raises(ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo no >&2; exit 4"])
    assert (caught.value.exit_status, caught.value.stderr) == (4, b"no\n")


def test_exec_separates_streams(client: Any) -> None:
    container = client.containers.run("busybox", ["sleep", "100"], detach=True)
    code, (out, err) = container.exec_run(["sh", "-c", "echo o; echo e >&2; exit 3"], demux=True)
    assert (code, out, err) == (3, b"o\n", b"e\n")
    code, stream = container.exec_run(["sh", "-c", "seq 1 3"], stream=True)
    assert b"".join(stream) == b"1\n2\n3\n"


def test_logs_stream_to_the_end(client: Any) -> None:
    container = client.containers.run(
        "busybox", ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.05; done"], detach=True
    )
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n"
    assert container.wait() == {"StatusCode": 0}


def test_life_of_a_container(client: Any) -> None:
    container = client.containers.run(
        "busybox", ["sleep", "100"], detach=True, name="py", labels={"a": "b"}, mem_limit="32m"
    )
    assert [c.name for c in client.containers.list(filters={"label": "a=b"})] == ["py"]
    assert container.stats(stream=False)["memory_stats"]["limit"] == 32 << 20
    assert container.top()["Processes"][0][-1] == "sleep 100"
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.kill()
    assert container.wait()["StatusCode"] == 137
    container.remove()
    with pytest.raises(NotFound):
        client.containers.get("py")


def test_archives_go_in_and_out(client: Any, tmp_path: Path) -> None:
    container = client.containers.create("busybox", ["true"])
    assert container.put_archive("/tmp", tar_of({"f": b"inner"}))
    chunks, about = container.get_archive("/tmp/f")
    assert about["size"] == 5
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        member = tar.extractfile("f")
        assert member is not None
        assert member.read() == b"inner"
    assert {"Path": "/tmp/f", "Kind": 1} in container.diff()


def test_images(client: Any) -> None:
    image = client.images.get("busybox")
    assert image.tag("py/other", "1")
    assert "py/other:1" in client.images.get("py/other:1").tags
    client.images.remove("py/other:1")
    with pytest.raises(ImageNotFound):
        client.images.get("py/other:1")


def test_volumes_and_networks(client: Any) -> None:
    volume = client.volumes.create("py-volume")
    network = client.networks.create("py-net")
    try:
        mounts = {"py-volume": {"bind": "/data", "mode": "rw"}}
        client.containers.run(
            "busybox", ["sh", "-c", "echo kept >/data/f"], volumes=mounts, network="py-net", remove=True
        )
        assert client.containers.run("busybox", ["cat", "/data/f"], volumes=mounts, remove=True) == b"kept\n"
        with pytest.raises(APIError, match="already exists"):
            client.networks.create("py-net", check_duplicate=True)
    finally:
        network.remove()
        volume.remove()


def test_events_and_info(client: Any) -> None:
    events = client.events(decode=True, filters={"container": "py-event"})
    client.containers.run("busybox", ["true"], name="py-event", remove=True)
    actions = []
    for event in events:
        actions.append(event["Action"])
        if event["Action"] == "destroy":
            break
    assert actions[0] == "create"
    assert {"start", "die"} <= set(actions)
    assert client.info()["Driver"] == "overlay2"
    assert client.version()["ApiVersion"] == "1.51"


def test_containers_on_a_network_reach_each_other_by_name(client: Any) -> None:
    """Name, aliases given at the start and while running, another name; and none of them after the disconnection."""
    first, second = (client.networks.create(f"pyd-{n}") for n in ("first", "second"))
    try:
        endpoint = client.api.create_endpoint_config(aliases=["web", "www"])
        server = client.containers.run(
            "busybox",
            ["nc", "-ll", "-p", "80", "-e", "echo", "here"],
            name="pyd-server",
            network="pyd-first",
            networking_config={"pyd-first": endpoint},
            detach=True,
        )
        visitor = client.containers.run(
            "busybox", ["sleep", "1000"], name="pyd-visitor", network="pyd-first", detach=True
        )

        def reached(name: str) -> bool:
            return bool(visitor.exec_run(["nc", "-w", "5", name, "80"]).output == b"here\n")

        assert all(reached(name) for name in ("pyd-server", "web", "www", server.short_id, "pyd-server.pyd-first"))
        for container, alias in ((server, "later"), (visitor, "who")):
            second.connect(container, aliases=[alias])
        assert reached("later") and reached("web")
        server.rename("pyd-renamed")
        assert reached("pyd-renamed") and not reached("pyd-server")
        first.disconnect(server)
        assert reached("later") and not reached("web")
        second.disconnect(server)
        assert not reached("later")
        first.connect(server, aliases=["web"])
        assert reached("web")
    finally:
        for container in client.containers.list(all=True, filters={"name": "pyd-"}):
            container.remove(force=True)
        for network in (first, second):
            network.remove()
