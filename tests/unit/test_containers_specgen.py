"""The OCI spec of a container, against specs that Docker Engine 28.5 generated for the same HostConfig.

What differs on purpose is named in `comparable` and in specgen's own text, nothing else may differ.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.config import EngineConfig
from sampan.engine.containers import specgen
from sampan.engine.containers.records import Container, MountPoint
from sampan.engine.tasks import devices, security
from sampan.engine.tasks import spec as parts
from sampan.errors import Internal
from sampan.spec import codec
from sampan.spec.engine_api.container import ContainerConfig, HostConfig, Ulimit

SPECS = Path(__file__).parent / "containers_specs"
DAEMON_ROOT = "/var/lib/docker"
# What the daemon that generated the specs could hand out: everything but CAP_SYS_RESOURCE.
AVAILABLE = tuple(json.loads((SPECS / "priv.json").read_text())["spec"]["process"]["capabilities"]["bounding"])


def record(inspect: dict[str, Any]) -> Container:
    host = codec.convert(HostConfig, inspect["HostConfig"])
    options = {m.target: m for m in host.mounts or ()}
    mounts = []
    for m in inspect["Mounts"]:
        asked = options.get(m["Destination"])
        bind = asked.bind_options if asked is not None else None
        tmpfs: list[str] = []
        if asked is not None and asked.tmpfs_options is not None:
            tmpfs = [f"mode={asked.tmpfs_options.mode:o}", f"size={asked.tmpfs_options.size_bytes}"]
        mounts.append(
            MountPoint(
                type=m["Type"],
                destination=m["Destination"],
                source=m["Source"],
                rw=m["RW"],
                propagation=m["Propagation"],
                recursive=not (bind and bind.non_recursive),
                read_only_recursive=not (bind and bind.read_only_non_recursive),
                tmpfs_options=tuple(tmpfs),
            )
        )
    return Container(
        id=inspect["Id"],
        name="x",
        created_ns=0,
        path=inspect["Path"],
        args=inspect["Args"],
        config=codec.convert(ContainerConfig, inspect["Config"]),
        host_config=host,
        mounts=mounts,
    )


def prepared(c: Container) -> parts.Prepared:
    directory = f"{DAEMON_ROOT}/containers/{c.id}"
    mode = c.host_config.ipc_mode
    shm = {"host": "/dev/shm", "shareable": f"{directory}/mounts/shm"}.get(mode, "")
    parent = c.host_config.cgroup_parent or "/docker"
    return parts.Prepared(
        files=tuple((f"/etc/{n}", f"{directory}/{n}") for n in ("resolv.conf", "hostname", "hosts")),
        shm_path=shm,
        init_path="/usr/bin/docker-init" if specgen.uses_init(c, False) else "",
        cgroup_parent=parent,
        available_capabilities=AVAILABLE,
    )


def comparable(spec: dict[str, Any]) -> dict[str, Any]:
    """Take out what differs on purpose."""
    spec = json.loads(json.dumps(spec))
    process, linux = spec["process"], spec["linux"]
    process["user"] = None  # theirs is looked up, ours is looked up later, inside
    process["env"] = sorted(process["env"])
    spec["root"].pop("path")
    for key in ("devices", "rootfsPropagation"):
        linux.pop(key, None)
    resources = linux["resources"]
    rules = [json.dumps(r, sort_keys=True) for r in resources.pop("devices")]
    resources["rules"] = sorted(set(rules))
    if resources.get("memory", {}).get("disableOOMKiller") is False:
        del resources["memory"]["disableOOMKiller"]
    linux["resources"] = {k: v for k, v in resources.items() if v}
    linux["namespaces"] = sorted(linux["namespaces"], key=lambda n: str(n["type"]))
    spec["mounts"] = sorted(spec["mounts"], key=lambda m: str(m["destination"]))
    return dict(spec)


@pytest.mark.parametrize("name", sorted(p.stem for p in SPECS.glob("*.json")))
def test_the_same_spec_as_docker(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = json.loads((SPECS / f"{name}.json").read_text())
    monkeypatch.setattr(parts, "_numbers", lambda path: {"major": 254, "minor": 0})
    monkeypatch.setattr(devices, "_mapped", _recorded_devices(golden["spec"]))
    monkeypatch.setattr(devices, "_host_devices", lambda directory: iter(()))
    c = record(golden["inspect"])
    ours = specgen.build(c, prepared(c), security.parse(c.host_config, EngineConfig()))
    theirs = comparable(golden["spec"])
    if c.host_config.privileged:
        theirs["linux"]["resources"]["rules"] = [json.dumps({"access": "rwm", "allow": True}, sort_keys=True)]
    assert comparable(ours) == theirs


def _recorded_devices(spec: dict[str, Any]) -> Any:
    nodes = {d["path"]: d for d in spec["linux"].get("devices", ())}
    return lambda source, target: iter([nodes[target]])


def test_mounts_of_a_parent_come_before_those_of_its_children() -> None:
    c = Container(
        id="a" * 64,
        name="x",
        created_ns=0,
        path="sh",
        host_config=HostConfig(tmpfs={"/a": ""}),
        mounts=[
            MountPoint(type="bind", destination="/a/b/c", source="/x"),
            MountPoint(type="bind", destination="/a/b", source="/y"),
        ],
    )
    found = [m["destination"] for m in specgen.build(c, parts.Prepared(), security.SecurityOptions())["mounts"]]
    assert found.index("/a") < found.index("/a/b") < found.index("/a/b/c")


def test_a_mount_of_the_user_replaces_the_default_one() -> None:
    c = Container(id="a" * 64, name="x", created_ns=0, path="sh", host_config=HostConfig(tmpfs={"/dev/shm": "size=1m"}))
    found = [
        m
        for m in specgen.build(c, parts.Prepared(), security.SecurityOptions())["mounts"]
        if m["destination"] == "/dev/shm"
    ]
    assert [m["source"] for m in found] == ["tmpfs"]


def test_unlimited_and_absurd_ulimits() -> None:
    assert parts.rlimits([Ulimit(name="core", soft=-1, hard=-1)], ()) == [
        {"type": "RLIMIT_CORE", "hard": 2**64 - 1, "soft": 2**64 - 1}
    ]
    with pytest.raises(Internal, match="wrong rlimit value: RLIMIT_ZZ"):
        parts.rlimits([Ulimit(name="zz")], ())


def test_gpus_are_refused_by_name() -> None:
    host = codec.convert(HostConfig, {"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}]})
    with pytest.raises(Internal, match=r'could not select device driver "" with capabilities: \[\[gpu\]\]'):
        devices.of_container(host)


def test_device_nodes_keep_their_kind_and_mode() -> None:
    host = codec.convert(
        HostConfig, {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n", "CgroupPermissions": "r"}]}
    )
    nodes, rules = devices.of_container(host)
    assert (nodes[0]["path"], nodes[0]["type"], nodes[0]["major"], nodes[0]["minor"]) == ("/dev/n", "c", 1, 3)
    assert nodes[0]["fileMode"] == stat.S_IMODE(Path("/dev/null").stat().st_mode)
    assert rules[-1] == {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}
