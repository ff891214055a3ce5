"""Every parameter of every route of the specification has its effect, or is refused by name; none is ignored in
silence.

`ROWS` has a row for each parameter of `specification.json`: a function that sends it to the engine and reads its effect
back, or expects the refusal that Docker gives too. A parameter without a row fails `test_no_parameter_is_forgotten`.
Bodies of create are sent together, as one container can have nearly all of them, and each row reads its own.
"""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.api.record_kinds import SPECIFICATION
from tests.support import busybox
from tests.support.engine import Answer, Engine, until

MIB = 1024 * 1024
NOT_A_MANAGER = "This node is not a swarm manager."
SLEEP = ["sleep", "1000"]


class Stage:
    """The engine with one container of each state, and the one that was created with everything."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._made: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {}
        self.running = engine.run(*SLEEP, name="running", config={"Labels": {"stage": "1"}})
        self.stopped = engine.run("sh", "-c", "echo out; echo err >&2; sleep 0.01; echo late", name="stopped")
        engine.wait(self.stopped)
        self.network = engine.call("POST", "/networks/create", {"Name": "net", "IPAM": {"Config": [SUBNET]}})["Id"]

    def get(self, path: str, version: str = "1.51", **query: Any) -> Any:
        answer = self.engine.request("GET", path, version=version, **query)
        assert answer.status == 200, answer.raw
        return answer.json

    def made(self, name: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
        """Return a container's inspect, its OCI configuration, and what the engine warned of at create."""
        if name not in self._made:
            body = BATCHES[name]()
            answer = self.engine.call("POST", "/containers/create", body, name=name, platform="linux")
            self.engine.call("POST", f"/containers/{name}/start")
            spec = json.loads((self.engine.exec_root / "tasks" / answer["Id"] / "config.json").read_text())
            self._made[name] = (self.engine.inspect(name), spec, answer["Warnings"])
        return self._made[name]

    def created(self, body: dict[str, Any] | None = None, **query: Any) -> str:
        made: str = self.engine.call("POST", "/containers/create", {"Image": "busybox", **(body or {})}, **query)["Id"]
        return made


Check = Callable[[Stage], None]


def ask(stage: Stage, method: str, path: str, body: Any = None, /, **query: Any) -> Answer:
    """A request whose parameters may have any name."""
    return stage.engine.request(method, f"{path}?{urllib.parse.urlencode(query)}", body)


SUBNET = {"Subnet": "10.97.0.0/24", "IPRange": "10.97.0.128/25", "Gateway": "10.97.0.7",
          "AuxiliaryAddresses": {"a": "10.97.0.130"}}  # fmt: skip


@pytest.fixture(scope="module")
def stage(root: None) -> Iterator[Stage]:
    engine = Engine().start()
    try:
        engine.import_busybox()
        yield Stage(engine)
    finally:
        engine.close()


def dig(found: Any, path: str) -> Any:
    """Return what stands at `a.b.0.c`; `*` is the one value of an object."""
    for step in path.split("/") if "/" in path else path.split("."):
        if isinstance(found, dict) and step == "*":
            (found,) = found.values()
        else:
            found = found[int(step)] if isinstance(found, list) else found[step]
    return found


# --- create: what each field of the body becomes


def shown(path: str, value: Any, name: str = "all") -> Check:
    """The field stands in what inspect shows."""

    def check(stage: Stage) -> None:
        assert dig(stage.made(name)[0], path) == value

    return check


def acts(path: str, value: Any, name: str = "all", warning: str = "") -> Check:
    """The field stands in the OCI configuration with which the container runs, or the engine warned of it."""

    def check(stage: Stage) -> None:
        _, spec, warnings = stage.made(name)
        try:
            assert dig(spec, path) == value
        except (KeyError, AssertionError):
            assert warning and any(warning in line for line in warnings), (path, warnings)

    return check


def has(path: str, value: Any, name: str = "all") -> Check:
    """The OCI configuration has this among the items of a list."""

    def check(stage: Stage) -> None:
        assert value in dig(stage.made(name)[1], path)

    return check


def mounted(target: str, test: Callable[[dict[str, Any]], object], name: str = "all") -> Check:
    def check(stage: Stage) -> None:
        (found,) = [m for m in stage.made(name)[1]["mounts"] if m["destination"] == target]
        assert test(found), found

    return check


def mount(index: int, path: str, value: Any, name: str = "all") -> Check:
    return shown(f"HostConfig.Mounts.{index}.{path}", value, name)


def refused(method: str, path: str, status: int, words: str, body: Any = None, **query: Any) -> Check:
    """The parameter is refused; `words` stand in the message."""

    def check(stage: Stage) -> None:
        answer = ask(stage, method, path, body, **query)
        assert (answer.status, words in answer.raw.decode()) == (status, True), (answer.status, answer.raw)

    return check


def create_refused(host: dict[str, Any], words: str) -> Check:
    return refused("POST", "/containers/create", 400, words, {"Image": "busybox", "HostConfig": host})


DEVICE = {"PathOnHost": "/dev/zero", "PathInContainer": "/dev/mine", "CgroupPermissions": "r"}
MOUNTS: list[dict[str, Any]] = [
    {"Type": "bind", "Source": "/tmp", "Target": "/bind", "ReadOnly": True, "Consistency": "cached",
     "BindOptions": {"Propagation": "rslave", "NonRecursive": True, "CreateMountpoint": True}},
    {"Type": "volume", "Source": "params", "Target": "/volume",
     "VolumeOptions": {"NoCopy": True, "Labels": {"l": "1"},
                       "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs"}}}},
    {"Type": "tmpfs", "Target": "/tmpfs",
     "TmpfsOptions": {"SizeBytes": MIB, "Mode": 0o700, "Options": [["noexec"]]}},
    {"Type": "bind", "Source": "/tmp", "Target": "/nonrec", "ReadOnly": True,
     "BindOptions": {"ReadOnlyNonRecursive": True}},
]  # fmt: skip
HEALTH = {"Test": ["CMD", "true"], "Interval": 10**9, "Timeout": 2 * 10**9, "Retries": 3, "StartPeriod": 4 * 10**9,
          "StartInterval": 5 * 10**9}  # fmt: skip
DISK = next((f"/dev/{name}" for name in sorted(os.listdir("/sys/block")) if os.path.exists(f"/dev/{name}")), "/dev/sda")
WEIGHT, RATE = [{"Path": DISK, "Weight": 20}], [{"Path": DISK, "Rate": MIB}]
HOST: dict[str, Any] = {
    "CpuShares": 512, "Memory": 64 * MIB, "BlkioWeight": 300, "CpuPeriod": 50_000, "CpuQuota": 25_000,
    "CpusetCpus": "0", "CpusetMems": "0", "Devices": [DEVICE], "DeviceCgroupRules": ["c 42:* rmw"],
    "MemoryReservation": 32 * MIB, "MemorySwap": 128 * MIB, "MemorySwappiness": 5, "Init": True, "PidsLimit": 99,
    "Ulimits": [{"Name": "nofile", "Soft": 300, "Hard": 400}], "CpuCount": 1, "CpuPercent": 50,
    "Binds": ["/tmp:/bound:ro"], "ContainerIDFile": "/x", "LogConfig": {"Type": "json-file", "Config": {"tag": "t"}},
    "NetworkMode": "net", "PortBindings": {"81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "47181"}]},
    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}, "VolumeDriver": "local", "Mounts": MOUNTS,
    "VolumesFrom": ["stopped:ro"], "ConsoleSize": [11, 22], "Annotations": {"an": "notation"}, "CapAdd": ["SYS_TIME"],
    "CapDrop": ["MKNOD"], "CgroupnsMode": "host", "Dns": ["9.9.9.9"], "DnsOptions": ["ndots:3"],
    "DnsSearch": ["example.test"], "ExtraHosts": ["hosty:1.2.3.4"], "GroupAdd": ["777"], "IpcMode": "shareable",
    "Cgroup": "", "OomScoreAdj": 99, "PublishAllPorts": True, "ReadonlyRootfs": True,
    "SecurityOpt": ["no-new-privileges"], "Tmpfs": {"/tm": "size=1m"}, "ShmSize": 2 * MIB,
    "Sysctls": {"net.ipv4.ip_default_ttl": "70"}, "Runtime": "runc", "Isolation": "default",
    "MaskedPaths": ["/proc/kcore"], "ReadonlyPaths": ["/proc/sys"], "OomKillDisable": False, "UTSMode": "",
    "BlkioWeightDevice": WEIGHT, "BlkioDeviceReadBps": RATE, "BlkioDeviceWriteBps": RATE, "BlkioDeviceReadIOps": RATE,
    "BlkioDeviceWriteIOps": RATE, "CgroupParent": "/sampan-parameters",
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "Hostname": "hosty", "Domainname": "example.org", "User": "1:2", "AttachStdin": True, "AttachStdout": True,
    "AttachStderr": True, "ExposedPorts": {"81/tcp": {}}, "Tty": True, "OpenStdin": True, "StdinOnce": True,
    "Env": ["A=b"], "Cmd": ["-c", "sleep 1000"], "Healthcheck": HEALTH, "ArgsEscaped": True, "Image": "busybox",
    "Volumes": {"/anonymous": {}}, "WorkingDir": "/tmpfs", "Entrypoint": ["/bin/sh"], "OnBuild": ["RUN x"],
    "Labels": {"la": "bel"}, "StopSignal": "SIGUSR1", "StopTimeout": 7, "Shell": ["/bin/sh"],
}  # fmt: skip
ENDPOINT: dict[str, Any] = {
    "IPAMConfig": {"IPv4Address": "10.97.0.20", "LinkLocalIPs": ["169.254.7.7"]}, "Links": ["running:friend"],
    "MacAddress": "02:42:0a:61:00:14", "Aliases": ["nick"], "GwPriority": 3,
    "DriverOpts": {"com.docker.network.endpoint.ifname": "other0"},
}  # fmt: skip
BATCHES: dict[str, Callable[[], dict[str, Any]]] = {
    "all": lambda: {**CONFIG, "HostConfig": HOST, "NetworkingConfig": {"EndpointsConfig": {"net": ENDPOINT}}},
    "second": lambda: {
        "Image": "busybox", "Cmd": SLEEP, "NetworkDisabled": True,
        "HostConfig": {"Privileged": True, "NanoCpus": 500_000_000, "UTSMode": "host", "AutoRemove": True,
                       "UsernsMode": "host", "PidMode": "host", "KernelMemoryTCP": MIB, "OomKillDisable": True},
    },
    "third": lambda: {"Image": "busybox", "Cmd": SLEEP, "MacAddress": "02:42:0a:61:00:33",
                      "HostConfig": {"Links": ["running:friend"]},
                      "NetworkingConfig": {"EndpointsConfig": {"bridge": {"Links": ["running:friend"]}}}},
    "wide": lambda: {"Image": "busybox", "Cmd": SLEEP,
                     "HostConfig": {"Mounts": [{"Type": "volume", "Source": "sub", "Target": "/s",
                                                "VolumeOptions": {"Subpath": "etc"}}]}},
}  # fmt: skip


