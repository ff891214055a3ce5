"""Each key of daemon.json that acts, given to a whole engine, and its effect read back.

`ACTS`, `ACT_TOO` and `RELOADED` are read by tests/unit/test_every_option.py too: a key is in one of
them, or proven elsewhere, or refused, or marked.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.linux.cgroups import hierarchy as cgroups
from sampan.linux.cgroups import realtime as realtime_cgroups
from sampan.linux.nftables import Nftables
from tests.e2e.test_reload import own, reload
from tests.support.engine import BIN, Engine, until

__all__ = ["own"]  # a fixture

pytestmark = [pytest.mark.root]

Check = Callable[[Engine], object]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def info(key: str, value: Any) -> Check:
    return lambda engine: engine.call("GET", "/info")[key] == value


LOOK = """cat /etc/resolv.conf /etc/hosts /proc/self/status /proc/self/cgroup
echo "nofile $(ulimit -n)"
echo "init $(cat /proc/1/cmdline | tr '\\0' ' ')"
ip -4 addr show eth0; ip -6 addr show eth0; ip route; ip -6 route"""


def inside(text: str) -> Check:
    return lambda engine: text in said(str(engine.directory))


@functools.cache
def said(directory: str) -> str:
    """Return what a container sees of its surroundings: one container for all tests."""
    engine = Engine(Path(directory))
    made = engine.run("sh", "-c", LOOK, ExtraHosts=["me:host-gateway"])
    assert engine.wait(made) == 0
    text = engine.logs(made).decode()
    engine.remove(made)
    return text


def created(engine: Engine, **host: Any) -> dict[str, Any]:
    id: str = engine.call("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})["Id"]
    found = engine.inspect(id)
    engine.remove(id)
    return found


def bridge(engine: Engine) -> dict[str, Any]:
    found: dict[str, Any] = engine.call("GET", "/networks/bridge")
    return found


def networks_option(key: str, value: str) -> Check:
    return lambda engine: bridge(engine)["Options"][f"com.docker.network.{key}"] == value


def rules(engine: Engine, text: str) -> bool:
    """Tell whether the engine's nftables rules have a text."""
    nft = Nftables()
    try:
        return text in nft.run("list ruleset")
    finally:
        nft.close()


def scraped(engine: Engine) -> str:
    address = json.loads((engine.directory / "daemon.json").read_text())["metrics-addr"]
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return str(answer.read().decode())


def counts_what_it_does(engine: Engine) -> bool:
    """A container's life raises the counters; the names and labels are dockerd's."""

    def number(sample: str) -> float:
        return float(re.findall(rf"^{re.escape(sample)} (\S+)$", scraped(engine), re.MULTILINE)[0])

    start, release = (
        'engine_daemon_container_actions_seconds_count{action="start"}',
        'engine_daemon_network_actions_seconds_count{action="release"}',
    )
    before = number(start), number(release), number("engine_daemon_events_total")
    probe = {"Healthcheck": {"Test": ["CMD", "false"], "Interval": 1_000_000, "Retries": 1}}
    id = engine.run("sleep", "60", config=probe)
    assert number('engine_daemon_container_states_containers{state="running"}') >= 1
    until(lambda: number("engine_daemon_health_checks_failed_total") >= 1, 10, "a failed health check is counted")
    engine.remove(id)
    after = number(start), number(release), number("engine_daemon_events_total")
    return after[0] == before[0] + 1 and after[1] == before[1] + 1 and after[2] > before[2]


def realtime(engine: Engine) -> bool:
    """The cgroup above the containers has the budget, and a container gets of it."""
    if not REALTIME:  # then a kernel without such budgets refuses the option
        done = engine.cli("sampand", "--validate", "--cpu-rt-runtime", "1", check=False)
        return done.returncode == 1 and "not supported by the kernel" in done.stderr
    id = engine.run("sleep", "60", CpuRealtimeRuntime=1000)
    parent = f"{cgroups.layout().mounts['cpu']}/sampan-options"
    try:
        budget = [Path(f"{parent}/cpu.rt_{name}_us").read_text().strip() for name in ("period", "runtime")]
        inside = Path(f"{parent}/{id}/cpu.rt_runtime_us").read_text().strip()
        return (*budget, inside) == ("900000", "80000", "1000")
    finally:
        engine.remove(id)


