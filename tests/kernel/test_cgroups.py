"""Control groups on the real kernel: made, joined, limited, frozen, killed, measured, removed. Runs on v1, hybrid and
v2.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sampan.linux import bpf, namespaces
from sampan.linux.cgroups import devices, groups
from sampan.linux.cgroups.interface import Cgroup
from tests.conformance.runtime.driver import until
from tests.conftest import lacks

PARENT = f"/sampan-test-{os.getpid()}"
ALL = {"devices": [{"allow": True, "access": "rwm"}]}


@pytest.fixture
def make(root: None) -> Iterator[Callable[..., Cgroup]]:
    """Make cgroups below a parent of this test; afterwards none of them may be left."""
    made: list[Cgroup] = []

    def create(resources: dict[str, Any] | None = None) -> Cgroup:
        made.append(groups.create(f"{PARENT}/c{len(made)}", resources))
        return made[-1]

    try:
        yield create
    finally:
        for cgroup in made:
            cgroup.kill()
            cgroup.delete()
        groups.load(PARENT).delete()
        assert not left()


def left(below: str = "") -> list[Path]:
    """Return the directories of this test that exist, on v1 and v2."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob(f"*{PARENT}{below}"), *root.glob(f"{PARENT[1:]}{below}")]


def inside(cgroup: Cgroup, body: Callable[[], object]) -> int:
    """Fork a child that joins and runs `body`; return its pid. It exits with 0, or the errno of an OSError."""
    pid = os.fork()
    if pid == 0:
        try:
            cgroup.add(0)
            body()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(255)
    return pid


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sleeper(cgroup: Cgroup) -> int:
    reader, writer = os.pipe()

    def body() -> None:
        os.write(writer, b"x")
        signal.pause()

    pid = inside(cgroup, body)
    os.close(writer)
    assert os.read(reader, 1) == b"x", f"the child could not join: {status(pid)}"
    os.close(reader)
    return pid


def test_join_is_complete_and_pids_sees_it(make: Callable[..., Cgroup]) -> None:
    cgroup = make(ALL)
    pid = sleeper(cgroup)
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        assert line.endswith(f":{PARENT}/c0"), line
    assert cgroup.pids() == [pid]
    cgroup.kill()
    assert status(pid) == -signal.SIGKILL


def test_a_clone_into_the_v2_tree_joins_the_rest_by_itself(make: Callable[..., Cgroup]) -> None:
    cgroup = make(ALL)
    fd = cgroup.directory_fd()
    if fd is None:
        lacks("a v2 tree")
    pid, pidfd = namespaces.clone3(0, cgroup_fd=fd)
    if pid == 0:
        try:
            cgroup.add(0, cloned=True)
            text = Path("/proc/self/cgroup").read_text()
            os._exit(0 if all(line.endswith(f"{PARENT}/c0") for line in text.splitlines()) else 1)
        finally:
            os._exit(2)
    assert status(pid) == 0
    os.close(pidfd)
    os.close(fd or 0)


def test_add_of_another_process(make: Callable[..., Cgroup]) -> None:
    cgroup = make(ALL)
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    cgroup.add(pid)
    assert cgroup.pids() == [pid]
    os.kill(pid, signal.SIGKILL)
    status(pid)


def test_freeze_stops_and_thaw_goes_on(make: Callable[..., Cgroup]) -> None:
    cgroup = make(ALL)
    reader, writer = os.pipe()

    def tick() -> None:
        while True:
            os.write(writer, b".")
            time.sleep(0.001)

    pid = inside(cgroup, tick)
    assert os.read(reader, 1) == b"."
    cgroup.freeze()
    assert cgroup.frozen()
    os.set_blocking(reader, False)
    while True:
        try:
            os.read(reader, 65536)
        except BlockingIOError:
            break
    assert select.select([reader], [], [], 0.05)[0] == []
    cgroup.thaw()
    assert not cgroup.frozen()
    assert select.select([reader], [], [], 5)[0] == [reader]
    cgroup.kill()
    assert status(pid) == -signal.SIGKILL
    os.close(reader)
    os.close(writer)


def test_kill_reaches_the_frozen_and_the_nested(make: Callable[..., Cgroup]) -> None:
    cgroup = make(ALL)
    first = sleeper(cgroup)
    nested = groups.create(f"{PARENT}/c0/nested", ALL)
    second = sleeper(nested)
    assert sorted(cgroup.pids()) == sorted([first, second])
    cgroup.freeze()
    cgroup.kill()
    assert status(first) == status(second) == -signal.SIGKILL
    cgroup.delete()
    assert not any(os.path.exists(directory) for directory in cgroup.directories)
    cgroup.delete()  # missing is fine


def test_delete_of_what_lives_is_busy(make: Callable[..., Cgroup]) -> None:
    cgroup = make(ALL)
    pid = sleeper(cgroup)
    with pytest.raises(OSError, match="unable to remove cgroup"):
        cgroup.delete()
    os.kill(pid, signal.SIGKILL)
    status(pid)