def settings(path: str, value: Any, name: str = "all") -> Check:
    return shown(f"NetworkSettings/Networks/*/{path}", value, name)


def answer_only(field: str) -> Check:
    """The field is one of an answer: a request that has it changes nothing."""

    def check(stage: Stage) -> None:
        value = 9 if field.endswith("Len") else ["x"] if field == "DNSNames" else "x"
        id = stage.created({"NetworkingConfig": {"EndpointsConfig": {"bridge": {field: value}}}})
        assert stage.engine.inspect(id)["NetworkSettings"]["Networks"]["bridge"][field] != value
        stage.engine.remove(id)

    return check


def subpath_of_a_volume(stage: Stage) -> None:
    mounts = [{"Type": "volume", "Source": "sub", "Target": "/v"}]
    stage.engine.run("mkdir", "-p", "/v/etc", name="fills", Mounts=mounts)
    stage.engine.wait("fills")
    mount(0, "VolumeOptions.Subpath", "etc", "wide")(stage)
    assert b"ok" in stage.engine.cli("docker", "exec", "wide", "sh", "-c", "touch /s/x; echo ok").stdout.encode()


BLKIO = "linux.resources.blockIO"
ANSWERED = ("NetworkID", "EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "IPv6Gateway", "GlobalIPv6Address",
            "GlobalIPv6PrefixLen", "DNSNames")  # fmt: skip
CREATE: dict[str, Check] = {
    "query name": shown("Name", "/all"),
    "query platform": refused("POST", "/containers/create", 404, "does not match the specified platform",
                              {"Image": "busybox"}, platform="linux/s390x"),
    "Hostname": acts("hostname", "hosty"),
    "Domainname": shown("Config.Domainname", "example.org"),
    "User": acts("process.user.username", "1:2"),
    "Tty": acts("process.terminal", True),
    "Env": has("process.env", "A=b"),
    "Cmd": has("process.args", "sleep 1000"),
    "Entrypoint": has("process.args", "/bin/sh"),
    "WorkingDir": acts("process.cwd", "/tmpfs"),
    "Volumes": mounted("/anonymous", bool),
    "Healthcheck": shown("Config.Healthcheck", HEALTH),
    **{f"Healthcheck.{key}": shown(f"Config.Healthcheck.{key}", value) for key, value in HEALTH.items()},
    **{key: shown(f"Config.{key}", CONFIG[key]) for key in (
        "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "OpenStdin", "StdinOnce", "ArgsEscaped", "Image",
        "OnBuild", "Labels", "StopSignal", "StopTimeout", "Shell")},
    "NetworkDisabled": lambda stage: _without_network(stage),
    "MacAddress": settings("MacAddress", "02:42:0a:61:00:33", "third"),
    "HostConfig": shown("HostConfig.Memory", 64 * MIB),
    "HostConfig.CpuShares": acts("linux.resources.cpu.shares", 512),
    "HostConfig.Memory": acts("linux.resources.memory.limit", 64 * MIB),
    "HostConfig.CgroupParent": lambda stage: _starts(stage, "linux.cgroupsPath", "/sampan-parameters/"),
    "HostConfig.BlkioWeight": acts(f"{BLKIO}.weight", 300, warning="Block I/O weight"),
    **{f"HostConfig.BlkioWeightDevice{part}": acts(f"{BLKIO}.weightDevice.0.weight", 20, warning="weight_device")
       for part in ("", "[].Path", "[].Weight")},
    **{f"HostConfig.BlkioDevice{what}{part}": acts(f"{BLKIO}.throttle{what.replace('IOps', 'IOPS')}Device.0.rate", MIB)
       for what in ("ReadBps", "WriteBps", "ReadIOps", "WriteIOps") for part in ("", "[].Path", "[].Rate")},
    "HostConfig.CpuPeriod": acts("linux.resources.cpu.period", 50_000),
    "HostConfig.CpuQuota": acts("linux.resources.cpu.quota", 25_000),
    "HostConfig.CpusetCpus": acts("linux.resources.cpu.cpus", "0"),
    "HostConfig.CpusetMems": acts("linux.resources.cpu.mems", "0"),
    "HostConfig.CpuRealtimePeriod": lambda stage: _realtime(stage, {"CpuRealtimePeriod": 1_000_000}),
    "HostConfig.CpuRealtimeRuntime": create_refused({"CpuRealtimePeriod": 1, "CpuRealtimeRuntime": 2},
                                                    "cpu real-time runtime cannot be higher"),
    **{f"HostConfig.Devices{part}": has("linux.devices", {"type": "c", "path": "/dev/mine", "major": 1, "minor": 5,
                                                          "fileMode": 0o666, "uid": 0, "gid": 0})
       for part in ("", "[].PathOnHost", "[].PathInContainer")},
    "HostConfig.Devices[].CgroupPermissions": has("linux.resources.devices", {
        "allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"}),
    "HostConfig.DeviceCgroupRules": has("linux.resources.devices", {
        "allow": True, "type": "c", "major": 42, "minor": -1, "access": "rmw"}),
    **{f"HostConfig.DeviceRequests{part}": lambda stage: _no_device_driver(stage)
       for part in ("", "[].Driver", "[].Count", "[].DeviceIDs", "[].Capabilities", "[].Options")},
    "HostConfig.KernelMemoryTCP": shown("HostConfig.KernelMemoryTCP", MIB, "second"),
    "HostConfig.MemoryReservation": acts("linux.resources.memory.reservation", 32 * MIB),
    "HostConfig.MemorySwap": acts("linux.resources.memory.swap", 128 * MIB),
    "HostConfig.MemorySwappiness": acts("linux.resources.memory.swappiness", 5, warning="swappiness"),
    "HostConfig.NanoCpus": acts("linux.resources.cpu.quota", 50_000, "second"),
    "HostConfig.OomKillDisable": acts("linux.resources.memory.disableOOMKiller", True, "second", "OomKillDisable"),
    "HostConfig.Init": lambda stage: _starts(stage, "process.args.0", "/sbin/docker-init"),
    "HostConfig.PidsLimit": acts("linux.resources.pids.limit", 99),
    **{f"HostConfig.Ulimits{part}": has("process.rlimits", {"type": "RLIMIT_NOFILE", "hard": 400, "soft": 300})
       for part in ("", "[].Name", "[].Soft", "[].Hard")},
    "HostConfig.CpuCount": shown("HostConfig.CpuCount", 1),
    "HostConfig.CpuPercent": acts("linux.nothing", None, warning="CPU percent"),
    "HostConfig.IOMaximumIOps": create_refused({"IOMaximumIOps": 1}, "QoS maximum IOPs configuration is not supported"),
    "HostConfig.IOMaximumBandwidth": create_refused({"IOMaximumBandwidth": 1}, "QoS maximum bandwidth configuration"),
    "HostConfig.Binds": mounted("/bound", lambda m: {"ro", "rro"} & {*m["options"]}),
    "HostConfig.ContainerIDFile": shown("HostConfig.ContainerIDFile", "/x"),
    "HostConfig.LogConfig": shown("HostConfig.LogConfig", HOST["LogConfig"]),
    "HostConfig.LogConfig.Type": create_refused({"LogConfig": {"Type": "nope"}}, "nope"),
    "HostConfig.LogConfig.Config": create_refused(
        {"LogConfig": {"Type": "json-file", "Config": {"nope": "1"}}}, "nope"),
    "HostConfig.NetworkMode": shown("NetworkSettings/Networks/net/IPAddress", "10.97.0.20"),
    **{f"HostConfig.PortBindings{part}": lambda stage: _published(stage)
       for part in ("", "{}[].HostIp", "{}[].HostPort")},
    "HostConfig.RestartPolicy": shown("HostConfig.RestartPolicy", HOST["RestartPolicy"]),
    "HostConfig.RestartPolicy.Name": shown("HostConfig.RestartPolicy.Name", "on-failure"),
    "HostConfig.RestartPolicy.MaximumRetryCount": shown("HostConfig.RestartPolicy.MaximumRetryCount", 2),
    "HostConfig.AutoRemove": lambda stage: _auto_removed(stage),
    "HostConfig.VolumeDriver": lambda stage: _volume_driver(stage),
    "HostConfig.VolumesFrom": shown("HostConfig.VolumesFrom", ["stopped:ro"]),
    "HostConfig.Mounts": mounted("/bind", bool),
    "HostConfig.Mounts[].Target": mounted("/bind", bool),
    "HostConfig.Mounts[].Source": shown("HostConfig.Mounts.0.Source", "/tmp"),
    "HostConfig.Mounts[].Type": mounted("/tmpfs", lambda m: m["type"] == "tmpfs"),
    "HostConfig.Mounts[].ReadOnly": mounted("/bind", lambda m: "ro" in m["options"] or "rro" in m["options"]),
    "HostConfig.Mounts[].Consistency": mount(0, "Consistency", "cached"),
    "HostConfig.Mounts[].BindOptions": mount(0, "BindOptions", MOUNTS[0]["BindOptions"]),
    "HostConfig.Mounts[].BindOptions.Propagation": mounted("/bind", lambda m: "rslave" in m["options"]),
    "HostConfig.Mounts[].BindOptions.NonRecursive": mounted("/bind", lambda m: "rbind" not in m["options"]),
    "HostConfig.Mounts[].BindOptions.CreateMountpoint": lambda stage: _create_mountpoint(stage),
    "HostConfig.Mounts[].BindOptions.ReadOnlyNonRecursive": mounted("/nonrec", lambda m: "rro" not in m["options"]),
    "HostConfig.Mounts[].BindOptions.ReadOnlyForceRecursive": lambda stage: _never_read_only(stage),
    "HostConfig.Mounts[].VolumeOptions": mount(1, "VolumeOptions", MOUNTS[1]["VolumeOptions"]),
    "HostConfig.Mounts[].VolumeOptions.NoCopy": mount(1, "VolumeOptions.NoCopy", True),
    "HostConfig.Mounts[].VolumeOptions.Labels": lambda stage: _of_volume(stage, "Labels", {"l": "1"}),
    "HostConfig.Mounts[].VolumeOptions.DriverConfig": lambda stage: _of_volume(stage, "Driver", "local"),
    "HostConfig.Mounts[].VolumeOptions.DriverConfig.Name": lambda stage: _of_volume(stage, "Driver", "local"),
    "HostConfig.Mounts[].VolumeOptions.DriverConfig.Options": lambda stage: _of_volume(
        stage, "Options", {"type": "tmpfs", "device": "tmpfs"}),
    "HostConfig.Mounts[].VolumeOptions.Subpath": subpath_of_a_volume,
    **{f"HostConfig.Mounts[].ImageOptions{part}": lambda stage: _image_mount(stage) for part in ("", ".Subpath")},
    "HostConfig.Mounts[].TmpfsOptions": mounted("/tmpfs", lambda m: f"size={MIB}" in m["options"]),
    "HostConfig.Mounts[].TmpfsOptions.SizeBytes": mounted("/tmpfs", lambda m: f"size={MIB}" in m["options"]),
    "HostConfig.Mounts[].TmpfsOptions.Mode": mounted("/tmpfs", lambda m: "mode=700" in m["options"]),
    "HostConfig.Mounts[].TmpfsOptions.Options": mounted("/tmpfs", lambda m: "noexec" in m["options"]),
    "HostConfig.ConsoleSize": acts("process.consoleSize", {"height": 11, "width": 22}),
    "HostConfig.Annotations": acts("annotations.an", "notation"),
    "HostConfig.CapAdd": has("process.capabilities.bounding", "CAP_SYS_TIME"),
    "HostConfig.CapDrop": lambda stage: _lacks(stage, "process.capabilities.bounding", "CAP_MKNOD"),
    "HostConfig.CgroupnsMode": lambda stage: _lacks(stage, "linux.namespaces", {"type": "cgroup"}),
    "HostConfig.Dns": lambda stage: _file(stage, "ResolvConfPath", "9.9.9.9"),
    "HostConfig.DnsOptions": lambda stage: _file(stage, "ResolvConfPath", "ndots:3"),
    "HostConfig.DnsSearch": lambda stage: _file(stage, "ResolvConfPath", "search example.test"),
    "HostConfig.ExtraHosts": lambda stage: _file(stage, "HostsPath", "1.2.3.4\thosty"),
    "HostConfig.GroupAdd": has("process.user.additionalGroupNames", "777"),
    "HostConfig.IpcMode": shown("HostConfig.IpcMode", "shareable"),
    "HostConfig.Cgroup": shown("HostConfig.Cgroup", ""),
    "HostConfig.Links": lambda stage: _linked(stage),
    "HostConfig.OomScoreAdj": acts("process.oomScoreAdj", 99),
    "HostConfig.PidMode": lambda stage: _lacks(stage, "linux.namespaces", {"type": "pid"}, "second"),
    "HostConfig.Privileged": has("process.capabilities.bounding", "CAP_SYS_MODULE", "second"),
    "HostConfig.PublishAllPorts": shown("HostConfig.PublishAllPorts", True),
    "HostConfig.ReadonlyRootfs": acts("root.readonly", True),
    "HostConfig.SecurityOpt": acts("process.noNewPrivileges", True),
    "HostConfig.StorageOpt": refused(
        "POST", "/containers/create", 500, "Unknown option nope",
        {"Image": "busybox", "HostConfig": {"StorageOpt": {"nope": "1"}}}),
    "HostConfig.Tmpfs": mounted("/tm", lambda m: "size=1m" in m["options"]),
    "HostConfig.UTSMode": lambda stage: _lacks(stage, "linux.namespaces", {"type": "uts"}, "second"),
    "HostConfig.UsernsMode": shown("HostConfig.UsernsMode", "host", "second"),
    "HostConfig.ShmSize": lambda stage: shown("HostConfig.ShmSize", 2 * MIB)(stage),
    "HostConfig.Sysctls": acts("linux/sysctl/net.ipv4.ip_default_ttl", "70"),
    "HostConfig.Runtime": create_refused({"Runtime": "nope"}, "unknown or invalid runtime name: nope"),
    "HostConfig.Isolation": create_refused({"Isolation": "nope"}, "invalid isolation (nope)"),
    "HostConfig.MaskedPaths": acts("linux.maskedPaths", ["/proc/kcore"]),
    "HostConfig.ReadonlyPaths": acts("linux.readonlyPaths", ["/proc/sys"]),
    "NetworkingConfig": settings("IPAddress", "10.97.0.20"),
    "NetworkingConfig.EndpointsConfig": settings("IPAddress", "10.97.0.20"),
    "NetworkingConfig.EndpointsConfig{}.IPAMConfig": settings("IPAMConfig", ENDPOINT["IPAMConfig"]),
    "NetworkingConfig.EndpointsConfig{}.IPAMConfig.IPv4Address": settings("IPAddress", "10.97.0.20"),
    "NetworkingConfig.EndpointsConfig{}.IPAMConfig.IPv6Address": refused(
        "POST", "/containers/create", 400, "invalid",
        {"Image": "busybox", "NetworkingConfig": {"EndpointsConfig": {"net": {"IPAMConfig": {"IPv6Address": "x"}}}}}),
    "NetworkingConfig.EndpointsConfig{}.IPAMConfig.LinkLocalIPs": settings("IPAMConfig/LinkLocalIPs", ["169.254.7.7"]),
    "NetworkingConfig.EndpointsConfig{}.Links": lambda stage: _linked(stage),
    "NetworkingConfig.EndpointsConfig{}.MacAddress": settings("MacAddress", "02:42:0a:61:00:14"),
    "NetworkingConfig.EndpointsConfig{}.Aliases": settings("Aliases", ["nick"]),
    "NetworkingConfig.EndpointsConfig{}.DriverOpts": settings("DriverOpts", ENDPOINT["DriverOpts"]),
    "NetworkingConfig.EndpointsConfig{}.GwPriority": settings("GwPriority", 3),
    **{f"NetworkingConfig.EndpointsConfig{{}}.{field}": answer_only(field) for field in ANSWERED},
}  # fmt: skip


