"""Networks and addresses of a plugin, on a whole engine: what it is asked, and who is waited for.

What is wrong with a plugin is the subject of test_plugin_faults.py.

plugin_calls.json holds what Docker Engine 28.5.2 says, to its user and to the same plugin, for the same commands
(plugin_calls.py records it).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.linux import netlink
from sampan.linux.netlink import Netlink
from tests.e2e import plugin_calls
from tests.support.engine import Engine, until

RECORDED = json.loads(Path(__file__).with_name("plugin_calls.json").read_text())
PLUGIN = "testnet"
GATEWAY = "docker_gwbridge"


class PluginProcess:
    """The test plugin of one engine: `start` it, let it be wrong, let it die."""

    def __init__(self, engine: Engine, *flags: str) -> None:
        self.flags = flags
        self.socket = engine.exec_root / "plugins" / f"{PLUGIN}.sock"
        self.journal = engine.directory / f"{PLUGIN}.journal"
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> PluginProcess:
        command = [sys.executable, "-m", "tests.support.network_plugin", str(self.socket), str(self.journal)]
        self.process = subprocess.Popen([*command, *self.flags])
        until(self._listens, 20, "the plugin")
        return self

    def _listens(self) -> bool:
        """Whether it can be reached: its socket is there a moment before."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None
        self.socket.unlink(missing_ok=True)

    def fault(self, **calls: str) -> None:
        """Say what is wrong with which call (`NetworkDriver__Join="hang"`); nothing: all is well."""
        file = Path(f"{self.socket}.fault")
        new = file.with_suffix(".new")
        new.write_text(json.dumps({call.replace("__", "."): fault for call, fault in calls.items()}))
        new.rename(file)

    def calls(self) -> list[str]:
        return [json.loads(line)["call"].rpartition(".")[2] for line in self.journal.read_text().splitlines()]


@pytest.fixture(scope="module")
def engine(root: None) -> Iterator[Engine]:
    own = Engine()
    own.program = [sys.executable, "-m", "tests.support.sampand_impatient"]
    try:
        own.start()
        own.import_busybox()
        yield own
    finally:
        own.close()


@pytest.fixture
def plugin(engine: Engine) -> Iterator[PluginProcess]:
    made = PluginProcess(engine, "RequiresRequestReplay").start()
    yield made
    made.fault()
    for container in engine.call("GET", "/containers/json", all="1"):
        engine.remove(container["Id"])
    engine.call("POST", "/networks/prune")
    made.stop()
    made.journal.unlink(missing_ok=True)
    left = links()
    with Netlink() as host:
        host.attempt([netlink.delete_link(name) for name in left])
    assert left == set()


def links() -> set[str]:
    return {name for name in os.listdir("/sys/class/net") if name.startswith(("tpb", "tph", "tpc"))}


def create(engine: Engine, name: str, **more: Any) -> Any:
    body = {"Name": name, "Driver": PLUGIN, "IPAM": {"Driver": PLUGIN, "Options": {"pool": "10.76.0.0/24"}}, **more}
    return engine.request("POST", "/networks/create", body)


def start(engine: Engine, name: str, network: str) -> Any:
    """Create and start a container; return the answer of the start."""
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": network}}
    assert engine.request("POST", "/containers/create", body, name=name).status == 201
    return engine.request("POST", f"/containers/{name}/start")


def test_a_plugin_is_asked_as_docker_asks_it(engine: Engine) -> None:
    plugin = PluginProcess(engine).start()

    def docker(command: list[str]) -> str:
        done = engine.cli("docker", *command, check=False)
        return done.stdout + done.stderr

    ours = plugin_calls.play(docker, PLUGIN, str(plugin.journal))
    plugin.stop()
    differing = [
        (command, mine, theirs)
        for command, mine, theirs in zip(plugin_calls.COMMANDS, ours["said"], RECORDED["said"], strict=True)
        if mine != theirs
    ]
    assert not differing
    for kind, calls in RECORDED["calls"].items():
        assert [a for a in zip(ours["calls"][kind], calls) if a[0] != a[1]] == [] and len(calls) == len(
            ours["calls"][kind]
        )
    assert ours["aside"] == RECORDED["aside"] and links() == set()