REALTIME = realtime_cgroups.supported()
METRICS, MIRROR = free_port(), "https://mirror.invalid/"
ACTS: dict[str, tuple[Any, Check]] = {
    "runtimes": (
        {"other": {"path": str(BIN / "sampan-runc")}},
        lambda e: e.call("GET", "/info")["Runtimes"]["other"]["path"] == str(BIN / "sampan-runc"),
    ),
    "default-runtime": ("other", lambda e: created(e)["HostConfig"]["Runtime"] == "other"),
    "allow-direct-routing": (True, lambda e: rules(e, "set direct4")),
    "bip": ("10.91.7.1/24", inside("inet 10.91.7.")),
    "fixed-cidr": ("10.91.7.64/27", lambda e: bridge(e)["IPAM"]["Config"][0]["IPRange"] == "10.91.7.64/27"),
    "default-gateway": ("10.91.7.9", inside("default via 10.91.7.9 ")),
    "cgroup-parent": ("/sampan-options", inside("/sampan-options/")),
    "cpu-rt-period": (900000, realtime),
    "cpu-rt-runtime": (80000, realtime),
    "debug": (True, info("Debug", True)),
    "default-cgroupns-mode": ("host", lambda e: created(e)["HostConfig"]["CgroupnsMode"] == "host"),
    "default-ipc-mode": ("shareable", lambda e: created(e)["HostConfig"]["IpcMode"] == "shareable"),
    "default-network-opts": (
        {"bridge": {"com.docker.network.bridge.host_binding_ipv4": "127.0.0.9"}},
        networks_option("bridge.host_binding_ipv4", "127.0.0.9"),
    ),
    "default-shm-size": ("5m", lambda e: created(e)["HostConfig"]["ShmSize"] == 5 << 20),
    "default-ulimits": (
        {"nofile": {"Name": "nofile", "Hard": 777, "Soft": 777}},
        inside("nofile 777"),
    ),
    "dns": (["192.0.2.53"], inside("nameserver 192.0.2.53")),
    "dns-opts": (["ndots:7"], inside("options ndots:7")),
    "dns-search": (["seek.invalid"], inside("search seek.invalid")),
    "exec-opts": (["native.cgroupdriver=cgroupfs"], info("CgroupDriver", "cgroupfs")),
    "experimental": (True, info("ExperimentalBuild", True)),
    "features": ({"buildkit": False}, lambda e: e.request("GET", "/_ping").headers["Builder-Version"] == "1"),
    "group": ("0", lambda e: os.stat(e.socket).st_gid == 0),
    "host-gateway-ips": (
        ["192.0.2.77"], inside("192.0.2.77\tme")),
    "http-proxy": ("http://proxy.invalid:1", info("HttpProxy", "http://proxy.invalid:1")),
    "https-proxy": ("http://proxy.invalid:2", info("HttpsProxy", "http://proxy.invalid:2")),
    "no-proxy": ("all.invalid", info("NoProxy", "all.invalid")),
    "icc": (False, networks_option("bridge.enable_icc", "false")),
    "ip6tables": (False, lambda e: rules(e, "10.91.7.") and not rules(e, "fd00:91:")),
    "ip-masq": (False, networks_option("bridge.enable_ip_masquerade", "false")),
    "init": (True, lambda e: not re.search("^init (/bin/)?sh ", said(str(e.directory)), re.MULTILINE)),
    "insecure-registries": (
        ["r.invalid:1"], lambda e: "r.invalid:1" in e.call("GET", "/info")["RegistryConfig"]["IndexConfigs"]),
    "registry-mirrors": ([MIRROR], lambda e: e.call("GET", "/info")["RegistryConfig"]["Mirrors"] == [MIRROR]),
    "labels": (["a=b"], info("Labels", ["a=b"])),
    "live-restore": (False, info("LiveRestoreEnabled", False)),
    "log-driver": ("local", info("LoggingDriver", "local")),
    "log-opts": ({"max-size": "1m"}, lambda e: created(e)["HostConfig"]["LogConfig"]["Config"] == {"max-size": "1m"}),
    "log-format": ("json", lambda e: json.loads(e.log.read_text().splitlines()[-1])["level"]),
    "metrics-addr": (f"127.0.0.1:{METRICS}", counts_what_it_does),
    "mtu": (1400, inside("mtu 1400")),
    "no-new-privileges": (True, inside("NoNewPrivs:\t1")),
    "oom-score-adjust": (
        7, lambda e: Path(f"/proc/{e.pid_of('sampand')}/oom_score_adj").read_text().strip() == "7"),
    "seccomp-profile": ("unconfined", inside("Seccomp:\t0")),
    "ipv6": (True, lambda e: bridge(e)["EnableIPv6"] is True),
    "bip6": ("fd00:91::1/64", inside("inet6 fd00:91::")),
    "fixed-cidr-v6": ("fd00:91::/80", lambda e: any(c.get("IPRange") == "fd00:91::/80"
                                                    for c in bridge(e)["IPAM"]["Config"])),
    "default-gateway-v6": ("fd00:91::9", inside("default via fd00:91::9 ")),
}  # fmt: skip