def _starts(stage: Stage, path: str, text: str) -> None:
    assert dig(stage.made("all")[1], path).startswith(text)


def _lacks(stage: Stage, path: str, value: Any, name: str = "all") -> None:
    assert value not in dig(stage.made(name)[1], path)


def _file(stage: Stage, key: str, text: str) -> None:
    with open(stage.made("all")[0][key]) as file:
        assert text in file.read()


def _realtime(stage: Stage, host: dict[str, Any]) -> None:
    answer = stage.engine.request("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})
    if answer.status == 201:
        assert stage.engine.inspect(answer.json["Id"])["HostConfig"]["CpuRealtimePeriod"] == 1_000_000
        stage.engine.remove(answer.json["Id"])
    else:
        assert "real-time" in answer.message or "realtime" in answer.message


def _no_device_driver(stage: Stage) -> None:
    asked = {"Driver": "nope", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {"a": "b"}}
    id = stage.created({"HostConfig": {"DeviceRequests": [asked]}})
    refusal = stage.engine.request("POST", f"/containers/{id}/start")
    assert refusal.status >= 400 and "could not select device driver" in refusal.message
    stage.engine.remove(id)


def _published(stage: Stage) -> None:
    assert stage.made("all")[0]["NetworkSettings"]["Ports"]["81/tcp"] == HOST["PortBindings"]["81/tcp"]


def _auto_removed(stage: Stage) -> None:
    id = stage.engine.run("true", AutoRemove=True)
    until(lambda: stage.engine.request("GET", f"/containers/{id}/json").status == 404, 10, "it is gone")


def _volume_driver(stage: Stage) -> None:
    body = {"Image": "busybox", "Volumes": {"/v": {}}, "HostConfig": {"VolumeDriver": "nope"}}
    answer = stage.engine.request("POST", "/containers/create", body)
    assert answer.status >= 400 and "nope" in answer.message


def _create_mountpoint(stage: Stage) -> None:
    source = stage.engine.directory / "made"
    mounts = [{"Type": "bind", "Source": str(source), "Target": "/x", "BindOptions": {"CreateMountpoint": True}}]
    stage.engine.wait(stage.engine.run("true", Mounts=mounts))
    assert source.is_dir()


def _of_volume(stage: Stage, key: str, value: Any) -> None:
    stage.made("all")
    assert stage.get("/volumes/params")[key] == value


def _image_mount(stage: Stage) -> None:
    """What cannot be mounted yet is refused by name when the container starts."""
    mounts = [{"Type": "image", "Source": "busybox", "Target": "/i", "ImageOptions": {"Subpath": "bin"}}]
    id = stage.created({"HostConfig": {"Mounts": mounts}})
    refusal = stage.engine.request("POST", f"/containers/{id}/start")
    assert (refusal.status, "mounting an image is not supported" in refusal.message) == (501, True)


def _never_read_only(stage: Stage) -> None:
    options = {"ReadOnlyForceRecursive": True}
    id = stage.created({"HostConfig": {"Mounts": [
        {"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": options}]}})  # fmt: skip
    refusal = stage.engine.request("POST", f"/containers/{id}/start")
    assert (refusal.status, "ReadOnlyForceRecursive" in refusal.message) == (500, True), refusal.raw


def _without_network(stage: Stage) -> None:
    stage.made("second")
    assert stage.engine.cli("docker", "exec", "second", "ls", "/sys/class/net").stdout.split() == ["lo"]


def _linked(stage: Stage) -> None:
    """A link does nothing, and the engine says so."""
    assert any("Links" in line for line in stage.made("third")[2])


# --- update


def updated(field: str, value: Any, **beside: Any) -> Check:
    def check(stage: Stage) -> None:
        id = stage.engine.run(*SLEEP, Memory=32 * MIB, MemorySwap=64 * MIB)
        answer = stage.engine.request("POST", f"/containers/{id}/update", {field: value, **beside})
        if answer.status != 200:
            assert "cgroup" in answer.message or "realtime" in answer.message.lower(), answer.raw  # not on this kernel
        elif not any("discarded" in line for line in answer.json["Warnings"] or ()):
            assert stage.engine.inspect(id)["HostConfig"][field] == value
        stage.engine.remove(id)

    return check


def update_discards(field: str, value: Any) -> Check:
    """What a container has for all its life is not changed, and the answer says so."""

    def check(stage: Stage) -> None:
        before = stage.engine.inspect(stage.running)["HostConfig"].get(field)
        answer = stage.engine.request("POST", f"/containers/{stage.running}/update", {field: value})
        assert answer.status == 200 and [line for line in answer.json["Warnings"] if field in line], answer.raw
        assert stage.engine.inspect(stage.running)["HostConfig"].get(field) == before

    return check


def warned(field: str, value: Any, words: str) -> Check:
    def check(stage: Stage) -> None:
        warnings = stage.engine.call("POST", "/containers/running/update", {field: value})["Warnings"]
        assert any(words in line for line in warnings)

    return check


def no_such_field(field: str, value: Any) -> Check:
    """The specification shares its list of limits with create; Docker's engine has no such field here, as no key."""

    def check(stage: Stage) -> None:
        before = stage.engine.inspect("running")["HostConfig"].get(field)
        assert stage.engine.request("POST", "/containers/running/update", {field: value}).status == 200
        assert stage.engine.inspect("running")["HostConfig"].get(field) == before

    return check


NESTED = {"BlkioWeightDevice": ("Path", "Weight"), "Devices": ("PathOnHost", "PathInContainer", "CgroupPermissions"),
          "BlkioDeviceReadBps": ("Path", "Rate"), "BlkioDeviceWriteBps": ("Path", "Rate"),
          "BlkioDeviceReadIOps": ("Path", "Rate"), "BlkioDeviceWriteIOps": ("Path", "Rate"),
          "DeviceRequests": ("Driver", "Count", "DeviceIDs", "Capabilities", "Options"),
          "Ulimits": ("Name", "Soft", "Hard")}  # fmt: skip
REQUESTS = [{"Driver": "d", "Count": 1, "DeviceIDs": ["1"], "Capabilities": [["gpu"]], "Options": {"a": "b"}}]
LASTING: dict[str, Any] = {
    "CgroupParent": "/x", "BlkioWeightDevice": WEIGHT, "BlkioDeviceReadBps": RATE, "BlkioDeviceWriteBps": RATE,
    "BlkioDeviceReadIOps": RATE, "BlkioDeviceWriteIOps": RATE, "Devices": [DEVICE], "DeviceCgroupRules": ["c 1:1 r"],
    "DeviceRequests": REQUESTS, "MemorySwappiness": 3, "OomKillDisable": True,
    "Ulimits": HOST["Ulimits"], "CpuCount": 1,
}  # fmt: skip
POLICY = {"Name": "on-failure", "MaximumRetryCount": 4}
UPDATE: dict[str, Check] = {
    **{field: updated(field, value) for field, value in {
        "CpuShares": 700, "Memory": 40 * MIB, "BlkioWeight": 200, "CpuPeriod": 60_000, "CpuQuota": 30_000,
        "CpusetCpus": "0", "CpusetMems": "0", "MemoryReservation": 20 * MIB, "MemorySwap": 80 * MIB,
        "NanoCpus": 300_000_000, "PidsLimit": 88, "RestartPolicy": POLICY, "CpuRealtimePeriod": 900_000}.items()},
    "CpuRealtimeRuntime": updated("CpuRealtimeRuntime", 10_000, CpuRealtimePeriod=900_000),
    **{field: update_discards(field, value) for field, value in LASTING.items()},
    **{f"{field}[].{part}": update_discards(field, LASTING[field]) for field, parts in NESTED.items()
       for part in parts},
    **{field: refused("POST", "/containers/running/update", 400, "linux does not support Maximum IO Bandwidth",
                      {field: 5}) for field in ("IOMaximumIOps", "IOMaximumBandwidth")},
    **{field: warned(field, value, words) for field, value, words in (
        ("KernelMemoryTCP", MIB, "KernelMemoryTCP"), ("CpuPercent", 5, "CPU percent"))},
    "Init": no_such_field("Init", True),
    "RestartPolicy.Name": refused("POST", "/containers/running/update", 400, "unknown policy 'x'",
                                  {"RestartPolicy": {"Name": "x"}}),
    "RestartPolicy.MaximumRetryCount": refused("POST", "/containers/running/update", 400, "cannot be negative",
                                               {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}}),
}  # fmt: skip

