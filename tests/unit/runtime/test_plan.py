"""From a spec to a plan: nothing is asked of the machine, everything is decided."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.linux import namespaces as ns
from sampan.runtime import plan as planning
from sampan.runtime import process_plan
from tests.unit.runtime.test_validate import good


def plan_of(**linux: Any) -> planning.Plan:
    spec = good()
    spec["linux"] |= linux
    return planning.build(spec, id="c1", bundle="/b")


def test_namespaces_are_sorted_into_clone_join_and_unshare() -> None:
    kinds = [{"type": kind} for kind in ("mount", "cgroup", "time", "pid")]
    plan = plan_of(namespaces=[*kinds, {"type": "network", "path": "/n"}, {"type": "user", "path": "/u"}])
    assert plan.clone_flags == ns.CLONE_NEWNS | ns.CLONE_NEWPID
    assert plan.joins == [(ns.CLONE_NEWUSER, "/u"), (ns.CLONE_NEWNET, "/n")]
    assert plan.unshare_cgroup and plan.unshare_time and plan.user_namespace
    assert not plan.new_network


def test_default_devices_yield_to_the_specs() -> None:
    own = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 1}
    devices = {device.path: device for device in plan_of(devices=[own]).devices}
    assert set(devices) == {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
    assert (devices["/dev/null"].mode, devices["/dev/null"].uid) == (0o600, 1)


def test_a_bound_dev_is_left_alone() -> None:
    spec = good()
    spec["mounts"].append({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]})
    plan = planning.build(spec, id="c1", bundle="/b")
    assert plan.devices == [] and plan.links == []


@pytest.mark.parametrize(
    ("destination", "clean"), [("/a/../b", "/b"), ("//x", "/x"), ("/x/", "/x"), ("/../..", "/"), ("/a//b/.", "/a/b")]
)
def test_destinations_are_cleaned(destination: str, clean: str) -> None:
    assert planning.PlannedMount({"destination": destination}).destination == clean


def test_paths_and_names() -> None:
    plan = plan_of(sysctl={"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/x": "2"})
    assert plan.root_path == "/b/rootfs"
    assert plan.cgroup_path == "/c1"
    assert plan.sysctl == [("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/eth0.1/x", "2")]


def test_process() -> None:
    spec = {
        "args": ["a"],
        "cwd": "/",
        "env": ["A=1", "B==", "A=2"],
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
        "capabilities": {"effective": ["CAP_CHOWN", "CAP_KILL", "CAP_FROM_THE_FUTURE"]},
        "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 3},
        "scheduler": {
            "policy": "SCHED_DEADLINE",
            "runtime": 1,
            "deadline": 2,
            "period": 3,
            "flags": ["SCHED_FLAG_RECLAIM"],
        },
        "consoleSize": {"height": 5, "width": 6},
    }
    plan = process_plan.build(spec)
    assert plan.env == {"A": "2", "B": "="}
    assert plan.rlimits == [("RLIMIT_NOFILE", 7, 1, 2)]
    assert plan.capabilities is not None and plan.capabilities.effective == 0b100001
    assert plan.io_priority == 1 << 13 | 3
    assert plan.scheduler == {"policy": 6, "flags": 2, "nice": 0, "priority": 0, "times": (1, 2, 3)}
    assert plan.console_size == (5, 6)
    assert plan.describe()[-1] == "exec ['a']"


@pytest.mark.parametrize(("text", "cpus"), [("", set()), ("0", {0}), ("0-2,5", {0, 1, 2, 5}), (" 1 , 3 ", {1, 3})])
def test_cpu_lists(text: str, cpus: set[int]) -> None:
    assert process_plan.cpu_list(text) == cpus
