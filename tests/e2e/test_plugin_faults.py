"""Every call that is made of a plugin, and everything that can be wrong with it: only the plugin's own networks suffer.

A network of a plugin is made, a container started on it, disconnected, connected, removed, and the network removed; a
fault is there during one of these steps. That step fails with words that name the call, or ends all the same where
something is taken away; nothing is left; and all of it works when the plugin is well again. Each call at each step has
a plugin of its own with its faults one after the other. Several plugins are ill at once, while a container elsewhere
comes and goes. `SAMPAN_PLUGIN_FAULTS=all` plays all of them, in about two minutes; else each call has some in turn.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from sampan.linux import netlink
from sampan.linux.netlink import Netlink
from tests.support.engine import Answer, Engine, until
from tests.support.network_plugin import PluginThread

MAKE, START, LEAVE, JOIN, END, DELETE = "make", "start", "disconnect", "connect", "remove", "delete"
ALWAYS = ("I will not", "hang", "die", "wrong JSON", "huge", "list")
AT_ONCE = 8  # plugins that are ill at the same time
CALLED_S = 20

LIES: dict[tuple[str, str], tuple[str, ...]] = {
    ("Plugin.Activate", MAKE): ("{}", '{"Implements": 5}', '{"Implements": ["VolumeDriver"]}'),
    ("NetworkDriver.GetCapabilities", MAKE): ('{"Scope": "moon"}', '{"Scope": 5}'),
    ("NetworkDriver.CreateNetwork", MAKE): (),
    ("IpamDriver.GetDefaultAddressSpaces", MAKE): ('{"LocalDefaultAddressSpace": 5}',),
    ("IpamDriver.RequestPool", MAKE): (
        "{}",
        '{"PoolID": 5, "Pool": "10.76.0.0/24"}',
        '{"PoolID": "p", "Pool": "here"}',
        '{"PoolID": "p", "Pool": "10.76.0.0/99"}',
        '{"PoolID": "p", "Pool": "fd77::/64"}',
        '{"PoolID": "p", "Pool": "10.76.0.0/24", "Data": 5}',
        '{"PoolID": "p", "Pool": "10.76.0.0/24", "Data": {"com.docker.network.gateway": "192.0.2.1/24"}}',
    ),
    ("IpamDriver.RequestAddress", MAKE): ('{"Address": "192.0.2.1/24"}', '{"Address": "x"}', '{"Address": 7}'),
    ("IpamDriver.GetCapabilities", START): ('{"RequiresMACAddress": "yes"}',),
    ("IpamDriver.RequestAddress", START): (
        "{}",
        '{"Address": "192.0.2.1/24"}',
        '{"Address": "fd00::1/64"}',
        '{"Address": "x"}',
        '{"Address": 7}',
    ),
    ("NetworkDriver.CreateEndpoint", START): (
        '{"Interface": 5}',
        '{"Interface": {"Address": "1.2.3.4/24"}}',
        '{"Interface": {"AddressIPv6": "1.2.3.4/24"}}',
        '{"Interface": {"MacAddress": "x"}}',
        '{"Interface": {"MacAddress": "01:00:5e:00:00:01"}}',
    ),
    ("NetworkDriver.Join", START): (
        '{"InterfaceName": 5}',
        '{"InterfaceName": {"SrcName": "../../x", "DstPrefix": "eth"}}',
        '{"InterfaceName": {"SrcName": "nosuch", "DstPrefix": "eth"}}',
        '{"InterfaceName": {"SrcName": "lo", "DstPrefix": "eth"}}',
        '{"InterfaceName": {"SrcName": "x", "DstPrefix": "a/b"}}',
        '{"Gateway": "fe80::1"}',
        '{"GatewayIPv6": "10.76.0.1"}',
        '{"StaticRoutes": [{"Destination": "here"}]}',
        '{"StaticRoutes": [{"Destination": "10.9.0.0/16", "RouteType": 7}]}',
        '{"StaticRoutes": [{"Destination": "10.9.0.0/16", "NextHop": "fe80::1"}]}',
        '{"StaticRoutes": 5}',
    ),
    ("NetworkDriver.ProgramExternalConnectivity", START): ('{"Err": 5}',),
    ("NetworkDriver.RevokeExternalConnectivity", LEAVE): ('{"Err": 5}',),
    ("NetworkDriver.Leave", LEAVE): ('{"Err": 5}',),
    ("NetworkDriver.DeleteEndpoint", LEAVE): ('{"Err": 5}',),
    ("IpamDriver.ReleaseAddress", LEAVE): ('{"Err": 5}',),
    ("IpamDriver.RequestAddress", JOIN): ('{"Address": "192.0.2.1/24"}',),
    ("NetworkDriver.CreateEndpoint", JOIN): ('{"Interface": {"Address": "1.2.3.4/24"}}',),
    ("NetworkDriver.Join", JOIN): ('{"InterfaceName": {"SrcName": "nosuch", "DstPrefix": "eth"}}',),
    ("NetworkDriver.ProgramExternalConnectivity", JOIN): (),
    ("NetworkDriver.RevokeExternalConnectivity", END): (),
    ("NetworkDriver.Leave", END): (),
    ("NetworkDriver.DeleteEndpoint", END): (),
    ("IpamDriver.ReleaseAddress", END): (),
    ("NetworkDriver.DeleteNetwork", DELETE): ('{"Err": 5}',),
    ("IpamDriver.ReleaseAddress", DELETE): (),
    ("IpamDriver.ReleasePool", DELETE): ('{"Err": 5}',),
}
"""By call and step: answers that are JSON, and wrong."""
REFUSED = (MAKE, START, JOIN)
"""Steps that fail with the call; the others end whatever a plugin says."""
NOT_CALLED = ("AllocateNetwork", "FreeNetwork", "DiscoverNew", "DiscoverDelete", "EndpointOperInfo")
PAIRS = {
    "NetworkDriver.CreateNetwork": ("NetworkDriver.DeleteNetwork", "NetworkID"),
    "NetworkDriver.CreateEndpoint": ("NetworkDriver.DeleteEndpoint", "EndpointID"),
    "NetworkDriver.Join": ("NetworkDriver.Leave", "EndpointID"),
    "NetworkDriver.ProgramExternalConnectivity": ("NetworkDriver.RevokeExternalConnectivity", "EndpointID"),
}
"""What is begun with a plugin and must be ended with it; by which argument they belong together."""
CASES = list(LIES)
SOME = 2


def faults(number: int) -> list[str]:
    """Return the faults of a case."""
    of_call = [*ALWAYS, *LIES[CASES[number]]]
    if os.environ.get("SAMPAN_PLUGIN_FAULTS") == "all":
        return of_call
    return [of_call[(number + n * len(of_call) // SOME) % len(of_call)] for n in range(SOME)]


class Life:
    """A network of one plugin, and a container on it, step by step."""

    def __init__(self, engine: Engine, number: int) -> None:
        self.engine, self.number = engine, number
        self.name = f"ill-{number}"
        self.plugin = PluginThread(engine.exec_root, self.name)

    def steps(self) -> dict[str, tuple[str, str, Any]]:
        """What each step asks the engine."""
        pool = {"pool": f"10.76.{self.number}.0/24"}
        network = {"Name": self.name, "Driver": self.name, "IPAM": {"Driver": self.name, "Options": pool}}
        member = {"Container": self.name}
        return {
            MAKE: ("POST", "/networks/create", network),
            START: ("POST", f"/containers/{self.name}/start", None),
            LEAVE: ("POST", f"/networks/{self.name}/disconnect", member),
            JOIN: ("POST", f"/networks/{self.name}/connect", member),
            END: ("DELETE", f"/containers/{self.name}?force=1", None),
            DELETE: ("DELETE", f"/networks/{self.name}", None),
        }

    def live(self, upto: str = "") -> None:
        """Take all steps, each well; upto: those before this one."""
        for step in self.steps():
            if step == upto:
                return
            answer = self.step(step)
            assert answer.status < 300, (self.name, step, answer.raw[:300])

    def step(self, step: str) -> Answer:
        if step == START:
            body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": self.name}}
            assert self.engine.request("POST", "/containers/create", body, name=self.name).status == 201
        method, path, body = self.steps()[step]
        return self.engine.request(method, path, body)

    def end(self) -> None:
        """Remove what the step that failed has left, with a plugin that is well."""
        for step in (END, DELETE):
            answer = self.step(step)
            assert answer.status in (200, 204, 404), (self.name, step, answer.raw[:300])


def ill(engine: Engine, number: int) -> list[str]:
    """Play one case; return what is wrong with what the engine did."""
    call, step = CASES[number]
    life = Life(engine, number)
    wrong = []
    try:
        for fault in faults(number):
            wrong += [f"{call} {step} {fault[:80]}: {found}" for found in played(life, call, step, fault)]
        life.live()
    except AssertionError as error:
        wrong.append(f"{call} {step} at last: {error}")
    finally:
        life.plugin.stop()
    names = {asked["call"].partition(".")[2] for asked in life.plugin.calls()}
    return wrong + [f"{name} was called" for name in NOT_CALLED if name in names]


def played(life: Life, call: str, step: str, fault: str) -> list[str]:
    """Play one fault; return what is wrong with what the engine did."""
    try:
        life.live(upto=step)
        told = len(life.plugin.calls())
        life.plugin.fault(**{call: fault})
        found = judged(call, step, fault, life.step(step))
        if fault != "die":  # of addresses one is told a little later
            until(lambda: call in [asked["call"] for asked in life.plugin.calls()[told:]], CALLED_S, f"{call} is made")
        life.plugin.fault()
        if fault == "die":
            life.plugin.stop()
            life.plugin.start()
        life.end()
        if life.engine.request("GET", f"/networks/{life.name}").status != 404:
            found.append("the network is still there")
        if fault != "die" and step in REFUSED:  # what died knows nothing of before, and of an end one is told once
            found += [f"not ended: {what}" for what in unended(life.plugin, call)]
            found += [f"{link} is left" for link in life.plugin.links()]
        life.plugin.forget()
        return found
    except AssertionError as error:
        return [str(error)]


def judged(call: str, step: str, fault: str, answer: Answer) -> list[str]:
    """Return what is wrong with the answer to the step during which a call failed."""
    if step not in REFUSED:
        return [] if answer.status < 300 else [f"{answer.status} {answer.raw[:200]!r}"]
    if answer.status not in (403, 404, 500, 503):
        return [f"{answer.status} {answer.raw[:200]!r}"]
    said = answer.message
    found = [] if len(said) < 1000 else ["a long message"]
    if fault in ALWAYS and call.partition(".")[2] not in said:
        found.append(f"the call is not named: {said[:300]}")
    if step == START and not said.startswith("failed to set up container networking: "):
        found.append(f"no word of what failed: {said[:300]}")
    return found


def unended(plugin: PluginThread, failed: str) -> list[str]:
    """Return what a plugin has begun, as far as it knows, and was not told the end of."""
    found = []
    calls = plugin.calls()
    for begin, (end, argument) in PAIRS.items():
        begun = {c["body"][argument] for c in calls if c["call"] == begin and not c["answer"].get("Err")}
        found += [begin for _ in begun - {c["body"][argument] for c in calls if c["call"] == end}]
    if not failed.startswith("IpamDriver.Request"):  # of what could not be read nothing can be given back
        for kind, key in (("Address", "Address"), ("Pool", "PoolID")):
            had = [c["answer"][key].partition("/")[0] if kind == "Address" else c["answer"][key]
                   for c in calls if c["call"] == f"IpamDriver.Request{kind}" and key in c["answer"]]  # fmt: skip
            back = [c["body"][key] for c in calls if c["call"] == f"IpamDriver.Release{kind}"]
            found += [f"{kind} {what}" for what in had if what not in back]
    return found


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
        with Netlink() as host:
            host.attempt([netlink.delete_link(name) for name in links()])


def links() -> set[str]:
    return {name for name in os.listdir("/sys/class/net") if name.startswith(("tpb", "tph", "tpc"))}


def test_a_plugin_that_is_ill_harms_its_own_networks_only(engine: Engine) -> None:
    stop, elsewhere = threading.Event(), 0

    def others() -> int:
        done = 0
        while not stop.is_set() or not done:
            engine.call("POST", "/networks/create", {"Name": "plain"})
            engine.remove(engine.run("sleep", "1000", NetworkMode="plain"))
            engine.call("DELETE", "/networks/plain")
            done += 1
        return done

    with ThreadPoolExecutor(AT_ONCE + 1) as threads:
        beside = threads.submit(others)
        try:
            wrong = [said for all_said in threads.map(partial(ill, engine), range(len(CASES))) for said in all_said]
        finally:
            stop.set()
        elsewhere = beside.result()
    assert not wrong, "\n".join(wrong)
    assert elsewhere > 0 and [n["Name"] for n in engine.call("GET", "/networks")] == ["bridge", "host", "none"]
    assert engine.call("GET", "/containers/json", all="1") == []
    assert "Traceback" not in engine.log.read_text()


def test_every_call_has_its_faults() -> None:
    """All that the engine says to a plugin stands in the table."""
    from tests.e2e.test_network_plugins import RECORDED

    made = {f"{kind}.{call}" for kind, calls in RECORDED["calls"].items() for call, _ in calls}
    aside = {call for call in RECORDED["aside"] if not call.endswith("OperInfo")}
    assert made | aside == {call for call, _ in LIES}