# --- containers: queries


def names(rows: list[dict[str, Any]]) -> set[str]:
    return {row["Names"][0] for row in rows}


def differs(path: str, first: dict[str, Any], second: dict[str, Any]) -> Check:
    """Two values of a parameter give two answers."""

    def check(stage: Stage) -> None:
        assert stage.engine.request("GET", path, **first).raw != stage.engine.request("GET", path, **second).raw

    return check


def all_(stage: Stage) -> None:
    assert "/stopped" in names(stage.get("/containers/json", all="1")) - names(stage.get("/containers/json"))


def limit(stage: Stage) -> None:
    assert len(stage.get("/containers/json", limit="1")) == 1


def size(stage: Stage) -> None:
    assert "SizeRootFs" in stage.get("/containers/json", size="1")[0]
    assert "SizeRootFs" not in stage.get("/containers/json")[0]


def filters(path: str, given: dict[str, list[str]], found: Callable[[Any], object]) -> Check:
    def check(stage: Stage) -> None:
        assert found(stage.get(path, filters=json.dumps(given)))
        refusal = stage.engine.request("GET", path, filters='{"nope":["x"]}')
        assert (refusal.status, refusal.message) == (400, "invalid filter 'nope'")

    return check


def ps_args(stage: Stage) -> None:
    assert stage.get("/containers/running/top", ps_args="-o pid,args")["Titles"] == ["PID", "COMMAND"]
    assert "PID" in stage.get("/containers/running/top", ps_args="-x")["Titles"]


def log(stage: Stage, **query: Any) -> bytes:
    return stage.engine.request("GET", "/containers/stopped/logs", **query).raw


def log_lines(query: dict[str, Any], *expected: bytes, absent: bytes = b"nothing") -> Check:
    def check(stage: Stage) -> None:
        raw = log(stage, **{"stdout": "1", "stderr": "1", **query})
        assert all(line in raw for line in expected) and absent not in raw, raw

    return check


def log_follow(stage: Stage) -> None:
    id = stage.engine.run("sh", "-c", "echo 1; sleep 0.3; echo 2")
    assert b"2" in stage.engine.request("GET", f"/containers/{id}/logs", stdout="1", follow="1").raw[8:]


def stats(stage: Stage) -> None:
    assert stage.get("/containers/running/stats", stream="0")["precpu_stats"]["cpu_usage"]["total_usage"] > 0


def one_shot(stage: Stage) -> None:
    answer = stage.get("/containers/running/stats", stream="0", **{"one-shot": "1"})
    assert answer["precpu_stats"]["cpu_usage"]["total_usage"] == 0


def resized(h: int, w: int) -> Check:
    def check(stage: Stage) -> None:
        id = stage.engine.run(*SLEEP, config={"Tty": True})
        assert stage.engine.request("POST", f"/containers/{id}/resize", h=h, w=w).status == 200
        assert stage.engine.cli("docker", "exec", id, "sh", "-c", "stty size </proc/1/fd/0").stdout.split() == [
            str(h), str(w)]  # fmt: skip
        stage.engine.remove(id)

    return check


def detach_keys(path: str) -> Check:
    return refused("GET" if path.endswith("/ws") else "POST", path, 400, "Invalid detach keys (xx) provided",
                   detachKeys="xx")  # fmt: skip


TRAP = ["sh", "-c", "trap 'echo got; exit 42' USR1; trap '' TERM; echo ready; while :; do sleep 0.02; done"]


def signalled(verb: str) -> Check:
    """The signal that the program traps is the one that it gets."""

    def check(stage: Stage) -> None:
        id = stage.engine.run(*TRAP)
        until(lambda: b"ready" in stage.engine.logs(id), 10, "the trap is set")
        stage.engine.call("POST", f"/containers/{id}/{verb}", signal="USR1", **({} if verb == "kill" else {"t": 10}))
        until(lambda: b"got" in stage.engine.logs(id), 10, "the trap has sprung")
        stage.engine.remove(id)

    return check


def timeout(verb: str) -> Check:
    def check(stage: Stage) -> None:
        id = stage.engine.run(*TRAP, config={"StopTimeout": 60})
        began = time.monotonic()
        stage.engine.call("POST", f"/containers/{id}/{verb}", t="0")
        assert time.monotonic() - began < 10
        stage.engine.remove(id)

    return check


