"""The pure half of control groups: mountinfo, OCI limits → writes for v1 and v2, device rules → v1 lines and eBPF."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.linux import bpf
from sampan.linux.cgroups import devices, hierarchy, resources_v1, resources_v2, stats_v2
from sampan.linux.cgroups.v2 import CgroupV2

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/my\\040mem rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/systemd/agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
50 31 0:29 / /mnt/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
"""


def test_mountinfo_gives_every_controller_its_first_mount() -> None:
    v1, v2 = hierarchy.parse_mountinfo(HYBRID)
    assert v1 == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/my mem",
        "name=systemd": "/sys/fs/cgroup/systemd",
    }
    assert v2 == "/sys/fs/cgroup/unified"
    layout = hierarchy.CgroupLayout(mounts=v1, v2_root=v2, v2_controllers=frozenset({"hugetlb"}))
    assert layout.mode == "hybrid"
    assert layout.roots == ("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/my mem", "/sys/fs/cgroup/systemd")
    assert layout.controllers() == {"cpu", "cpuacct", "memory"}


@pytest.mark.parametrize(
    ("resources", "fresh", "writes"),
    [
        ({}, True, []),
        ({"cpu": {"shares": 1024, "period": 100000, "quota": -1, "burst": 0, "idle": 0}}, True, []),
        ({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}}, True, []),
        ({"pids": {"limit": -1}}, False, [("pids", "pids.max", "max")]),
        (
            {"cpu": {"shares": 512, "quota": 50000, "period": 200000, "burst": 1000, "cpus": "0-1", "mems": "0"}},
            True,
            [
                ("cpuset", "cpuset.cpus", "0-1"),
                ("cpuset", "cpuset.mems", "0"),
                ("cpu", "cpu.shares", "512"),
                ("cpu", "cpu.cfs_period_us", "200000"),
                ("cpu", "cpu.cfs_quota_us", "50000"),
                ("cpu", "cpu.cfs_burst_us", "1000"),
            ],
        ),
        (
            {"memory": {"reservation": 5, "disableOOMKiller": True, "swappiness": 60, "kernel": 9}},
            True,
            [
                ("memory", "memory.soft_limit_in_bytes", "5"),
                ("memory", "memory.oom_control", "1"),
                ("memory", "memory.swappiness", "60"),
            ],
        ),
        (
            {"blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1024}]}},
            True,
            [("blkio", "blkio.weight", "500"), ("blkio", "blkio.throttle.read_bps_device", "8:0 1024")],
        ),
        (
            {"network": {"classID": 7, "priorities": [{"name": "eth0", "priority": 3}]}},
            True,
            [("net_cls", "net_cls.classid", "7"), ("net_prio", "net_prio.ifpriomap", "eth0 3")],
        ),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 9}]}, True, [("hugetlb", "hugetlb.2MB.limit_in_bytes", "9")]),
        (
            {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "none": {}}},
            True,
            [("rdma", "rdma.max", "mlx5_1 hca_handle=3 hca_object=10000")],
        ),
    ],
)
def test_v1_writes(resources: dict[str, Any], fresh: bool, writes: list[resources_v1.Write]) -> None:
    assert resources_v1.plan(resources, fresh=fresh) == writes


@pytest.mark.parametrize(
    ("limit_now", "limit", "swap", "first"),
    [(1 << 62, 100, 200, "limit"), (100, 300, 400, "memsw"), (300, 100, 200, "limit"), (100, 200, -1, "memsw")],
)
def test_v1_memory_is_never_above_memory_plus_swap(limit_now: int, limit: int, swap: int, first: str) -> None:
    writes = resources_v1.memory({"limit": limit, "swap": swap}, fresh=False, limit_now=limit_now)
    assert writes[0][1].split(".")[1].partition("_")[0] == first
    assert len(writes) == 2


def test_v1_unlimited_memory_lifts_swap_too() -> None:
    writes = resources_v1.memory({"limit": -1}, fresh=False, limit_now=5)
    assert [value for _, _, value in writes] == ["-1", "-1"]
    assert writes[0][1] == "memory.memsw.limit_in_bytes"


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": {"swappiness": 101}}, "invalid memory swappiness value: 101"),
        ({"unified": {"memory.max": "1"}}, "cannot use unified on cgroup v1"),
        ({"cpu": {"shares": 1}}, "minimum allowed cpu-shares is 2"),
        ({"cpu": {"shares": 262145}}, "maximum allowed cpu-shares is 262144"),
    ],
)
def test_v1_refuses(resources: dict[str, Any], message: str) -> None:
    with pytest.raises(OSError, match=message):
        resources_v1.plan(resources, fresh=True)


@pytest.mark.parametrize(
    ("shares", "weight"), [(0, 1), (2, 1), (1024, 100), (2000, 170), (262144, 10000), (1 << 40, 10000)]
)
def test_cpu_weight(shares: int, weight: int) -> None:
    """2000 → 170 is the figure the runc project published for its new formula."""
    assert resources_v2.cpu_weight(shares) == weight