def test_an_unknown_driver_is_refused_at_once(engine: Engine) -> None:
    begun = time.monotonic()
    for body in ({"Driver": "nosuch"}, {"Driver": "../x"}, {"IPAM": {"Driver": "nosuch"}}):
        answer = engine.request("POST", "/networks/create", {"Name": "n", **body})
        assert answer.status == 404 and answer.message.endswith("not found") and "plugin" in answer.message
    assert time.monotonic() - begun < 5
    assert engine.cli("docker", "plugin", "ls", "-q").stdout == ""
    assert [n["Name"] for n in engine.call("GET", "/networks")] == ["bridge", "host", "none"]


def test_a_plugin_with_networks_is_shown(engine: Engine, plugin: PluginProcess) -> None:
    own = engine.call("GET", "/info")["Plugins"]["Network"]
    assert PLUGIN not in own and "bridge" in own
    assert create(engine, "shown").status == 201
    assert engine.call("GET", "/info")["Plugins"]["Network"] == sorted([*own, PLUGIN])
    assert engine.cli("docker", "network", "ls", "-q", "--filter", f"driver={PLUGIN}").stdout
    engine.call("DELETE", "/networks/shown")


def test_a_plugin_that_hangs_at_every_end_holds_up_no_end(engine: Engine, plugin: PluginProcess) -> None:
    """One that is silent is waited for shorter each time: the waits do not add up."""
    assert create(engine, "ending").status == 201
    assert start(engine, "ends", "ending").status == 204
    calls = ("NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint", "NetworkDriver.DeleteNetwork")
    both = (*calls, "NetworkDriver.RevokeExternalConnectivity", "IpamDriver.ReleaseAddress", "IpamDriver.ReleasePool")
    plugin.fault(**dict.fromkeys(both, "hang"))
    begun = time.monotonic()
    engine.remove("ends")
    engine.call("DELETE", "/networks/ending")
    assert time.monotonic() - begun < 15
    assert [n["Name"] for n in engine.call("GET", "/networks")] == ["bridge", "host", "none"]


def test_a_plugin_without_a_gateway_has_the_engines_way_out(engine: Engine, plugin: PluginProcess) -> None:
    """As in Docker: by docker_gwbridge, unless the plugin says that the engine shall give none."""

    def routes(container: str) -> list[str]:
        return engine.cli("docker", "exec", container, "ip", "route").stdout.splitlines()

    def networks() -> set[str]:
        return {network["Name"] for network in engine.call("GET", "/networks")}

    assert create(engine, "leading").status == 201
    assert start(engine, "led", "leading").status == 204
    assert [r for r in routes("led") if r.startswith("default via 10.76.0.")] and GATEWAY not in networks()
    engine.remove("led")
    engine.call("DELETE", "/networks/leading")

    assert create(engine, "nowhere", Options={"join": '{"Gateway": ""}'}).status == 201
    assert start(engine, "out", "nowhere").status == 204
    gateway = engine.call("GET", f"/networks/{GATEWAY}")
    assert [r for r in routes("out") if r.startswith(f"default via {gateway['IPAM']['Config'][0]['Gateway']} ")]
    assert engine.cli("docker", "exec", "out", "ping", "-c1", "-W2", gateway["IPAM"]["Config"][0]["Gateway"])
    assert set(engine.inspect("out")["NetworkSettings"]["Networks"]) == {"nowhere"}
    engine.kill()
    engine.start()
    assert len([r for r in routes("out") if r.startswith("default")]) == 1

    engine.run("sleep", "1000", name="lonely", NetworkMode="none")
    engine.call("POST", "/networks/none/disconnect", {"Container": "lonely", "Force": True})
    engine.call("POST", "/networks/nowhere/connect", {"Container": "lonely"})
    assert [r for r in routes("lonely") if r.startswith("default")]
    engine.call("POST", "/networks/nowhere/disconnect", {"Container": "lonely"})
    assert not [r for r in routes("lonely") if r.startswith("default")]
    engine.remove("lonely")

    join = '{"Gateway": "", "DisableGatewayService": true}'
    ipam = {"Driver": PLUGIN, "Options": {"pool": "10.77.0.0/24"}}
    assert create(engine, "closed", Options={"join": join}, IPAM=ipam).status == 201
    assert start(engine, "in", "closed").status == 204
    assert not [r for r in routes("in") if r.startswith("default")]
    for name, network in (("in", "closed"), ("out", "nowhere")):
        engine.remove(name)
        engine.call("DELETE", f"/networks/{network}")
    until(lambda: GATEWAY not in networks(), 5, "nobody needs the way out")


