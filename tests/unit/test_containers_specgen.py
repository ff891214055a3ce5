"""The OCI spec of a container, against specs that Docker Engine 28.5 generated for the same HostConfig.

What differs on purpose is named in `comparable` and in specgen's own text, nothing else may differ.
"""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sampan.engine.config import EngineConfig
from sampan.engine.containers import specgen
from sampan.engine.containers.records import Container, MountPoint
from sampan.engine.tasks import devices, limits, security, spec
from sampan.engine.tasks.capabilities import DEFAULT
from sampan.engine.tasks.options import ProcessOptions, Rlimit
from sampan.errors import Internal
from sampan.runtime.failure import InvalidSpec
from sampan.runtime.validate import validate
from sampan.spec import codec
from sampan.spec.engine_api.container import ContainerConfig, ExecConfig, HostConfig, Ulimit

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


def container() -> Container:
    return Container(id="a" * 64, name="x", created_ns=0, path="sh")


def built(c: Container) -> dict[str, Any]:
    """The spec of a container under the daemon that generated the golden ones."""
    directory = f"{DAEMON_ROOT}/containers/{c.id}"
    mode = c.host_config.ipc_mode
    options = specgen.task_options(c, EngineConfig(cgroup_parent="/docker"), AVAILABLE)
    if parent := c.host_config.cgroup_parent:  # Docker leaves it to runc to make it absolute
        options = dataclasses.replace(options, cgroup_parent=parent)
    provisions = spec.Provisions(
        files=tuple((f"/etc/{n}", f"{directory}/{n}") for n in ("resolv.conf", "hostname", "hosts")),
        shm_path={"host": "/dev/shm", "shareable": f"{directory}/mounts/shm"}.get(mode, ""),
        init_path="/usr/bin/docker-init" if options.init else "",
        devices=devices.look(options),
    )
    return spec.build(options, provisions)


def plain(c: Container) -> dict[str, Any]:
    """The spec of a container for which nothing was made."""
    return spec.build(specgen.task_options(c, EngineConfig(), AVAILABLE), spec.Provisions())


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
    monkeypatch.setattr(devices, "_numbers", lambda path: (254, 0))
    monkeypatch.setattr(devices, "_mapped", _recorded_devices(golden["spec"]))
    monkeypatch.setattr(devices, "_host_devices", lambda directory: iter(()))
    c = record(golden["inspect"])
    ours = built(c)
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
    found = [m["destination"] for m in plain(c)["mounts"]]
    assert found.index("/a") < found.index("/a/b") < found.index("/a/b/c")


def test_a_mount_of_the_user_replaces_the_default_one() -> None:
    c = Container(id="a" * 64, name="x", created_ns=0, path="sh", host_config=HostConfig(tmpfs={"/dev/shm": "size=1m"}))
    found = [m for m in plain(c)["mounts"] if m["destination"] == "/dev/shm"]
    assert [m["source"] for m in found] == ["tmpfs"]


def test_unlimited_and_absurd_ulimits() -> None:
    found = spec.process(ProcessOptions(args=("sh",), rlimits=limits.rlimits([("core", -1, -1)], EngineConfig())))
    assert found["rlimits"] == [{"type": "RLIMIT_CORE", "hard": 2**64 - 1, "soft": 2**64 - 1}]
    with pytest.raises(Internal, match="wrong rlimit value: RLIMIT_ZZ"):
        limits.rlimits([("zz", 0, 0)], EngineConfig())


def test_the_daemons_limits_count_unless_others_are_asked_for() -> None:
    engine = EngineConfig(default_ulimits={"core": {"Soft": 1, "Hard": 2}, "nofile": {"Soft": 3, "Hard": 4}})
    c = replace(container(), host_config=HostConfig(ulimits=[Ulimit(name="core", soft=5, hard=6)]))
    assert specgen.task_options(c, engine, AVAILABLE).process.rlimits == (
        Rlimit("RLIMIT_CORE", 5, 6),
        Rlimit("RLIMIT_NOFILE", 3, 4),
    )