def renamed(stage: Stage) -> None:
    id = stage.created()
    stage.engine.call("POST", f"/containers/{id}/rename", name="renamed")
    assert stage.engine.inspect(id)["Name"] == "/renamed"
    stage.engine.remove(id)


def attached(query: dict[str, Any], expected: bytes, absent: bytes) -> Check:
    """What attach says of a container that has ended: its log, and nothing of what was not asked for."""

    def check(stage: Stage) -> None:
        raw = stage.engine.request("POST", "/containers/stopped/attach", **{"logs": "1", **query}).raw
        assert expected in raw and absent not in raw, raw

    return check


def attached_stream(stage: Stage) -> None:
    id = stage.engine.run("sh", "-c", "sleep 0.3; echo streamed")
    assert b"streamed" in stage.engine.request("POST", f"/containers/{id}/attach", stream="1", stdout="1").raw


def attached_stdin(stage: Stage) -> None:
    id = stage.created({"Cmd": ["cat"], "OpenStdin": True, "StdinOnce": True}, name="reads")
    done = stage.engine.cli("docker", "start", "-ai", id, stdin="typed")
    assert done.stdout == "typed"
    stage.engine.remove(id)


WS = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
      "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip


def websocket(stage: Stage) -> None:
    """The same options as attach's, read by the same function; a websocket carries them."""
    answer = stage.engine.request("GET", "/containers/stopped/attach/ws", headers=WS, logs="1", stdout="1")
    assert answer.status == 101


def removed_volumes(stage: Stage) -> None:
    id = stage.created({"Volumes": {"/v": {}}})
    (made,) = [m["Name"] for m in stage.engine.inspect(id)["Mounts"]]
    stage.engine.call("DELETE", f"/containers/{id}", v="1")
    assert stage.engine.request("GET", f"/volumes/{made}").status == 404


def removed_by_force(stage: Stage) -> None:
    id = stage.engine.run(*SLEEP)
    assert stage.engine.request("DELETE", f"/containers/{id}").status == 409
    assert stage.engine.request("DELETE", f"/containers/{id}", force="1").status == 204


def link_removed(stage: Stage) -> None:
    answer = stage.engine.request("DELETE", "/containers/running", link="1")
    assert answer.status >= 400 and stage.engine.inspect("running")


def tar(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid = len(data), 123, 456
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def put(stage: Stage, data: bytes, **query: Any) -> Answer:
    return ask(stage, "PUT", "/containers/running/archive", data, path="/tmp", **query)


def archive_path(method: str) -> Check:
    def check(stage: Stage) -> None:
        if method == "PUT":
            assert put(stage, tar(f1=b"data")).status == 200
        answer = ask(stage, "HEAD", "/containers/running/archive", path="/bin/sh")
        assert json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))["name"] == "sh"
        assert ask(stage, "GET", "/containers/running/archive", path="/nope").status == 404

    return check


def no_overwrite(stage: Stage) -> None:
    stage.engine.cli("docker", "exec", "running", "mkdir", "-p", "/tmp/dir")
    refusal = put(stage, tar(dir=b"file"), noOverwriteDirNonDir="1")
    assert refusal.status >= 400 and "cannot overwrite" in refusal.message


def copies_owner(stage: Stage) -> None:
    put(stage, tar(own=b"x"))
    first = stage.engine.cli("docker", "exec", "running", "stat", "-c", "%u", "/tmp/own").stdout.strip()
    id = stage.engine.run(*SLEEP, config={"User": "9:9"})
    ask(stage, "PUT", f"/containers/{id}/archive", tar(own=b"x"), path="/", copyUIDGID="1")
    second = stage.engine.cli("docker", "exec", id, "stat", "-c", "%u", "/own").stdout.strip()
    assert (first, second) == ("123", "9")
    stage.engine.remove(id)


def pruned(path: str, key: str, expected: Callable[[Stage], str]) -> Check:
    """A label that nothing bears spares everything; a time in the past does as well; an unknown filter is refused."""

    def check(stage: Stage) -> None:
        name = expected(stage)
        for given in ({"label": ["prune=no"]}, {"until": ["2000-01-01"]}, {"label!": ["prune=yes"]}):
            if path == "/volumes/prune":
                given = {"label": ["prune=no"]} if "until" in given else {**given, "all": ["1"]}
            answer = stage.engine.call("POST", path, filters=json.dumps(given))
            assert name not in (answer[key] or ()), given
        chosen = {"label": ["prune=yes"], **({"all": ["1"]} if path == "/volumes/prune" else {})}
        answer = stage.engine.call("POST", path, filters=json.dumps(chosen))
        assert name in (answer[key] or ()), answer
        refused("POST", path, 400, "invalid filter 'nope'", filters='{"nope":["x"]}')(stage)

    return check


LABELLED = {"Labels": {"prune": "yes"}}


def waited(stage: Stage) -> None:
    answer = stage.engine.call("POST", "/containers/stopped/wait", condition="not-running")
    assert answer["StatusCode"] == 0
    refused("POST", "/containers/stopped/wait", 400, "invalid condition", condition="nope")(stage)


def ATTACH(path: str) -> dict[str, Check]:
    return {"query detachKeys": detach_keys(path)}


# --- images, builds


def imported(stage: Stage, name: str, **query: Any) -> Any:
    stage.engine.request("POST", "/images/create", busybox.root_tar(), fromSrc="-", repo=name,
                         headers={"Content-Type": "application/x-tar"}, **query)  # fmt: skip
    return stage.get(f"/images/{name}{':' + query['tag'] if 'tag' in query else ''}/json")


def image(query: dict[str, Any], path: str, value: Any) -> Check:
    def check(stage: Stage) -> None:
        assert dig(imported(stage, "parameters/imported", **query), path) == value

    return check


def message(stage: Stage) -> None:
    imported(stage, "parameters/message", message="why")
    assert "why" in stage.get("/images/parameters/message/history")[0]["Comment"]


def images_listed(query: dict[str, Any], found: Callable[[list[dict[str, Any]]], object]) -> Check:
    def check(stage: Stage) -> None:
        assert found(stage.get("/images/json", **query))

    return check


def all_images(stage: Stage) -> None:
    built(stage, b"FROM busybox\nRUN touch /x\nRUN touch /y\n")
    assert len(stage.get("/images/json", all="1")) > len(stage.get("/images/json"))


def build(stage: Stage, text: bytes, /, *, headers: dict[str, str] | None = None, **query: Any) -> bytes:
    context = tar(Dockerfile=text, Other=b"FROM busybox\nENV other=1\n")
    sent = {"Content-Type": "application/x-tar", **(headers or {})}
    return stage.engine.request("POST", "/build", context, headers=sent, **{"t": "built", **query}).raw


def built(stage: Stage, text: bytes, /, **query: Any) -> Any:
    raw = build(stage, text, **query)
    assert b"errorDetail" not in raw, raw
    return stage.get("/images/built/json")


def build_says(text: bytes, words: bytes, /, **query: Any) -> Check:
    def check(stage: Stage) -> None:
        raw = build(stage, text, **query)
        assert words in raw, raw[-600:]

    return check


def build_config(text: bytes, path: str, value: Any, /, **query: Any) -> Check:
    def check(stage: Stage) -> None:
        assert dig(built(stage, text, **query), path) == value

    return check


def build_refused(words: str, status: int = 400, **query: Any) -> Check:
    return refused("POST", "/build", status, words, tar(Dockerfile=b"FROM busybox\n"), **query)


def nocache(stage: Stage) -> None:
    text = b"FROM busybox\nRUN echo cached\n"
    build(stage, text)
    assert b"Using cache" in build(stage, text) and b"Using cache" not in build(stage, text, nocache="1")


def quiet_build(stage: Stage) -> None:
    assert b"Step 1" not in build(stage, b"FROM busybox\n", q="1")


def remote(stage: Stage) -> None:
    assert b"could not be recognized as URL" in stage.engine.request("POST", "/build", remote="x").raw


def kept_steps(stage: Stage) -> None:
    """`rm=0` and `forcerm`: steps leave no containers here, as no step is one; the answers are the same."""
    before = names(stage.get("/containers/json", all="1"))
    queries: tuple[dict[str, Any], ...] = ({"rm": "0"}, {"forcerm": "1"})
    for query in queries:
        assert b"Successfully built" in build(stage, b"FROM busybox\nRUN echo rm\n", nocache="1", **query)
    assert names(stage.get("/containers/json", all="1")) == before


def squashed(stage: Stage) -> None:
    """One layer above the base's."""
    layers = [
        len(built(stage, b"FROM busybox\nRUN touch /1\nRUN touch /2\n", squash=squash)["RootFS"]["Layers"])
        for squash in ("0", "1")
    ]
    assert layers == [3, 2]


LIMIT = b"FROM busybox\nRUN cat /sys/fs/cgroup/%s 2>/dev/null || cat /sys/fs/cgroup/%s\n"


def limited(v1: bytes, v2: bytes, value: bytes, **query: Any) -> Check:
    """The step sees its limit, in either cgroup version."""
    return build_says(LIMIT % (v1, v2), value, nocache="1", **query)


def registry_config(stage: Stage) -> None:
    header = base64.urlsafe_b64encode(json.dumps({"127.0.0.1:1": {"username": "u", "password": "p"}}).encode()).decode()
    raw = build(stage, b"FROM 127.0.0.1:1/x\n", headers={"X-Registry-Config": header})
    assert b"127.0.0.1:1" in raw and b"refused" in raw


def build_pruned(**query: Any) -> Check:
    def check(stage: Stage) -> None:
        built(stage, b"FROM busybox\nRUN echo prune\n")
        assert stage.engine.request("POST", "/build/prune", **query).status == 200
        for name in query:
            if name not in ("all", "filters"):
                refused("POST", "/build/prune", 400, f"{name} is in bytes and expects an integer", **{name: "x"})(stage)

    return check


