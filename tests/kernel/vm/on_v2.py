"""A whole engine on cgroup v2: what a client asks for is what the kernel holds, and what the container sees.

Runs inside the machine (test_vm.py boots it): pytest collects this file only when it is named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, until

TREE = Path("/sys/fs/cgroup")
MIB = 1 << 20
SLEEP = ("sleep", "600")
EATER = "x=a; while :; do x=$x$x; done"  # doubles until the kernel says no


def value(container: str, file: str) -> str:
    """What a control file of a container's cgroup says."""
    return (TREE / "sampan" / container / file).read_text().strip()


def finished(engine: Engine, *command: str, config: dict[str, Any] | None = None, **host: Any) -> tuple[int, str]:
    """Run a container to its end and remove it; return (exit status, output)."""
    container = engine.run(*command, config=config, **host)
    try:
        return engine.wait(container), engine.logs(container).decode()
    finally:
        engine.remove(container)


def execute(engine: Engine, container: str, *command: str) -> tuple[int, str]:
    """Run a command in a running container; return (exit status, raw output of a terminal)."""
    body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, "Tty": True}
    made = engine.call("POST", f"/containers/{container}/exec", body)["Id"]
    out = engine.request("POST", f"/exec/{made}/start", {"Detach": False, "Tty": True}).raw.decode()
    return engine.call("GET", f"/exec/{made}/json")["ExitCode"], out.replace("\r\n", "\n")


def test_the_engine_says_v2(shared_engine: Engine) -> None:
    info = shared_engine.call("GET", "/info")
    assert info["CgroupVersion"] == "2"
    assert info["CgroupDriver"] == "cgroupfs"
    assert "name=cgroupns" in info["SecurityOptions"]
    named = ("MemoryLimit", "SwapLimit", "CpuCfsPeriod", "CpuCfsQuota", "CPUShares", "CPUSet", "PidsLimit")
    assert [name for name in named if not info[name]] == []
    assert info["OomKillDisable"] is False
    assert not info["Warnings"]


def test_limits_are_what_the_kernel_holds(shared_engine: Engine) -> None:
    number = os.stat("/dev/vda").st_rdev
    vda = f"{os.major(number)}:{os.minor(number)}"
    container = shared_engine.run(
        *SLEEP,
        Memory=64 * MIB,
        MemoryReservation=32 * MIB,
        NanoCpus=500_000_000,
        CpuShares=512,
        CpusetCpus="1",
        CpusetMems="0",
        PidsLimit=20,
        BlkioWeight=300,
        BlkioDeviceWriteBps=[{"Path": "/dev/vda", "Rate": MIB}],
        BlkioDeviceReadIOps=[{"Path": "/dev/vda", "Rate": 1000}],
    )
    held = {
        "memory.max": str(64 * MIB),
        "memory.swap.max": str(64 * MIB),
        "memory.low": str(32 * MIB),
        "cpu.max": "50000 100000",
        "cpu.weight": "59",
        "cpuset.cpus": "1",
        "cpuset.mems": "0",
        "pids.max": "20",
        "io.weight": "default 2930",
        "io.max": f"{vda} rbps=max wbps={MIB} riops=1000 wiops=max",
    }
    assert {file: value(container, file) for file in held} == held
    assert value(container, "cgroup.procs").split() == [str(shared_engine.inspect(container)["State"]["Pid"])]

    body = {"Memory": 128 * MIB, "MemorySwap": -1, "PidsLimit": 30, "NanoCpus": 250_000_000, "CpuShares": 2048}
    answer = shared_engine.call("POST", f"/containers/{container}/update", body)
    assert not answer["Warnings"]
    held = {
        "memory.max": str(128 * MIB),
        "memory.swap.max": "max",
        "cpu.max": "25000 100000",
        "pids.max": "30",
        "cpuset.cpus": "1",
    }
    assert {file: value(container, file) for file in held} == held
    shared_engine.remove(container)
    until(lambda: not (TREE / "sampan" / container).exists(), 10, "the cgroup goes")