def test_gpus_are_refused_by_name() -> None:
    host = codec.convert(HostConfig, {"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}]})
    with pytest.raises(Internal, match=r'could not select device driver "" with capabilities: \[\[gpu\]\]'):
        plain(replace(container(), host_config=host))


def test_an_exec_has_the_surroundings_of_its_container() -> None:
    c = container()
    c.config.env = ["A=1"]
    c.config.user = "daemon"
    c.host_config.group_add = ["adm"]
    c.host_config.security_opt = ["no-new-privileges"]
    config = ExecConfig(cmd=["id"], env=["B=2"], tty=True)
    found = spec.process(specgen.exec_process(c, config, EngineConfig(), AVAILABLE, (24, 80)))
    assert found["user"] == {"uid": 0, "gid": 0, "username": "daemon", "additionalGroupNames": ["adm"]}
    assert {"A=1", "B=2", "TERM=xterm"} < set(found["env"])
    assert found["consoleSize"] == {"height": 24, "width": 80} and found["noNewPrivileges"] is True
    assert found["capabilities"]["bounding"] == DEFAULT and "oomScoreAdj" not in found


def test_a_privileged_exec_has_every_capability_and_its_container_s_filter() -> None:
    """Docker 28.5: `exec --privileged` in a container of the default profile cannot mount or unshare."""
    config = ExecConfig(cmd=["id"], privileged=True)
    found = specgen.exec_process(container(), config, EngineConfig(), AVAILABLE, size=None)
    plain = specgen.exec_process(container(), ExecConfig(cmd=["id"]), EngineConfig(), AVAILABLE, size=None)
    assert found.capabilities == AVAILABLE and plain.capabilities == tuple(DEFAULT)
    assert found.filter_capabilities == plain.filter_capabilities == tuple(DEFAULT)
    assert found.security.seccomp == plain.security.seccomp == ""


@pytest.mark.parametrize(
    ("options", "privileged", "daemon", "expected"),
    [
        ([], False, "", ""),
        ([], False, "/p.json", "/p.json"),
        ([], True, "/p.json", security.UNCONFINED),
        (['seccomp={"a": 1}'], True, "/p.json", '{"a": 1}'),
        (["seccomp=unconfined"], False, "/p.json", security.UNCONFINED),
        (["seccomp=builtin"], False, "/p.json", ""),
        (["seccomp=builtin"], True, "", ""),
    ],
)
def test_which_seccomp_profile_applies(options: list[str], privileged: bool, daemon: str, expected: str) -> None:
    """Docker 28.5: a profile that is named applies to a privileged container as well, and to each exec in it."""
    found = security.parse(options, EngineConfig(seccomp_profile=daemon), privileged=privileged)
    assert found.seccomp == expected


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ExecConfig(cmd=["id"], working_dir="tmp"), "Cwd must be an absolute path"),
        (ExecConfig(cmd=["id"], env=["=x"]), "invalid environment variable: name cannot be empty"),
    ],
)
def test_an_exec_that_cannot_be(config: ExecConfig, words: str) -> None:
    with pytest.raises(Internal, match=words):
        specgen.exec_process(container(), config, EngineConfig(), AVAILABLE, size=None)


def test_the_source_of_a_volume_is_known_only_at_the_start() -> None:
    c = replace(container(), mounts=[MountPoint(type="volume", destination="/v", name="v")])
    options = specgen.task_options(c, EngineConfig(), AVAILABLE)
    found = spec.build(options, spec.Provisions(sources={"/v": "/volumes/v"}))["mounts"]
    assert next(m["source"] for m in found if m["destination"] == "/v") == "/volumes/v"


@pytest.mark.parametrize("asked", ["/x/../proc", "//proc/", "/./proc"])
def test_a_tmpfs_has_one_spelling(asked: str) -> None:
    """So it takes the place of the default mount, and the runtime refuses it, as Docker's does."""
    c = replace(container(), host_config=HostConfig(tmpfs={asked: ""}))
    found = spec.build(specgen.task_options(c, EngineConfig(), AVAILABLE), spec.Provisions())
    assert [m["type"] for m in found["mounts"] if m["destination"].endswith("proc")] == ["tmpfs"]
    with pytest.raises(InvalidSpec, match="only procfs may be mounted at /proc"):
        validate(found)


def test_device_nodes_keep_their_kind_and_mode() -> None:
    host = codec.convert(
        HostConfig, {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n", "CgroupPermissions": "r"}]}
    )
    options = specgen.task_options(replace(container(), host_config=host), EngineConfig(), AVAILABLE)
    assert devices.waits(options)
    found = devices.look(options)
    nodes, rules = found.nodes, found.rules
    assert (nodes[0]["path"], nodes[0]["type"], nodes[0]["major"], nodes[0]["minor"]) == ("/dev/n", "c", 1, 3)
    assert nodes[0]["fileMode"] == stat.S_IMODE(Path("/dev/null").stat().st_mode)
    assert rules[-1] == {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}