def build_prune_filters(stage: Stage) -> None:
    built(stage, b"FROM busybox\nRUN echo prune filters\n")
    none = {"CachesDeleted": None, "SpaceReclaimed": 0}
    for given in ({"label": ["x"]}, {"id": ["nope"]}, {"until": ["2000-01-01"]}):
        assert stage.engine.call("POST", "/build/prune", all="1", filters=json.dumps(given)) == none, given
    refused("POST", "/build/prune", 400, "invalid filter 'nope'", filters='{"nope":["x"]}')(stage)


def unreachable(method: str, path: str, words: str, **query: Any) -> Check:
    """A registry that nobody serves is named: the parameter says where to go."""

    def check(stage: Stage) -> None:
        auth = base64.urlsafe_b64encode(b'{"username":"u","password":"p"}').decode()
        answer = stage.engine.request(method, path, headers={"X-Registry-Auth": auth}, **query)
        assert words in answer.raw.decode(), answer.raw

    return check


def tagged(stage: Stage) -> None:
    assert stage.engine.request("POST", "/images/busybox/tag", repo="parameters/tagged", tag="v2").status == 201
    assert stage.get("/images/parameters/tagged:v2/json")


def image_forced(stage: Stage) -> None:
    id = imported(stage, "parameters/forced", changes="LABEL forced=1")["Id"]
    stage.engine.call("POST", f"/images/{id}/tag", repo="parameters/forced2")
    assert stage.engine.request("DELETE", f"/images/{id}").status == 409
    assert stage.engine.request("DELETE", f"/images/{id}", force="1").status == 200


def image_noprune(stage: Stage) -> None:
    """Untagged parents stay."""
    built(stage, b"FROM busybox\nRUN echo noprune >/x\n", t="parameters/child")
    build(stage, b"FROM busybox\nRUN echo noprune >/x\nENV child=1\n", t="parameters/child")
    rows = stage.engine.call("DELETE", "/images/parameters/child", noprune="1")
    assert len([row for row in rows if "Deleted" in row]) <= 1


def loaded(**query: Any) -> Check:
    def check(stage: Stage) -> None:
        saved = stage.engine.request("GET", "/images/busybox/get").raw
        loud = stage.engine.request("POST", "/images/load", saved, **query).raw
        assert (b"Loaded image" in loud) or (b"platform" in loud), loud

    return check


def commit(query: dict[str, Any], path: str, value: Any, body: Any = None) -> Check:
    def check(stage: Stage) -> None:
        asked = {"container": "running", "repo": "parameters/commit", "pause": "0", **query}
        id = stage.engine.call("POST", "/commit", body or {}, **asked)["Id"]
        found = stage.get(f"/images/{id}/json", version="1.44")
        assert dig(found, path) == value, found["Config"]

    return check


COMMITTED: dict[str, Any] = {
    **{key: value for key, value in CONFIG.items() if key not in ("Image", "Healthcheck")}, "Healthcheck": HEALTH,
}  # fmt: skip

# --- exec, volumes, networks, the system


def executed(body: dict[str, Any], script: str, expected: str) -> Check:
    """A process made with `body` says what `expected` says."""

    def check(stage: Stage) -> None:
        asked = {"AttachStdout": True, "AttachStderr": True, "Cmd": ["sh", "-c", script], **body}
        id = stage.engine.call("POST", "/containers/running/exec", asked)["Id"]
        raw = stage.engine.request("POST", f"/exec/{id}/start", {"Tty": asked.get("Tty", False)}).raw
        assert expected in raw.decode(), raw

    return check


def exec_shows(body: dict[str, Any], path: str, value: Any) -> Check:
    def check(stage: Stage) -> None:
        id = stage.engine.call("POST", "/containers/running/exec", {"Cmd": ["true"], **body})["Id"]
        assert dig(stage.get(f"/exec/{id}/json"), path) == value

    return check


def exec_detached(stage: Stage) -> None:
    id = stage.engine.call("POST", "/containers/running/exec", {"Cmd": ["sleep", "0.2"]})["Id"]
    assert stage.engine.request("POST", f"/exec/{id}/start", {"Detach": True}).raw == b""
    assert stage.get(f"/exec/{id}/json")["Running"]


def exec_console(stage: Stage) -> None:
    body = {"AttachStdout": True, "Tty": True, "Cmd": ["stty", "size"]}
    id = stage.engine.call("POST", "/containers/running/exec", body)["Id"]
    raw = stage.engine.request("POST", f"/exec/{id}/start", {"Tty": True, "ConsoleSize": [13, 31]}).raw
    assert b"13 31" in raw


def exec_resized(stage: Stage) -> None:
    body = {"Tty": True, "Cmd": ["sh", "-c", "sleep 0.5; stty size </proc/self/fd/0 >/tmp/size"]}
    id = stage.engine.call("POST", "/containers/running/exec", {**body, "AttachStdin": True})["Id"]
    stage.engine.call("POST", f"/exec/{id}/start", {"Tty": True, "Detach": True})
    assert stage.engine.request("POST", f"/exec/{id}/resize", h=14, w=41).status == 200
    refused("POST", f"/exec/{id}/resize", 400, "invalid resize width", h=1, w="x")(stage)
    refused("POST", f"/exec/{id}/resize", 400, "invalid resize height", h="x", w=1)(stage)


VOLUME = {"Name": "made", "Driver": "local", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"},
          "Labels": {"a": "1"}}  # fmt: skip


def volume(key: str, value: Any) -> Check:
    def check(stage: Stage) -> None:
        assert stage.engine.call("POST", "/volumes/create", VOLUME)[key] == value

    return check


def volume_removed(stage: Stage) -> None:
    assert stage.engine.request("DELETE", "/volumes/nope").status == 404
    assert stage.engine.request("DELETE", "/volumes/nope", force="1").status == 204


NETWORK: dict[str, Any] = {"Name": "full", "Driver": "bridge", "Scope": "local", "Internal": True, "Attachable": True,
                           "EnableIPv4": True, "EnableIPv6": True, "Options": {"com.docker.network.driver.mtu": "1400"},
                           "Labels": {"a": "1"},
                           "IPAM": {"Driver": "default", "Options": {"x": "y"}, "Config": [
                               {"Subnet": "10.98.0.0/24", "IPRange": "10.98.0.128/25", "Gateway": "10.98.0.9",
                                "AuxiliaryAddresses": {"a": "10.98.0.130"}},
                               {"Subnet": "fd98::/64"}]}}  # fmt: skip


def network(path: str) -> Check:
    def check(stage: Stage) -> None:
        stage.engine.request("POST", "/networks/create", NETWORK)
        assert dig(stage.get("/networks/full"), path) == dig(NETWORK, path)

    return check


def config_only(stage: Stage) -> None:
    for body in ({"ConfigOnly": True}, {"ConfigFrom": {"Network": "c"}}):
        refused("POST", "/networks/create", 501, "config-only networks", {"Name": "c", **body})(stage)


def connected(settings: dict[str, Any], path: str, value: Any) -> Check:
    def check(stage: Stage) -> None:
        id = stage.engine.run(*SLEEP)
        answer = stage.engine.request("POST", "/networks/net/connect", {"Container": id, "EndpointConfig": settings})
        assert answer.status == 200, answer.raw
        assert dig(stage.engine.inspect(id)["NetworkSettings"]["Networks"]["net"], path) == value
        stage.engine.remove(id)

    return check


def connect_answer_only(field: str) -> Check:
    value = 9 if field.endswith("Len") else ["x"] if field == "DNSNames" else "x"

    def check(stage: Stage) -> None:
        id = stage.engine.run(*SLEEP)
        asked = {"Container": id, "EndpointConfig": {field: value}}
        assert stage.engine.request("POST", "/networks/net/connect", asked).status == 200
        assert stage.engine.inspect(id)["NetworkSettings"]["Networks"]["net"][field] != value
        stage.engine.remove(id)

    return check


def disconnected(stage: Stage) -> None:
    id = stage.engine.run(*SLEEP)
    stage.engine.call("POST", "/networks/bridge/disconnect", {"Container": id})
    assert "bridge" not in stage.engine.inspect(id)["NetworkSettings"]["Networks"]
    stage.engine.remove(id)


def prunable_container(stage: Stage) -> str:
    return stage.created(LABELLED)


def prunable_network(stage: Stage) -> str:
    stage.engine.request("POST", "/networks/create", {"Name": "prunable", "Internal": True, **LABELLED})
    return "prunable"


def prunable_volume(stage: Stage) -> str:
    stage.engine.call("POST", "/volumes/create", {"Name": "prunable", **LABELLED})
    return "prunable"


def images_pruned(stage: Stage) -> None:
    id = built(stage, b"FROM busybox\nLABEL prune=yes\n", t="built")["Id"]
    build(stage, b"FROM busybox\nENV moved=1\n")
    for given, gone in (({"label": ["prune=no"]}, False), ({"until": ["2000-01-01"]}, False),
                        ({"label": ["prune=yes"], "dangling": ["1"]}, True)):  # fmt: skip
        answer = stage.engine.call("POST", "/images/prune", filters=json.dumps(given))
        assert any(row.get("Deleted") == id for row in answer["ImagesDeleted"] or ()) == gone, given


def happened(**query: Any) -> Callable[[Stage], list[dict[str, Any]]]:
    def events(stage: Stage) -> list[dict[str, Any]]:
        asked = {"since": "0", "until": str(int(time.time()) + 1), **query}
        raw = stage.engine.request("GET", "/events", **asked).raw
        return [json.loads(line) for line in raw.splitlines()]

    return events


def events_since(stage: Stage) -> None:
    stage.engine.call("POST", "/volumes/create", {"Name": "event"})
    assert [e for e in happened()(stage) if e["Actor"]["ID"] == "event"]
    assert not [e for e in happened(since=f"{time.time():.9f}")(stage) if e["Actor"]["ID"] == "event"]
    refused("GET", "/events", 500, "strconv.ParseInt", since="x")(stage)