def test_a_private_cgroup_namespace_is_the_default(shared_engine: Engine) -> None:
    script = "cat /proc/self/cgroup; grep /sys/fs/cgroup /proc/self/mountinfo; cat /sys/fs/cgroup/memory.max"
    container = shared_engine.run("sh", "-c", script, Memory=64 * MIB)
    assert shared_engine.inspect(container)["HostConfig"]["CgroupnsMode"] == "private"
    assert shared_engine.wait(container) == 0
    own, mount, limit = shared_engine.logs(container).decode().splitlines()
    assert own == "0::/"
    assert limit == str(64 * MIB)
    fields, _, kind = mount.partition(" - ")
    assert fields.split()[3:5] == ["/", "/sys/fs/cgroup"]
    assert set(fields.split()[5].split(",")) == {"ro", "nosuid", "nodev", "noexec", "relatime"}
    assert kind.split()[0] == "cgroup2"
    shared_engine.remove(container)


def test_the_cgroup_tree_is_read_only_unless_privileged(shared_engine: Engine) -> None:
    status, output = finished(shared_engine, "mkdir", "/sys/fs/cgroup/below")
    assert status == 1 and "Read-only file system" in output
    script = "cat /proc/self/cgroup && mkdir /sys/fs/cgroup/below && echo 0 >/sys/fs/cgroup/below/cgroup.procs"
    assert finished(shared_engine, "sh", "-c", script, Privileged=True) == (0, "0::/\n")


def test_the_hosts_cgroup_namespace_on_request(shared_engine: Engine) -> None:
    script = "cat /proc/self/cgroup; ls /sys/fs/cgroup"
    container = shared_engine.run("sh", "-c", script, CgroupnsMode="host")
    assert shared_engine.wait(container) == 0
    own, *names = shared_engine.logs(container).decode().splitlines()
    assert own == f"0::/sampan/{container}"
    assert "sampan" in names  # the whole tree, as runc mounts it
    # Other than runc we bind it: a new mount out here would have taken these from the host's.
    assert "cgroup2 rw,nsdelegate,memory_recursiveprot" in Path("/proc/self/mountinfo").read_text()
    shared_engine.remove(container)


def test_an_exec_joins_the_cgroup_and_the_namespace(shared_engine: Engine) -> None:
    container = shared_engine.run(*SLEEP, PidsLimit=8)
    assert execute(shared_engine, container, "cat", "/proc/self/cgroup") == (0, "0::/\n")
    status, output = execute(
        shared_engine, container, "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait"
    )
    assert status != 0 and "Resource temporarily unavailable" in output
    shared_engine.remove(container)


def test_pause_stops_and_unpause_goes_on(shared_engine: Engine) -> None:
    container = shared_engine.run("sh", "-c", "while :; do echo tick; usleep 10000; done")
    until(lambda: b"tick" in shared_engine.logs(container), 10, "the container ticks")
    shared_engine.call("POST", f"/containers/{container}/pause")
    assert "frozen 1" in value(container, "cgroup.events")
    assert shared_engine.inspect(container)["State"]["Status"] == "paused"
    before = value(container, "cpu.stat")
    stats = shared_engine.call("GET", f"/containers/{container}/stats", stream="false")
    assert stats["pids_stats"]["current"] >= 1
    assert value(container, "cpu.stat") == before
    shared_engine.call("POST", f"/containers/{container}/unpause")
    assert "frozen 0" in value(container, "cgroup.events")
    count = len(shared_engine.logs(container))
    until(lambda: len(shared_engine.logs(container)) > count, 10, "it goes on")
    shared_engine.call("POST", f"/containers/{container}/pause")
    shared_engine.call("POST", f"/containers/{container}/kill")  # a frozen container dies, too
    assert shared_engine.wait(container) == 137
    shared_engine.remove(container)


