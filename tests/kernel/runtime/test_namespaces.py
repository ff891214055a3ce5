"""Namespaces: by path, of a user, of time, none at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.linux import namespaces
from sampan.runtime.container import RuntimeFailure
from tests.kernel.runtime.harness import Bench, Spec, default_spec

MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def replace(spec: Spec, kind: str, path: str | None) -> Spec:
    """Give one namespace by path, or take it out of the list."""
    linux = spec["linux"]
    linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] != kind]
    if path is not None:
        linux["namespaces"].append({"type": kind, "path": path})
    return spec


def with_user(spec: Spec) -> Spec:
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = MAPS
    return spec


@pytest.mark.parametrize(("kind", "name"), [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")])
def test_a_namespace_by_path(bench: Bench, kind: str, name: str) -> None:
    owner = bench.create(default_spec(["sleep", "100"]))
    owner.start()
    path = f"/proc/{owner.pid}/ns/{name}"
    spec = replace(default_spec(["readlink", f"/proc/self/ns/{name}"]), kind, path)
    if kind == "uts":
        spec["hostname"] = ""
    assert bench.run(spec).out.strip() == os.readlink(path)
    assert os.readlink("/proc/self/ns/pid_for_children") == os.readlink("/proc/self/ns/pid")


def test_a_network_namespace_by_descriptor(bench: Bench) -> None:
    owner = bench.create(default_spec(["sleep", "100"]))
    owner.start()
    fd = os.open(f"/proc/{owner.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        spec = replace(default_spec(["readlink", "/proc/self/ns/net"]), "network", f"/proc/{os.getpid()}/fd/{fd}")
        assert bench.run(spec).out.strip() == os.readlink(f"/proc/{owner.pid}/ns/net")
    finally:
        os.close(fd)


def test_a_namespace_path_that_is_none(bench: Bench) -> None:
    with pytest.raises(RuntimeFailure, match="open namespace /nope: no such file or directory"):
        bench.run(replace(default_spec(["true"]), "network", "/nope"))
    with pytest.raises(RuntimeFailure) as caught:
        bench.run(replace(default_spec(["true"]), "network", "/dev/null"))
    assert caught.value.step == "namespaces"
    owner = bench.create(default_spec(["sleep", "100"]))
    with pytest.raises(RuntimeFailure) as caught:
        bench.run(replace(default_spec(["true"]), "network", f"/proc/{owner.pid}/ns/uts"))
    assert caught.value.step == "namespaces"


@pytest.mark.parametrize(("kind", "name"), [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")])
def test_the_hosts_namespace(bench: Bench, kind: str, name: str) -> None:
    spec = replace(default_spec(["readlink", f"/proc/self/ns/{name}"]), kind, None)
    if kind == "uts":
        spec["hostname"] = ""
    assert bench.run(spec).out.strip() == os.readlink(f"/proc/self/ns/{name}")


def test_a_user_namespace(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    script = (
        "cat /proc/self/uid_map; id -u; stat -Lc %u /proc/self; cat /b; ls -l /dev/null; echo > /dev/null; grep "
        "CapEff /proc/self/status; cat /proc/keys; mount | wc -l"
    )
    spec = with_user(default_spec(["sh", "-c", script]))
    spec["mounts"].append(
        {"type": "bind", "source": str(tmp_path / "f"), "destination": "/b", "options": ["bind", "ro"]}
    )
    result = bench.run(spec, files={"b": ""})
    lines = result.out.splitlines()
    assert lines[0].split() == ["0", "100000", "65536"]
    assert lines[1:3] == ["0", "0"]
    assert lines[3].startswith("contentcrw-rw-rw-")
    assert result.err == ""
    assert lines[4].split() == ["CapEff:", "00000000a80425fb"]


def test_a_user_namespace_writes_as_the_mapped_user(bench: Bench) -> None:
    spec = with_user(default_spec(["sh", "-c", "echo x > /tmp/made"]))
    assert bench.run(spec).status == 0
    assert (bench.upper / "tmp/made").stat().st_uid == 100000


def test_exec_into_a_user_namespace(bench: Bench) -> None:
    made = bench.create(with_user(default_spec(["sleep", "100"])))
    made.start()
    result = bench.exec(made, ["sh", "-c", "id -u; id -g; cat /proc/self/uid_map"], user={"uid": 5, "gid": 6})
    assert result.out.split() == ["5", "6", "0", "100000", "65536"]


def test_a_user_namespace_beside_the_hosts_network(bench: Bench) -> None:
    spec = replace(
        with_user(default_spec(["sh", "-c", "readlink /proc/self/ns/net; ls /sys | wc -l"])), "network", None
    )
    result = bench.run(spec)
    assert result.out.split()[0] == os.readlink("/proc/self/ns/net")
    assert int(result.out.split()[1]) > 5


def test_a_user_namespace_with_a_network_by_path(bench: Bench) -> None:
    owner = bench.create(default_spec(["sleep", "100"]))
    owner.start()
    path = f"/proc/{owner.pid}/ns/net"
    result = bench.run(replace(with_user(default_spec(["readlink", "/proc/self/ns/net"])), "network", path))
    assert result.out.strip() == os.readlink(path)


def test_a_user_namespace_by_path(bench: Bench) -> None:
    owner = bench.create(with_user(default_spec(["sleep", "100"])))
    owner.start()
    path = f"/proc/{owner.pid}/ns/user"
    spec = replace(default_spec(["sh", "-c", "readlink /proc/self/ns/user; id -u"]), "user", path)
    assert bench.run(spec).out.split() == [os.readlink(path), "0"]


def test_a_time_namespace(bench: Bench) -> None:
    spec = default_spec(["sh", "-c", "cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time"])
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 500, "nanosecs": 5}}
    uptime, name = bench.run(spec).out.split()
    assert int(uptime) > 1_000_000
    assert name != os.readlink("/proc/self/ns/time")
    made = bench.create({**spec, "process": default_spec(["sleep", "100"])["process"]})
    made.start()
    assert int(bench.exec(made, ["cut", "-d.", "-f1", "/proc/uptime"]).out) > 1_000_000
    assert os.readlink("/proc/self/ns/time") == os.readlink("/proc/self/ns/time_for_children")


def test_cgroup_namespace_by_path(bench: Bench) -> None:
    first = default_spec(["sleep", "100"])
    first["linux"]["namespaces"].append({"type": "cgroup"})
    owner = bench.create(first)
    owner.start()
    path = f"/proc/{owner.pid}/ns/cgroup"
    assert bench.run(
        replace(default_spec(["readlink", "/proc/self/ns/cgroup"]), "cgroup", path)
    ).out.strip() == os.readlink(path)


def test_every_type_of_the_table_exists_here() -> None:
    for _, name in namespaces.TYPES.values():
        assert os.path.exists(f"/proc/self/ns/{name}")