def test_a_hanging_plugin_holds_up_nobody_else(engine: Engine, plugin: PluginProcess) -> None:
    plugin.fault(NetworkDriver__CreateNetwork="hang")
    creating = subprocess.Popen(
        ["docker", "network", "create", "-d", PLUGIN, "--subnet", "10.78.1.0/24", "hung"],
        env=engine.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    until(lambda: "/NetworkDriver.CreateNetwork" in plugin.journal.read_text(), 10, "the call")
    begun = time.monotonic()
    assert engine.request("POST", "/networks/create", {"Name": "quick"}).status == 201
    assert time.monotonic() - begun < 1.8 and creating.poll() is None
    said, _ = creating.communicate(timeout=20)
    assert b"no answer within 2 s" in said
    engine.call("DELETE", "/networks/quick")


def test_networks_outlive_engine_and_plugin(engine: Engine, plugin: PluginProcess) -> None:
    assert create(engine, "kept").status == 201
    assert start(engine, "runs", "kept").status == 204 and start(engine, "plain", "bridge").status == 204
    where = engine.inspect("runs")["NetworkSettings"]["Networks"]["kept"]["IPAddress"]
    assert engine.process is not None
    engine.process.send_signal(signal.SIGKILL)
    engine.process.wait()
    plugin.stop()
    begun = time.monotonic()
    engine.start()
    assert time.monotonic() - begun < 10, "nobody waits for a plugin"
    assert engine.inspect("runs")["State"]["Running"] and engine.inspect("plain")["State"]["Running"]
    assert engine.call("GET", "/networks/kept")["Driver"] == PLUGIN
    assert f'plugin "{PLUGIN}" not found' in start(engine, "early", "kept").message
    plugin.journal.unlink()
    plugin.start()
    assert engine.request("POST", "/containers/early/start").status == 204
    calls = plugin.calls()
    first = calls.index("RequestAddress")
    assert "RequestPool" in calls[:first], "what an engine had is asked for again, as this plugin wishes"
    replayed = [json.loads(line)["body"] for line in plugin.journal.read_text().splitlines()]
    assert any(body and body.get("Address") == where for body in replayed)
    other = engine.inspect("early")["NetworkSettings"]["Networks"]["kept"]["IPAddress"]
    assert other and other != where
    for name in ("early", "runs", "plain"):
        engine.remove(name)
    engine.call("DELETE", "/networks/kept")
    assert links() == set()


def test_an_engine_killed_in_the_middle_of_a_join_ends_it_later(engine: Engine, plugin: PluginProcess) -> None:
    assert create(engine, "cut").status == 201
    before = links()
    plugin.fault(NetworkDriver__Join="hang")
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "cut"}}
    engine.call("POST", "/containers/create", body, name="half")
    starting = subprocess.Popen(
        ["docker", "start", "half"], env=engine.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until(lambda: "/NetworkDriver.Join" in plugin.journal.read_text(), 10, "the call")
    assert engine.process is not None
    engine.process.send_signal(signal.SIGKILL)
    engine.process.wait()
    starting.wait(20)
    plugin.fault()
    assert links() != before
    engine.start()
    assert links() == before
    engine.remove("half")
    engine.call("DELETE", "/networks/cut")