def test_stats_have_the_shape_of_v2(shared_engine: Engine) -> None:
    container = shared_engine.run("sh", "-c", "while :; do :; done", Memory=64 * MIB, NanoCpus=200_000_000)
    stats = shared_engine.call("GET", f"/containers/{container}/stats", stream="false")
    memory, cpu = stats["memory_stats"], stats["cpu_stats"]
    assert memory["limit"] == 64 * MIB
    assert 0 < memory["usage"] < 64 * MIB
    assert {"anon", "file", "inactive_file", "pgfault"} <= memory["stats"].keys()
    assert "max_usage" not in memory
    assert "percpu_usage" not in cpu["cpu_usage"]
    assert cpu["cpu_usage"]["total_usage"] > stats["precpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert cpu["throttling_data"]["throttled_periods"] > 0
    assert stats["pids_stats"] == {"current": 1, "limit": (1 << 64) - 1}
    assert stats["blkio_stats"]["io_time_recursive"] is None
    shared_engine.remove(container)


def test_an_oom_kill_is_told(shared_engine: Engine) -> None:
    before = time.time()
    container = shared_engine.run("sh", "-c", EATER, Memory=16 * MIB, MemorySwap=16 * MIB)
    assert shared_engine.wait(container) == 137
    state = shared_engine.inspect(container)["State"]
    assert state["OOMKilled"] is True and state["Status"] == "exited"
    filters = json.dumps({"container": [container], "type": ["container"]})
    raw = shared_engine.request("GET", "/events", since=before, until=time.time(), filters=filters).raw
    actions = [json.loads(line)["Action"] for line in raw.splitlines()]
    assert actions.index("oom") < actions.index("die")
    shared_engine.remove(container)


def test_an_oom_kill_of_a_child_leaves_the_container_running(shared_engine: Engine) -> None:
    script = f"sh -c '{EATER}'; echo child $?; exec sleep 600"
    container = shared_engine.run("sh", "-c", script, Memory=16 * MIB, MemorySwap=16 * MIB)
    until(lambda: b"child 137" in shared_engine.logs(container), 20, "the child is killed")
    assert shared_engine.inspect(container)["State"]["Running"] is True
    assert "oom_kill 1" in value(container, "memory.events").splitlines()
    shared_engine.remove(container)


def test_devices_are_denied_and_allowed_by_the_filter(shared_engine: Engine) -> None:
    number = os.stat("/dev/vda").st_rdev
    major, minor = os.major(number), os.minor(number)
    opens = "true </dev/vda && echo reads; true >>/dev/vda && echo writes"
    make = f"mknod /dev/vda b {major} {minor}; {opens}"

    def answers(script: str, **host: Any) -> list[str]:
        lines = finished(shared_engine, "sh", "-c", script, **host)[1].splitlines()
        return ["refused" if "Operation not permitted" in line else line for line in lines]

    def given(permissions: str) -> list[dict[str, str]]:
        return [{"PathOnHost": "/dev/vda", "PathInContainer": "/dev/vda", "CgroupPermissions": permissions}]

    assert answers(make) == ["refused", "refused"]
    assert answers(opens, Devices=given("r")) == ["reads", "refused"]
    assert answers(opens, Devices=given("rw")) == ["reads", "writes"]
    assert answers(make, DeviceCgroupRules=[f"b {major}:* r"]) == ["reads", "refused"]
    assert answers(opens, Privileged=True) == ["reads", "writes"]
    assert answers("echo x >/dev/null; head -c 1 /dev/zero | wc -c") == ["1"]


def test_stop_kill_and_restart(shared_engine: Engine) -> None:
    container = shared_engine.run("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")
    shared_engine.call("POST", f"/containers/{container}/stop", t="10")
    assert shared_engine.inspect(container)["State"]["ExitCode"] == 3
    shared_engine.call("POST", f"/containers/{container}/start")
    shared_engine.call("POST", f"/containers/{container}/restart", t="10")
    assert shared_engine.inspect(container)["State"]["Running"] is True
    # Deaths of a whole tree come from one write to cgroup.kill.
    execute(shared_engine, container, "sh", "-c", "setsid sleep 600 & setsid sleep 600 &")
    shared_engine.remove(container)
    until(lambda: not (TREE / "sampan" / container).exists(), 10, "the cgroup goes")


def test_a_published_port_and_a_bridge_work(shared_engine: Engine) -> None:
    """Not of cgroups, but of the modules a distribution's kernel loads by itself: bridge, veth, nft_*."""
    container = shared_engine.run(
        "sh", "-c", "ip addr show eth0 && ping -c 1 -W 5 $(ip route | awk '/default/{print $3}')"
    )
    assert shared_engine.wait(container) == 0, shared_engine.logs(container)
    shared_engine.remove(container)


def test_what_v2_cannot_do_is_a_warning(shared_engine: Engine) -> None:
    host = {"Memory": 64 * MIB, "OomKillDisable": True, "MemorySwappiness": 10}
    created = shared_engine.call(
        "POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host}
    )
    assert created["Warnings"] == [
        "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted."
        " Memory swappiness discarded.",
        "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
    ]
    shared_engine.call("POST", f"/containers/{created['Id']}/start")
    assert shared_engine.wait(created["Id"]) == 0
    shared_engine.remove(created["Id"])


def test_an_engine_killed_finds_its_frozen_and_running_containers(shared_engine: Engine) -> None:
    running, frozen = shared_engine.run(*SLEEP), shared_engine.run(*SLEEP)
    shared_engine.call("POST", f"/containers/{frozen}/pause")
    shared_engine.kill()
    shared_engine.start()
    assert shared_engine.inspect(running)["State"]["Status"] == "running"
    assert shared_engine.inspect(frozen)["State"]["Status"] == "paused"
    shared_engine.call("POST", f"/containers/{frozen}/unpause")
    assert execute(shared_engine, frozen, "cat", "/proc/self/cgroup") == (0, "0::/\n")
    for container in (running, frozen):
        shared_engine.remove(container)


@pytest.fixture
def bundle(shared_engine: Engine, tmp_path: Path) -> Path:
    """A bundle with a busybox root for sampan-runc."""
    root = tmp_path / "rootfs"
    for name in ("bin", "proc", "dev", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path("/usr/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for applet in ("sh", "sleep", "cat"):
        (root / "bin" / applet).symlink_to("busybox")
    assert runc(tmp_path, "spec").returncode == 0
    spec = json.loads((tmp_path / "config.json").read_text())
    spec["process"].update(terminal=False, args=list(SLEEP))
    spec["linux"].update(
        cgroupsPath="/bench/one", resources={**spec["linux"].get("resources", {}), "pids": {"limit": 9}}
    )
    (tmp_path / "config.json").write_text(json.dumps(spec))
    return tmp_path


def runc(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sampan.runtime", "--root", str(bundle / "state"), *arguments]
    return subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_the_runtime_by_itself(bundle: Path) -> None:
    out = bundle / "out"
    with out.open("wb") as file:  # init keeps the descriptors
        command = [sys.executable, "-m", "sampan.runtime", "--root", str(bundle / "state"), "create", "one"]
        subprocess.run(command, cwd=bundle, check=True, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=60)
    try:
        assert runc(bundle, "start", "one").returncode == 0
        done = runc(bundle, "exec", "one", "/bin/cat", "/proc/self/cgroup", "/sys/fs/cgroup/pids.max")
        assert (done.returncode, done.stdout) == (0, "0::/\n9\n"), done.stderr
        done = runc(bundle, "update", "--memory", str(64 * MIB), "--pids-limit", "12", "--cpu-quota", "20000", "one")
        assert done.returncode == 0, done.stderr
        held = {name: (TREE / "bench/one" / name).read_text().strip() for name in ("memory.max", "pids.max", "cpu.max")}
        assert held == {"memory.max": str(64 * MIB), "pids.max": "12", "cpu.max": "20000 100000"}
        assert runc(bundle, "pause", "one").returncode == 0
        assert json.loads(runc(bundle, "state", "one").stdout)["status"] == "paused"
        assert runc(bundle, "resume", "one").returncode == 0
        shown = json.loads(runc(bundle, "events", "--stats", "one").stdout)
        assert shown["data"]["pids"] == {"current": 1, "limit": 12}
    finally:
        done = runc(bundle, "delete", "--force", "one")
    assert done.returncode == 0, done.stderr
    assert not (TREE / "bench/one").exists()
    (TREE / "bench").rmdir()