@pytest.mark.parametrize(
    ("resources", "fresh", "writes"),
    [
        ({"cpu": {"shares": 1024, "period": 100000}, "memory": {"limit": -1}}, True, []),
        (
            {"cpu": {"shares": 512, "quota": 50000, "burst": 10}},
            True,
            [("cpu", "cpu.weight", "59"), ("cpu", "cpu.max", "50000 100000"), ("cpu", "cpu.max.burst", "10")],
        ),
        ({"cpu": {"quota": -1}}, False, [("cpu", "cpu.max", "max 100000")]),
        ({"cpu": {"idle": 1, "shares": 512}}, True, [("cpu", "cpu.idle", "1")]),
        ({"memory": {"limit": 100, "swap": 100}}, True,
         [("memory", "memory.swap.max", "0"), ("memory", "memory.max", "100")]),
        ({"memory": {"limit": 100, "swap": 300}}, True,
         [("memory", "memory.swap.max", "200"), ("memory", "memory.max", "100")]),
        ({"memory": {"limit": -1}}, False, [("memory", "memory.swap.max", "max"), ("memory", "memory.max", "max")]),
        ({"memory": {"limit": 8, "reservation": 5}}, True,
         [("memory", "memory.max", "8"), ("memory", "memory.low", "5")]),
        ({"pids": {"limit": 10}}, True, [("pids", "pids.max", "10")]),
        (
            {
                "blockIO": {
                    "weight": 1000,
                    "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 7}],
                }
            },
            True,
            [("io", "io.weight", "default 10000"), ("io", "io.weight", "8:0 1"), ("io", "io.max", "8:16 wiops=7")],
        ),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 9}]}, True, [("hugetlb", "hugetlb.2MB.max", "9")]),
        ({"unified": {"memory.high": "7", "io.max": "8:0 rbps=1\n8:16 rbps=2"}}, True,
         [("memory", "memory.high", "7"), ("io", "io.max", "8:0 rbps=1"), ("io", "io.max", "8:16 rbps=2")]),
    ],
)  # fmt: skip
def test_v2_writes(resources: dict[str, Any], fresh: bool, writes: list[resources_v1.Write]) -> None:
    assert resources_v2.plan(resources, fresh=fresh) == writes


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": {"swap": 100}}, "unable to set swap limit without memory limit"),
        ({"memory": {"limit": 200, "swap": 100}}, r"memory\+swap limit should be >= memory limit"),
        ({"unified": {"../escape": "1"}}, r"must be a file name \(no slashes\)"),
    ],
)
def test_v2_refuses(resources: dict[str, Any], message: str) -> None:
    with pytest.raises(OSError, match=message):
        resources_v2.plan(resources, fresh=True)


def test_check_before_update_compares_with_the_usage() -> None:
    resources_v2.check_usage({"limit": 5}, usage=10)  # not asked for
    with pytest.raises(OSError, match="rejecting memory limit 5 <= usage 10"):
        resources_v2.check_usage({"limit": 5, "checkBeforeUpdate": True}, usage=10)


def fake_v2(root: Path, *, offered: str = "cpu memory pids") -> CgroupV2:
    """A directory tree with the control files that `make` and `apply` look for."""
    for directory in (root, root / "sampan", root / "sampan/c1"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text(offered)
        (directory / "cgroup.subtree_control").write_text(offered)
    for name in ("memory.max", "memory.current", "pids.max", "cpu.max", "cgroup.procs"):
        (root / "sampan/c1" / name).write_text("0")
    layout = hierarchy.CgroupLayout(mounts={}, v2_root=str(root), v2_controllers=frozenset(offered.split()))
    return CgroupV2("/sampan/c1", layout)


def test_v2_apply_writes_the_files(tmp_path: Path) -> None:
    cgroup = fake_v2(tmp_path)
    cgroup.make()
    cgroup.apply({"memory": {"limit": 4096, "swap": 4096}, "pids": {"limit": 5}, "cpu": {"quota": 10, "period": 20}})
    assert {n: (tmp_path / "sampan/c1" / n).read_text() for n in ("memory.max", "pids.max", "cpu.max")} == {
        "memory.max": "4096",
        "pids.max": "5",
        "cpu.max": "10 20",
    }
    assert not (tmp_path / "sampan/c1/memory.swap.max").exists()


def test_v2_switches_controllers_on_down_to_the_parent(tmp_path: Path) -> None:
    cgroup = fake_v2(tmp_path)
    for directory in (tmp_path, tmp_path / "sampan"):
        (directory / "cgroup.subtree_control").write_text("memory")
        (directory / "cgroup.procs").write_text("")
    (tmp_path / "cgroup.procs").write_text("1\n")  # the root may have processes
    cgroup._enable_controllers()
    assert (tmp_path / "cgroup.subtree_control").read_text() in ("+cpu", "+pids")
    assert (tmp_path / "sampan/cgroup.subtree_control").read_text() in ("+cpu", "+pids")


def test_v2_leaves_a_parent_with_processes_alone(tmp_path: Path) -> None:
    cgroup = fake_v2(tmp_path)
    (tmp_path / "sampan/cgroup.subtree_control").write_text("")
    (tmp_path / "sampan/cgroup.procs").write_text("7\n")
    cgroup._enable_controllers()
    assert (tmp_path / "sampan/cgroup.subtree_control").read_text() == ""


def test_v2_names_the_missing_controller_only_when_it_is_asked_for(tmp_path: Path) -> None:
    cgroup = fake_v2(tmp_path)
    cgroup.apply({"cpu": {"cpus": ""}})
    with pytest.raises(OSError, match="the hugetlb cgroup controller is not available"):
        cgroup.apply({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]})