def events_until(stage: Stage) -> None:
    assert not happened(since="1", until="2")(stage)


def events_filtered(stage: Stage) -> None:
    stage.engine.call("POST", "/volumes/create", {"Name": "event2"})
    found = happened(filters='{"volume":["event2"],"event":["create"]}')(stage)
    assert {e["Actor"]["ID"] for e in found} == {"event2"}


def auth(field: str, body: dict[str, Any], words: str) -> Check:
    def check(stage: Stage) -> None:
        answer = stage.engine.request("POST", "/auth", {"serveraddress": "127.0.0.1:1", **body})
        assert answer.status >= 400 and words in answer.message, (field, answer.raw)

    return check


def foreign(route: str) -> Check:
    """What needs a cluster or a plugin says so, whatever else is sent."""

    def check(stage: Stage) -> None:
        method, path = route.split(" ")
        answer = stage.engine.request(method, path.replace("{id}", "x").replace("{name}", "x"),
                                      {} if method == "POST" else None)  # fmt: skip
        assert answer.status >= 400 or (route == "GET /plugins" and answer.json == []), answer.raw
        if route != "GET /plugins":
            assert answer.message and answer.status in (400, 404, 409, 500, 501, 503), answer.raw

    return check


FOREIGN = ("/plugins", "/nodes", "/swarm", "/services", "/tasks", "/secrets", "/configs")
CLUSTER_SPEC = refused(
    "POST", "/volumes/create", 503, NOT_A_MANAGER, {"Name": "c", "ClusterVolumeSpec": {"Group": "g"}}
)
ECHO = b"FROM busybox\nARG arg=none\nRUN echo arg-$arg\n"
OUT, ERR = b"out", b"err"
CONNECT: dict[str, Any] = {
    "IPAMConfig": {"IPv4Address": "10.97.0.55"}, "Links": ["stopped:l"], "MacAddress": "02:42:0a:61:00:77",
    "Aliases": ["nick"], "DriverOpts": {"com.docker.network.endpoint.ifname": "fancy0"}, "GwPriority": 4,
}  # fmt: skip