def subnet(engine: Engine) -> str:
    """Return the subnet that a new network gets."""
    engine.call("POST", "/networks/create", {"Name": "options"})
    found = engine.call("GET", "/networks/options")["IPAM"]["Config"][0]["Subnet"]
    engine.call("DELETE", "/networks/options")
    return str(found)


def starts_with_init(engine: Engine) -> str:
    """Return why a container does not start whose init is not there."""
    id = engine.call("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Init": True}})["Id"]
    message = engine.request("POST", f"/containers/{id}/start").message
    engine.remove(id)
    return message


ACT_TOO: dict[str, tuple[Any, Check]] = {  # those that exclude some of the others
    "default-address-pools": (
        [{"base": "10.92.0.0/16", "size": 28}], lambda e: re.fullmatch(r"10\.92\.\d+\.\d+/28", subnet(e))),
    "init-path": ("/nowhere/init", lambda e: "/nowhere/init" in starts_with_init(e)),
    "ip": ("127.0.0.8", networks_option("bridge.host_binding_ipv4", "127.0.0.8")),
    "iptables": (False, info("FirewallBackend", {"Driver": "none"})),
    "log-level": ("warn", lambda e: "level=info" not in e.log.read_text()),
    "storage-driver": ("vfs", info("Driver", "vfs")),
}  # fmt: skip


def started(options: dict[str, tuple[Any, Check]]) -> Iterator[Engine]:
    engine = Engine()
    (engine.directory / "daemon.json").write_text(
        json.dumps({k: v for k, (v, _) in options.items() if REALTIME or not k.startswith("cpu-rt-")})
    )
    engine.start()
    try:
        engine.import_busybox()
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def first() -> Iterator[Engine]:
    yield from started(ACTS)


@pytest.fixture(scope="module")
def second() -> Iterator[Engine]:
    yield from started(ACT_TOO)


@pytest.mark.parametrize("key", ACTS)
def test_its_effect_is_seen(first: Engine, key: str) -> None:
    assert ACTS[key][1](first)


@pytest.mark.parametrize("key", ACT_TOO)
def test_its_effect_is_seen_too(second: Engine, key: str) -> None:
    assert ACT_TOO[key][1](second)


RELOADED: dict[str, tuple[Any, Check]] = {
    "debug": (True, info("Debug", True)),
    "default-runtime": ("again", lambda e: created(e)["HostConfig"]["Runtime"] == "again"),
    "default-shm-size": ("3m", lambda e: created(e)["HostConfig"]["ShmSize"] == 3 << 20),
    "disk-budget": ("5g", lambda e: True),
    "features": ({"buildkit": False}, lambda e: e.request("GET", "/_ping").headers["Builder-Version"] == "1"),
    "insecure-registries": (
        ["s.invalid:1"], lambda e: "s.invalid:1" in e.call("GET", "/info")["RegistryConfig"]["IndexConfigs"]),
    "labels": (["c=d"], info("Labels", ["c=d"])),
    "live-restore": (False, info("LiveRestoreEnabled", False)),
    "max-concurrent-downloads": (7, lambda e: True),
    "max-concurrent-uploads": (7, lambda e: True),
    "max-download-attempts": (7, lambda e: True),
    "registries": ({"docker.io": {"mirrors": [MIRROR]}}, lambda e: True),
    "registry-mirrors": ([MIRROR], lambda e: e.call("GET", "/info")["RegistryConfig"]["Mirrors"] == [MIRROR]),
    "runtimes": (
        {"again": {"path": str(BIN / "sampan-runc")}}, lambda e: "again" in e.call("GET", "/info")["Runtimes"]),
    "shutdown-timeout": (3, lambda e: True),
}  # fmt: skip
"""What SIGHUP takes up; whose effect no request shows has it read in the reload event here, and in test_reload.py."""


def test_sighup_takes_up_each_reloadable_key_and_no_other(own: Engine) -> None:
    document = {key: value for key, (value, _) in RELOADED.items()}
    own.start()
    own.import_busybox()
    began = time.time()
    reload(own, {**document, "mtu": 1234, "icc": False})
    for key, (_, check) in RELOADED.items():
        assert check(own), key
    assert bridge(own)["Options"]["com.docker.network.driver.mtu"] == "1500", "that takes a restart"
    events = own.request("GET", "/events", since=str(int(began)), until=str(int(time.time()) + 1)).raw.splitlines()
    told = next(e["Actor"]["Attributes"] for e in map(json.loads, events) if e["Action"] == "reload")
    assert told.keys() == {"name", *RELOADED}
    for key in ("max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts", "shutdown-timeout"):
        assert told[key] == str(document[key])
    reload(own, {"labels": 5}, refused="cannot unmarshal number into Go struct field Config.labels")
    assert own.call("GET", "/info")["Labels"] == ["c=d"], "a file that cannot be accepted changes nothing"
