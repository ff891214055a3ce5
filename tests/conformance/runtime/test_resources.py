"""Limits: what the spec and `update` ask for is in the kernel's files, and holds. cgroup v1; v2 has its own test
machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.linux.cgroups import groups
from tests.conformance.runtime.driver import Runtime, Spec
from tests.conftest import lacks

V1 = {
    "memory": ({"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20}, {
        "memory/memory.limit_in_bytes": str(64 << 20),
        "memory/memory.memsw.limit_in_bytes": str(96 << 20),
        "memory/memory.soft_limit_in_bytes": str(32 << 20),
    }),
    "cpu": ({"shares": 512, "quota": 25000, "period": 50000}, {
        "cpu/cpu.shares": "512",
        "cpu/cpu.cfs_quota_us": "25000",
        "cpu/cpu.cfs_period_us": "50000",
    }),
    "pids": ({"limit": 77}, {"pids/pids.max": "77"}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def legacy() -> None:
    if groups.mode() == "unified":
        lacks("cgroup v1")


def control(runtime: Runtime, id: str, name: str) -> str:
    hierarchy, _, file = name.partition("/")
    return Path(f"/sys/fs/cgroup/{hierarchy}/{runtime.prefix}/{id}/{file}").read_text().strip()


def limited(runtime: Runtime, *args: str, **resources: Any) -> Spec:
    spec = runtime.spec(*args)
    spec["linux"]["resources"].update(resources)
    return spec


@pytest.mark.parametrize("group", sorted(V1))
def test_limits_of_the_spec(runtime: Runtime, group: str) -> None:
    values, files = V1[group]
    id = runtime.create(limited(runtime, **{group: values}))
    assert {name: control(runtime, id, name) for name in files} == files


def test_cpuset(runtime: Runtime) -> None:
    id = runtime.create(limited(runtime, cpu={"cpus": "0", "mems": "0"}))
    assert control(runtime, id, "cpuset/cpuset.cpus") == "0"


def test_throttling_of_a_block_device(runtime: Runtime) -> None:
    device = next((p.name for p in Path("/sys/block").iterdir() if (p / "dev").exists()), None)
    if device is None:
        lacks("a block device")
    major, minor = map(int, (Path("/sys/block") / str(device) / "dev").read_text().split(":"))
    rate = {"major": major, "minor": minor, "rate": 1 << 20}
    id = runtime.create(limited(runtime, blockIO={"throttleReadBpsDevice": [rate]}))
    assert control(runtime, id, "blkio/blkio.throttle.read_bps_device") == f"{major}:{minor} {1 << 20}"


def test_the_pids_limit_holds(runtime: Runtime) -> None:
    spec = limited(runtime, "sh", "-c", "sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & wait", pids={"limit": 4})
    done = runtime.run(spec)
    assert "can't fork" in done.stderr


def test_the_memory_limit_holds(runtime: Runtime) -> None:
    spec = limited(
        runtime, "sh", "-c", "head -c 100000000 /dev/zero > /tmp/file", memory={"limit": 16 << 20, "swap": 16 << 20}
    )
    assert runtime.run(spec).returncode == 137


def test_a_limit_without_its_controller_is_named(runtime: Runtime) -> None:
    if "hugetlb" in groups.controllers():
        lacks("a controller that is missing")
    message = runtime.create(limited(runtime, hugepageLimits=[{"pageSize": "2MB", "limit": 1 << 21}]), status=1)
    assert "cannot set hugetlb limit" in message


def test_update_by_flags(runtime: Runtime) -> None:
    id = runtime.start(limited(runtime, memory={"limit": 64 << 20, "swap": 64 << 20}))
    flags = [
        "--memory",
        "96M",
        "--memory-swap",
        str(128 << 20),
        "--cpu-share",
        "256",
        "--cpu-quota",
        "30000",
        "--pids-limit",
        "9",
    ]
    runtime.ok("update", *flags, id)
    assert control(runtime, id, "memory/memory.limit_in_bytes") == str(96 << 20)
    assert control(runtime, id, "memory/memory.memsw.limit_in_bytes") == str(128 << 20)
    assert control(runtime, id, "cpu/cpu.shares") == "256"
    assert control(runtime, id, "cpu/cpu.cfs_quota_us") == "30000"
    assert control(runtime, id, "pids/pids.max") == "9"
    runtime.ok("update", "--memory", str(32 << 20), "--memory-swap", str(48 << 20), id)
    assert control(runtime, id, "memory/memory.limit_in_bytes") == str(32 << 20)


@pytest.mark.parametrize("by_file", [True, False])
def test_update_by_a_document(runtime: Runtime, by_file: bool) -> None:
    id = runtime.start(runtime.spec())
    text = json.dumps({"cpu": {"shares": 300, "quota": 0}, "pids": {"limit": 11}, "memory": {"limit": 0}})
    if by_file:
        file = runtime.directory / "resources.json"
        file.write_text(text)
        runtime.ok("update", "--resources", str(file), id)
    else:
        runtime.ok("update", "-r", "-", id, stdin=text)
    assert control(runtime, id, "cpu/cpu.shares") == "300"
    assert control(runtime, id, "pids/pids.max") == "11"


def test_update_refuses_nonsense(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    assert runtime.fails("update", "--memory", "lots", id) == "invalid value for memory: invalid size: 'lots'"
    assert "unable to set memory limit to 4096" in runtime.fails("update", "--memory", "4096", id)


def test_statistics(runtime: Runtime) -> None:
    id = runtime.start(limited(runtime, memory={"limit": 64 << 20}, pids={"limit": 50}))
    event = json.loads(runtime.ok("events", "--stats", id))
    assert (event["type"], event["id"]) == ("stats", id)
    data = event["data"]
    assert data["cpu"]["usage"]["total"] > 0
    assert data["memory"]["usage"]["limit"] == 64 << 20
    assert 0 < data["memory"]["usage"]["usage"] <= 64 << 20
    assert data["memory"]["raw"]["hierarchical_memory_limit"] == 64 << 20
    assert data["pids"] == {"current": 1, "limit": 50}


def test_the_cgroup_is_the_one_of_the_spec(runtime: Runtime) -> None:
    spec = runtime.spec("cat", "/proc/self/cgroup")
    spec["linux"]["cgroupsPath"] = f"/{runtime.prefix}/chosen"
    assert f":/{runtime.prefix}/chosen\n" in runtime.says(spec)