ROWS: dict[str, dict[str, Check]] = {
    "GET /containers/json": {
        "query all": all_, "query limit": limit, "query size": size,
        "query filters": filters("/containers/json", {"name": ["running"]}, lambda rows: names(rows) == {"/running"}),
    },
    "POST /containers/create": {
        key if key.startswith("query") else f"body {key}": check for key, check in CREATE.items()},
    "GET /containers/{id}/json": {"query size": differs("/containers/running/json", {"size": "1"}, {"size": "0"})},
    "GET /containers/{id}/top": {"query ps_args": ps_args},
    "GET /containers/{id}/logs": {
        "query follow": log_follow,
        "query stdout": log_lines({"stderr": "0"}, OUT, absent=ERR),
        "query stderr": log_lines({"stdout": "0"}, ERR, absent=OUT),
        "query since": log_lines({"since": "9999999999"}, absent=OUT),
        "query until": log_lines({"until": "1"}, absent=OUT),
        "query timestamps": log_lines({"timestamps": "1"}, b"Z out"),
        "query tail": log_lines({"tail": "1"}, b"late", absent=OUT),
    },
    "GET /containers/{id}/stats": {"query stream": stats, "query one-shot": one_shot},
    "POST /containers/{id}/resize": {"query h": resized(12, 34), "query w": resized(34, 12)},
    "POST /containers/{id}/start": {"query detachKeys": detach_keys("/containers/stopped/start")},
    "POST /containers/{id}/stop": {"query signal": signalled("stop"), "query t": timeout("stop")},
    "POST /containers/{id}/restart": {"query signal": signalled("restart"), "query t": timeout("restart")},
    "POST /containers/{id}/kill": {"query signal": signalled("kill")},
    "POST /containers/{id}/update": {f"body {key}": check for key, check in UPDATE.items()},
    "POST /containers/{id}/rename": {"query name": renamed},
    "POST /containers/{id}/attach": {
        "query detachKeys": detach_keys("/containers/running/attach"),
        "query logs": attached({"stdout": "1", "stderr": "1"}, OUT, b"nothing"),
        "query stream": attached_stream,
        "query stdin": attached_stdin,
        "query stdout": attached({"stdout": "1"}, OUT, ERR),
        "query stderr": attached({"stderr": "1"}, ERR, OUT),
    },
    "GET /containers/{id}/attach/ws": {
        "query detachKeys": detach_keys("/containers/running/attach/ws"),
        **{f"query {name}": websocket for name in ("logs", "stream", "stdin", "stdout", "stderr")},
    },
    "POST /containers/{id}/wait": {"query condition": waited},
    "DELETE /containers/{id}": {"query v": removed_volumes, "query force": removed_by_force,
                                "query link": link_removed},
    "HEAD /containers/{id}/archive": {"query path": archive_path("HEAD")},
    "GET /containers/{id}/archive": {"query path": archive_path("GET")},
    "PUT /containers/{id}/archive": {
        "query path": archive_path("PUT"), "query noOverwriteDirNonDir": no_overwrite, "query copyUIDGID": copies_owner,
        "body": archive_path("PUT"),
    },
    "POST /containers/prune": {"query filters": pruned("/containers/prune", "ContainersDeleted", prunable_container)},
    "GET /images/json": {
        "query all": all_images,
        "query filters": filters("/images/json", {"reference": ["busybox"]}, lambda rows: len(rows) == 1),
        "query shared-size": images_listed({"shared-size": "1"}, lambda rows: rows[0]["SharedSize"] >= 0),
        "query digests": images_listed({"digests": "1"}, lambda rows: all("RepoDigests" in row for row in rows)),
        "query manifests": images_listed({"manifests": "1"}, lambda rows: rows),
    },
    "POST /build": {
        "query dockerfile": build_config(b"", "Config.Env.1", "other=1", dockerfile="Other"),
        "query t": build_config(b"FROM busybox\n", "RepoTags.0", "built:latest", t="built"),
        "query extrahosts": build_says(b"FROM busybox\nRUN cat /etc/hosts\n", b"5.6.7.8", extrahosts="hx:5.6.7.8"),
        "query remote": remote,
        "query q": quiet_build,
        "query nocache": nocache,
        "query cachefrom": build_refused("error reading cache-from", cachefrom="{"),
        "query pull": build_says(b"FROM 127.0.0.1:1/none\n", b"127.0.0.1:1", pull="1"),
        "query rm": kept_steps,
        "query forcerm": kept_steps,
        "query memory": limited(b"memory/memory.limit_in_bytes", b"memory.max", b"33554432", memory=32 * MIB),
        "query memswap": limited(b"memory/memory.memsw.limit_in_bytes", b"memory.max", b"33554432",
                                 memory=32 * MIB, memswap=32 * MIB),
        "query cpushares": limited(b"cpu/cpu.shares", b"cpu.weight", b"\\n", cpushares=512),
        "query cpusetcpus": limited(b"cpuset/cpuset.cpus", b"cpuset.cpus", b"0\\n", cpusetcpus="0"),
        "query cpuperiod": limited(b"cpu/cpu.cfs_period_us", b"cpu.max", b"50000", cpuperiod=50000, cpuquota=25000),
        "query cpuquota": limited(b"cpu/cpu.cfs_quota_us", b"cpu.max", b"25000", cpuperiod=50000, cpuquota=25000),
        "query buildargs": build_says(ECHO, b"arg-given", buildargs='{"arg":"given"}'),
        "query shmsize": build_says(b"FROM busybox\nRUN df -k /dev/shm\n", b"2048", shmsize=2 * MIB, nocache="1"),
        "query squash": squashed,
        "query labels": build_config(b"FROM busybox\n", "Config.Labels", {"la": "bel"}, labels='{"la":"bel"}'),
        "query networkmode": build_says(
            b"FROM busybox\nRUN ls /sys/class/net | wc -l\n", b"1\\n", networkmode="none"),
        "header Content-type": build_says(b"FROM busybox\n", b"Successfully built",
                                        headers={"Content-Type": "application/x-tar"}),
        "header X-Registry-Config": registry_config,
        "query platform": build_refused("unknown operating system or architecture", platform="nope"),
        "query target": build_says(
            b"FROM busybox AS a\nRUN echo first\nFROM a\nRUN echo second\n", b"first", target="a"),
        "query outputs": build_refused("invalid outputs specified", outputs="{}"),
        "query version": build_refused("invalid version", version="9"),
        "body": build_says(b"FROM busybox\n", b"Successfully built"),
    },
    "POST /build/prune": {
        **{f"query {name}": build_pruned(**{name: "1"}) for name in (
            "keep-storage", "reserved-space", "max-used-space", "min-free-space", "all")},
        "query filters": build_prune_filters,
    },
    "POST /images/create": {
        "query fromImage": unreachable("POST", "/images/create", "127.0.0.1:1", fromImage="127.0.0.1:1/x"),
        "query fromSrc": image({}, "RepoTags.0", "parameters/imported:latest"),
        "query repo": image({}, "RepoTags.0", "parameters/imported:latest"),
        "query tag": image({"tag": "t2"}, "RepoTags", ["parameters/imported:t2"]),
        "query message": message,
        "header X-Registry-Auth": unreachable("POST", "/images/create", "127.0.0.1:1", fromImage="127.0.0.1:1/x"),
        "query changes": image({"changes": "LABEL a=b"}, "Config.Labels", {"a": "b"}),
        "query platform": image({"platform": "linux/arm64"}, "Architecture", "arm64"),
        "body": image({}, "Os", "linux"),
    },
    "GET /images/{name}/json": {
        "query manifests": refused("GET", "/images/busybox/json", 400, "conflicting options", manifests="1",
                                   platform='{"os":"linux","architecture":"amd64"}')},
    "GET /images/{name}/history": {
        "query platform": refused("GET", "/images/busybox/history", 404, "s390x",
                                  platform='{"os":"linux","architecture":"s390x"}')},
    "POST /images/{name}/push": {
        "query tag": unreachable("POST", "/images/127.0.0.1:1/x/push", "127.0.0.1:1/x", tag="t9"),
        "query platform": refused("POST", "/images/busybox/push", 400, "failed to parse platform", platform="x"),
        "header X-Registry-Auth": unreachable("POST", "/images/127.0.0.1:1/x/push", "127.0.0.1:1/x", tag="t9"),
    },
    "POST /images/{name}/tag": {"query repo": tagged, "query tag": tagged},
    "DELETE /images/{name}": {
        "query force": image_forced, "query noprune": image_noprune,
        "query platforms": refused("DELETE", "/images/busybox", 400, "failed to parse platform", platforms="x"),
    },
    "GET /images/search": {
        "query term": refused("GET", "/images/search", 400, "should not have a scheme", term="http://x"),
        "query limit": refused("GET", "/images/search", 400, "invalid limit specified", term="x", limit="x"),
        "query filters": refused("GET", "/images/search", 400, "invalid filter 'nope'", term="x",
                                 filters='{"nope":["x"]}'),
    },
    "POST /images/prune": {"query filters": images_pruned},
    "POST /auth": {
        "body username": auth("username", {"username": 5}, "username"),
        "body password": auth("password", {"password": 5}, "password"),
        "body email": auth("email", {"email": 5}, "email"),
        "body serveraddress": auth("serveraddress", {"username": "u", "password": "p"}, "127.0.0.1:1"),
    },
    "POST /commit": {
        "query container": refused("POST", "/commit", 404, "No such container: nope", {}, container="nope"),
        "query repo": commit({"tag": "r"}, "RepoTags.0", "parameters/commit:r"),
        "query tag": commit({"tag": "t"}, "RepoTags.0", "parameters/commit:t"),
        "query comment": commit({"comment": "why"}, "Comment", "why"),
        "query author": commit({"author": "who"}, "Author", "who"),
        "query pause": commit({"pause": "0"}, "Os", "linux"),
        "query changes": commit({"changes": "LABEL c=d"}, "Config.Labels.c", "d"),
        **{f"body {key}": commit({}, f"Config.{key}", value, {key: value}) for key, value in COMMITTED.items()
           if key not in ("Env", "Labels")},
        "body Env": lambda stage: commit({}, "Config.Env.0", "A=b", {"Env": ["A=b"]})(stage),
        "body Labels": commit({}, "Config.Labels.la", "bel", {"Labels": {"la": "bel"}}),
        **{f"body Healthcheck.{key}": commit({}, f"Config.Healthcheck.{key}", value, {"Healthcheck": HEALTH})
           for key, value in HEALTH.items()},
        "body Image": commit({}, "Config.Image", "x", {"Image": "x"}),
        "body NetworkDisabled": commit({}, "Config.NetworkDisabled", True, {"NetworkDisabled": True}),
        "body MacAddress": commit({}, "Config.MacAddress", "02:42:00:00:00:01", {"MacAddress": "02:42:00:00:00:01"}),
    },
    "GET /events": {"query since": events_since, "query until": events_until, "query filters": events_filtered},
    "GET /system/df": {"query type": lambda stage: (None if set(stage.get("/system/df", type="volume")) >= {"Volumes"}
                                                    and not stage.get("/system/df", type="volume").get("Images")
                                                    else pytest.fail("type has no effect"))},
    "GET /images/{name}/get": {
        "query platform": refused("GET", "/images/busybox/get", 400, "failed to parse platform", platform="x")},
    "GET /images/get": {
        "query names": refused("GET", "/images/get", 404, "nope", names="nope"),
        "query platform": refused("GET", "/images/get", 400, "failed to parse platform", names="busybox", platform="x"),
    },
    "POST /images/load": {
        "query quiet": loaded(quiet="1"),
        "query platform": refused("POST", "/images/load", 400, "failed to parse platform", platform="x"),
        "body": loaded(),
    },
    "POST /containers/{id}/exec": {
        "body AttachStdin": exec_shows({"AttachStdin": True}, "OpenStdin", True),
        "body AttachStdout": executed({}, "echo o", "o"),
        "body AttachStderr": executed({}, "echo e >&2", "e"),
        "body ConsoleSize": executed({"Tty": True, "ConsoleSize": [17, 71]}, "stty size", "17 71"),
        "body DetachKeys": refused("POST", "/containers/running/exec", 500, "Invalid escape keys",
                                   {"Cmd": ["x"], "DetachKeys": "xx"}),
        "body Tty": executed({"Tty": True}, "test -t 1 && echo tty", "tty"),
        "body Env": executed({"Env": ["E=nv"]}, "echo $E", "nv"),
        "body Cmd": executed({}, "echo cmd", "cmd"),
        "body Privileged": executed({"Privileged": True}, "grep CapEff /proc/self/status", "ff"),
        "body User": executed({"User": "7:8"}, "id -u", "7"),
        "body WorkingDir": executed({"WorkingDir": "/etc"}, "pwd", "/etc"),
    },
    "POST /exec/{id}/start": {"body Detach": exec_detached, "body Tty": exec_console, "body ConsoleSize": exec_console},
    "POST /exec/{id}/resize": {"query h": exec_resized, "query w": exec_resized},
    "GET /volumes": {"query filters": filters("/volumes", {"name": ["nobody"]}, lambda found: not found["Volumes"])},
    "POST /volumes/create": {
        "body Name": volume("Name", "made"), "body Driver": volume("Driver", "local"),
        "body DriverOpts": volume("Options", VOLUME["DriverOpts"]), "body Labels": volume("Labels", {"a": "1"}),
        **{key: CLUSTER_SPEC for key in SPECIFICATION["POST /volumes/create"] if "ClusterVolumeSpec" in key},
    },
    "PUT /volumes/{name}": {
        key: refused("PUT", "/volumes/x", 503, "swarm is unavailable", {"Spec": {}}, version="1")
        for key in SPECIFICATION["PUT /volumes/{name}"]},
    "DELETE /volumes/{name}": {"query force": volume_removed},
    "POST /volumes/prune": {"query filters": pruned("/volumes/prune", "VolumesDeleted", prunable_volume)},
    "GET /networks": {"query filters": filters("/networks", {"driver": ["host"]}, lambda rows: len(rows) == 1)},
    "GET /networks/{id}": {
        "query verbose": refused("GET", "/networks/net", 400, "invalid value for verbose", verbose="x"),
        "query scope": refused("GET", "/networks/net", 404, "not found", scope="swarm"),
    },
    "POST /networks/create": {
        **{f"body {path}": network(path) for path in NETWORK},
        "body Ingress": refused("POST", "/networks/create", 403, "Ingress", {"Name": "in", "Ingress": True}),
        **{f"body {path}": config_only for path in ("ConfigOnly", "ConfigFrom", "ConfigFrom.Network")},
        "body IPAM.Driver": refused("POST", "/networks/create", 404, "nope", {"Name": "c", "IPAM": {"Driver": "nope"}}),
        "body IPAM.Options": network("IPAM.Options"),
        "body IPAM.Config": network("IPAM.Config.0.Subnet"),
        **{f"body IPAM.Config[].{key}": network(f"IPAM.Config.0.{key}") for key in SUBNET},
    },
    "POST /networks/{id}/connect": {
        "body Container": connected({}, "IPPrefixLen", 24),
        "body EndpointConfig": connected(CONNECT, "MacAddress", CONNECT["MacAddress"]),
        "body EndpointConfig.IPAMConfig": connected(CONNECT, "IPAMConfig", CONNECT["IPAMConfig"]),
        "body EndpointConfig.IPAMConfig.IPv4Address": connected(CONNECT, "IPAddress", "10.97.0.55"),
        "body EndpointConfig.IPAMConfig.IPv6Address": refused(
            "POST", "/networks/net/connect", 400, "invalid",
            {"Container": "running", "EndpointConfig": {"IPAMConfig": {"IPv6Address": "x"}}}),
        "body EndpointConfig.IPAMConfig.LinkLocalIPs": connected(
            {"IPAMConfig": {"LinkLocalIPs": ["169.254.9.9"]}}, "IPAMConfig.LinkLocalIPs", ["169.254.9.9"]),
        **{f"body EndpointConfig.{key}": connected(CONNECT, key, CONNECT[key])
           for key in ("Links", "MacAddress", "Aliases", "DriverOpts", "GwPriority")},
        **{f"body EndpointConfig.{field}": connect_answer_only(field) for field in ANSWERED},
    },
    "POST /networks/{id}/disconnect": {
        "body Container": disconnected,
        "body Force": refused("POST", "/networks/net/disconnect", 404, "endpoint nope not found",
                              {"Container": "nope", "Force": True}),
    },
    "POST /networks/prune": {"query filters": pruned("/networks/prune", "NetworksDeleted", prunable_network)},
    **{route: dict.fromkeys(parameters, foreign(route)) for route, parameters in SPECIFICATION.items()
       if route.split(" ")[1].startswith(FOREIGN)},
}  # fmt: skip


def test_no_parameter_is_forgotten() -> None:
    """Each parameter of the specification has a row, and no row is about one that there is not."""
    specified = {(route, name) for route, parameters in SPECIFICATION.items() for name in parameters}
    rows = {(route, name) for route, checks in ROWS.items() for name in checks}
    assert (sorted(specified - rows), sorted(rows - specified)) == ([], [])


CHECKS: dict[tuple[str, int], tuple[Check, list[str]]] = {}
for _route, _rows in ROWS.items():
    for _name, _check in _rows.items():
        CHECKS.setdefault((_route, id(_check)), (_check, []))[1].append(_name)


@pytest.mark.parametrize(
    "check", [pytest.param(check, id=f"{route} {', '.join(n)[:60]}") for (route, _), (check, n) in CHECKS.items()]
)
def test_parameter_has_its_effect(stage: Stage, check: Check) -> None:
    check(stage)