def test_limits_hold_and_are_counted(make: Callable[..., Cgroup]) -> None:
    limit = 16 << 20
    cgroup = make({**ALL, "memory": {"limit": limit}, "pids": {"limit": 5}, "cpu": {"quota": 20000, "period": 100000}})
    stats = cgroup.stats()
    assert stats["memory"]["limit"] == limit
    assert stats["pids"] == {"current": 0, "limit": 5}
    fd = cgroup.oom_fd()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert cgroup.oom_count() == 0
    pid = inside(cgroup, lambda: bytearray(limit * 4))
    assert status(pid) == -signal.SIGKILL
    assert poll.poll(5000)
    until(lambda: cgroup.oom_count() == 1 and poll.poll(0) == [])  # v2 tells of the steps of one kill one by one

    def burn() -> None:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass

    assert status(inside(cgroup, burn)) == 0
    cpu = cgroup.stats()["cpu"]
    assert cpu["throttled_periods"] > 0
    assert cpu["usage_ns"] > 10_000_000


def test_the_pids_limit_holds(make: Callable[..., Cgroup]) -> None:
    cgroup = make({**ALL, "pids": {"limit": 1}})
    assert status(inside(cgroup, os.fork)) == 11  # EAGAIN


def test_apply_changes_in_any_order(make: Callable[..., Cgroup]) -> None:
    cgroup = make({**ALL, "memory": {"limit": 64 << 20, "swap": 96 << 20}})
    for limit, swap in ((128, 160), (32, 48), (32, -1), (256, 512)):
        cgroup.apply({"memory": {"limit": limit << 20, "swap": swap << 20 if swap > 0 else swap}})
        assert cgroup.stats()["memory"]["limit"] == limit << 20
    cgroup.apply({"cpu": {"quota": 50000, "period": 100000}})
    cgroup.apply({"cpu": {"quota": 5000, "period": 5000}})
    cgroup.apply({"cpu": {"quota": -1}})
    cgroup.apply({"memory": {"limit": -1}})


def test_devices(make: Callable[..., Cgroup]) -> None:
    def opens(cgroup: Cgroup, path: str, flags: int = os.O_RDONLY) -> int:
        return status(inside(cgroup, lambda: os.open(path, flags)))

    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]
    cgroup = make({"devices": rules})
    assert opens(cgroup, "/dev/null", os.O_RDWR) == 0  # one of the defaults
    assert opens(cgroup, "/dev/kmsg") == 0
    assert opens(cgroup, "/dev/kmsg", os.O_RDWR) == 1  # EPERM
    cgroup.apply({"devices": rules[:1]})
    assert opens(cgroup, "/dev/kmsg") == 1
    cgroup.apply({"devices": [{"allow": True, "access": "rwm"}]})
    assert opens(cgroup, "/dev/kmsg", os.O_RDWR) == 0


def test_the_device_filter_of_v2(root: None, make: Callable[..., Cgroup]) -> None:
    """The eBPF program is checked by the kernel's verifier and holds, on a hybrid machine too; a new one takes its
    place.
    """
    cgroup = make(ALL)
    directory = cgroup.paths.get("")
    if directory is None:
        lacks("a v2 tree")
    rules: list[devices.Rule] = [(False, ("a", -1, -1), "rwm"), (True, ("c", 1, -1), "r"), (True, ("c", 1, 3), "w")]
    try:
        os.close(bpf.prog_load(bpf.device_program(rules), verbose=True))
    except PermissionError:
        lacks("CAP_BPF")

    def answers() -> list[int]:
        wanted = (("/dev/zero", os.O_RDONLY), ("/dev/zero", os.O_RDWR), ("/dev/null", os.O_RDWR))
        return [status(inside(cgroup, partial(os.open, path, flags))) for path, flags in wanted]

    bpf.set_device_rules(str(directory), rules)
    assert answers() == [0, 1, 0]
    bpf.set_device_rules(str(directory), [(True, ("a", -1, -1), "rwm")])
    assert answers() == [0, 0, 0]
    fd = os.open(str(directory), os.O_RDONLY | os.O_DIRECTORY)
    assert len(bpf.prog_query(fd)) == 1
    os.close(fd)


def test_a_controller_that_is_missing_is_named_and_nothing_stays(root: None) -> None:
    missing = {"hugetlb", "rdma"} - groups.controllers()
    if not missing:
        pytest.skip("this machine has every controller")  # no lack: the other machine's run covers it
    wanted: dict[str, dict[str, Any]] = {
        "hugetlb": {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]},
        "rdma": {"rdma": {"x": {"hcaHandles": 1}}},
    }
    for name in missing:
        with pytest.raises(OSError, match=f"cannot set {name} limit: the {name} cgroup controller is not available"):
            groups.create(f"{PARENT}/missing", wanted[name])
        assert not left("/missing")
    groups.load(PARENT).delete()


def test_programs_in_the_container_may_read_their_limits(make: Callable[..., Cgroup]) -> None:
    old = os.umask(0o077)
    try:
        cgroup = make(ALL)
    finally:
        os.umask(old)
    assert {os.stat(directory).st_mode & 0o777 for directory in cgroup.directories} == {0o755}