def test_io_stat_becomes_blkio_lists() -> None:
    lists = stats_v2.io("8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n")
    assert lists["io_service_bytes_recursive"][:2] == [
        {"major": 8, "minor": 0, "op": "read", "value": 10},
        {"major": 8, "minor": 0, "op": "write", "value": 20},
    ]
    assert [entry["value"] for entry in lists["io_serviced_recursive"]] == [1, 2, 0]


# Device rules

NULL, ZERO = ("c", 1, 3), ("c", 1, 5)


def test_device_rules_fold_into_a_state() -> None:
    state = devices.wanted(devices.rules([{"allow": False}, {"allow": True, "type": "c", "major": 1, "minor": 3}]))
    assert (state.allow, state.exceptions) == (False, {NULL: "rwm"})
    state.apply((False, NULL, "w"))
    assert state.exceptions == {NULL: "rm"}


def test_device_transition_changes_no_more_than_it_must() -> None:
    now = devices.parse_list("c 1:3 rwm\nc 1:5 r\n")
    to = devices.DeviceAccess(False, {NULL: "r", ("b", -1, -1): "m"})
    assert devices.transition(now, to, fresh=False) == [
        ("devices.allow", "b *:* m"),
        ("devices.deny", "c 1:3 wm"),
        ("devices.deny", "c 1:5 r"),
    ]
    assert devices.transition(to, to, fresh=False) == []
    assert devices.transition(devices.DeviceAccess(True), devices.DeviceAccess(True), fresh=True) == []


@pytest.mark.parametrize("bad", [{"allow": True, "type": "x"}, {"allow": True, "access": "rx"}])
def test_device_rules_refuse_nonsense(bad: dict[str, Any]) -> None:
    with pytest.raises(OSError, match=r"linux\.resources\.devices\[0\]"):
        devices.rules([bad])


def run_ebpf(program: bytes, request: tuple[str, int, int, str]) -> bool:
    """Interpret the instructions that `device_program` uses: the arbiter that the assembler did not write itself."""
    kind, major, minor, access = request
    word = {"b": 1, "c": 2}[kind] | sum({"m": 1, "r": 2, "w": 4}[bit] for bit in access) << 16
    context, registers, at = {0: word, 4: major, 8: minor}, [0] * 11, 0
    instructions = list(struct.iter_unpack("<BBhi", program))
    while True:
        op, pair, off, imm = instructions[at]
        dst, src = pair & 15, pair >> 4
        at += 1
        if op == 0x61:
            registers[dst] = context[off]
        elif op == 0xB7:
            registers[dst] = imm
        elif op == 0xBF:
            registers[dst] = registers[src]
        elif op == 0x57:
            registers[dst] &= imm
        elif op == 0x77:
            registers[dst] >>= imm
        elif op == 0x15:
            at += off if registers[dst] == imm else 0
        elif op == 0x55:
            at += off if registers[dst] != imm else 0
        else:
            assert op == 0x95, hex(op)
            return bool(registers[0])


numbers = st.integers(min_value=-1, max_value=2)
accesses = st.sets(st.sampled_from("rwm"), min_size=1).map(lambda bits: "".join(sorted(bits)))
rule_lists = st.lists(
    st.tuples(st.booleans(), st.tuples(st.sampled_from("abc"), numbers, numbers), accesses), max_size=6
)


@given(rule_lists, st.tuples(st.sampled_from("bc"), st.integers(0, 2), st.integers(0, 2), accesses))
def test_the_last_rule_that_matches_a_bit_decides_it(
    rules: list[devices.Rule], request: tuple[str, int, int, str]
) -> None:
    kind, major, minor, access = request

    def allowed(bit: str) -> bool:
        for allow, (rule_kind, rule_major, rule_minor), rule_access in reversed(rules):
            if rule_kind == "a":
                return allow
            if rule_kind == kind and rule_major in (-1, major) and rule_minor in (-1, minor) and bit in rule_access:
                return allow
        return False

    assert run_ebpf(bpf.device_program(rules), request) == all(allowed(bit) for bit in access)
