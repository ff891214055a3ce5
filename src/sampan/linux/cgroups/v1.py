"""Control groups v1: one directory per hierarchy, and in the hybrid layout one in the v2 tree beside them.

The v2 directory of a hybrid machine holds no limits, but it gives CLONE_INTO_CGROUP and cgroup.kill.

Joining: a process writes "0" into v1 `tasks` itself. Any other way in (another pid, or `cgroup.procs`) makes the kernel
take the lock that stops every fork on the machine, and the first taker waits for an RCU grace period: 6.5 ms measured.

Source: cgroups(7); Documentation/admin-guide/cgroup-v1/{cgroups,cpusets,freezer-subsystem,memory}.rst;
kernel/cgroup/cgroup.c, cgroup_procs_write_start (6.18).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from typing import Any

from sampan.linux.cgroups import devices, files, hierarchy, resources_v1, stats_v1, v2
from sampan.linux.cgroups.interface import Cgroup, Resources

_FREEZE_ATTEMPTS = 1000  # some ten seconds
_KILL_ATTEMPTS = 100  # half a second: who kills may not wait for what it kills


class CgroupV1(Cgroup):
    __slots__ = ()

    def __init__(self, path: str, layout: hierarchy.CgroupLayout) -> None:
        if path.startswith("/"):
            own: dict[str, str] = dict.fromkeys((*layout.mounts, ""), "")
        else:
            own = hierarchy.own_paths()
        inner = "/" + path.strip("/")
        mounts = dict(layout.mounts)
        if layout.v2_root:
            mounts[""] = layout.v2_root
        paths = {name: root + own.get(name, "").rstrip("/") + inner for name, root in mounts.items()}
        super().__init__(path, paths, layout)

    def make(self) -> None:
        old = os.umask(0o022)  # programs in the container may read their own limits
        try:
            for directory in self.directories:
                files.make_directory(directory)
            if "cpuset" in self.paths:
                _fill_cpuset(self.paths["cpuset"], self.layout.mounts["cpuset"])
        finally:
            os.umask(old)

    def add(self, pid: int, *, cloned: bool = False) -> None:
        unified = self.paths.get("")
        control = "tasks" if pid == 0 else "cgroup.procs"
        for directory in self.directories:
            if directory != unified:
                files.join(directory, control, pid)
            elif not cloned:
                files.join(directory, "cgroup.procs", pid)

    def apply_fresh(self, resources: Resources) -> None:
        self._write_plan(self._plan(resources, fresh=True))
        rules = [*devices.rules(resources.get("devices") or []), *devices.DEFAULTS]
        self._set_devices(rules, fresh=True)

    def apply(self, resources: Resources) -> None:
        self._write_plan(self._plan(resources, fresh=False))
        if resources.get("devices"):
            self._set_devices([*devices.rules(resources["devices"]), *devices.DEFAULTS], fresh=False)

    def _plan(self, resources: Resources, *, fresh: bool) -> list[resources_v1.Write]:
        memory = resources.get("memory") or {}
        limit_now = None
        if memory.get("limit") and memory.get("swap") and not fresh and "memory" in self.paths:
            limit_now = files.read_int(self.paths["memory"], "memory.limit_in_bytes")
        block_io = resources.get("blockIO") or {}
        bfq = False
        if (block_io.get("weight") or block_io.get("weightDevice")) and "blkio" in self.paths:
            bfq = not os.path.exists(self.paths["blkio"] + "/blkio.weight")
        return resources_v1.plan(resources, fresh=fresh, memory_limit=limit_now, bfq=bfq)

    def _write_plan(self, writes: list[resources_v1.Write]) -> None:
        """Do the writes. One of `cpu` that does not fit the old values (EINVAL) is tried again after the others."""
        refused = []
        for write in writes:
            try:
                self._write(*write)
            except OSError as e:
                if e.errno != errno.EINVAL or write[0] != "cpu":
                    raise
                refused.append(write)
        for write in refused:
            self._write(*write)

    def _write(self, controller: str, file: str, value: str) -> None:
        directory = self.paths.get(controller)
        if directory is None:
            raise files.missing_controller(controller)
        try:
            files.write(directory, file, value)
        except OSError as e:
            if e.errno == errno.EBUSY and file == "memory.limit_in_bytes":
                usage = files.read_int(directory, "memory.usage_in_bytes")
                peak = files.read_int(directory, "memory.max_usage_in_bytes")
                message = f"unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})"
                raise OSError(errno.EBUSY, message) from e
            raise

    def _set_devices(self, rules: list[devices.Rule], *, fresh: bool) -> None:
        directory = self.paths.get("devices")
        if directory is None:
            raise files.missing_controller("devices")
        now = devices.parse_list(files.read(directory, "devices.list"))
        writes = devices.transition(now, devices.wanted(rules), fresh=fresh)
        open_files: dict[str, int] = {}
        try:
            for file, line in writes:  # one line a write, but one open a file
                if file not in open_files:
                    open_files[file] = os.open(f"{directory}/{file}", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(open_files[file], line.encode())
                except OSError as e:
                    raise OSError(e.errno, f'failed to write "{line}": {e.strerror}', f"{directory}/{file}") from None
        finally:
            for fd in open_files.values():
                os.close(fd)

    def freeze(self) -> None:
        directory = self.paths.get("freezer")
        if directory is None:
            return v2.freeze_tree(self._v2_directory("freezer"), frozen=True)
        return self._freeze(directory, _FREEZE_ATTEMPTS)

    def _freeze(self, directory: str, attempts: int) -> None:
        pause_s = 0.0
        for attempt in range(attempts):
            if attempt and attempt % 50 == 0:  # a fork can slip out again and again; let it run and start over
                files.write(directory, "freezer.state", "THAWED")
            if self.try_freeze():
                return
            time.sleep(pause_s)
            pause_s = min(pause_s + 0.0001, 0.01)
        files.write(directory, "freezer.state", "THAWED")
        raise OSError(errno.EBUSY, "unable to freeze", directory)

    def try_freeze(self) -> bool:
        directory = self.paths.get("freezer")
        if directory is None:
            return v2.try_freeze_tree(self._v2_directory("freezer"))
        files.write(directory, "freezer.state", "FROZEN")
        return files.read(directory, "freezer.state").strip() == "FROZEN"

    def thaw(self) -> None:
        if "freezer" not in self.paths:
            return v2.freeze_tree(self._v2_directory("freezer"), frozen=False)
        return files.write(self.paths["freezer"], "freezer.state", "THAWED")

    def frozen(self) -> bool:
        if "freezer" not in self.paths:
            return "" in self.paths and v2.tree_frozen(self.paths[""])
        return files.read_or(self.paths["freezer"], "freezer.state", "").strip() in ("FROZEN", "FREEZING")

    def _v2_directory(self, controller: str) -> str:
        if "" not in self.paths:
            raise files.missing_controller(controller)
        return self.paths[""]

    def pids(self) -> list[int]:
        directory = self.paths.get("devices") or next(iter(self.paths.values()), None)
        return files.collect_pids(directory) if directory else []

    def kill(self) -> None:
        left = set(self.pids())
        if left and "" in self.paths:
            left.difference_update(files.collect_pids(self.paths[""]))
            if not v2.kill_tree(self.paths[""]):
                left = set(self.pids())
        if left:
            self._kill_frozen()
        self.let_die()

    def let_die(self) -> None:
        for directory, _, _ in os.walk(self.paths.get("freezer", "")):
            with contextlib.suppress(FileNotFoundError):  # it has just been removed
                files.write(directory, "freezer.state", "THAWED")

    def _kill_frozen(self) -> None:
        """Stop all, so that no fork is missed and no number is used again meanwhile; signal all; let them die."""
        try:
            if "freezer" in self.paths:
                self._freeze(self.paths["freezer"], _KILL_ATTEMPTS)
            else:
                v2.freeze_tree(self._v2_directory("freezer"), frozen=True, patience_s=0.5)
        except OSError:
            pass  # without a freezer, or with a process stuck in the kernel: signal what is there
        try:
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        finally:
            if "freezer" in self.paths or "" in self.paths:
                self.thaw()

    def stats(self) -> dict[str, Any]:
        return stats_v1.read(self.paths)

    def oom_fd(self) -> int:
        if self._oom < 0:
            directory = self.paths.get("memory")
            if directory is None:
                raise files.missing_controller("memory")
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                control = os.open(directory + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    files.write(directory, "cgroup.event_control", f"{event} {control}")
                finally:
                    os.close(control)
            except BaseException:
                os.close(event)
                raise
            self._oom = event
        return self._oom

    def oom_count(self) -> int:
        self._drain()
        return self._oom_control().get("oom_kill", 0)

    def under_oom(self) -> bool:
        control = self._oom_control()
        return bool(control.get("under_oom", 0) and control.get("oom_kill_disable", 0))

    def _oom_control(self) -> dict[str, int]:
        directory = self.paths.get("memory")
        return files.read_map(directory, "memory.oom_control") if directory else {}


def _fill_cpuset(directory: str, root: str) -> None:
    """Give an empty cpuset its parent's CPUs and memory nodes: nothing may join one without.

    The parents that we fill get clone_children, so that the kernel fills every later child by itself.
    """
    if files.read(directory, "cpuset.mems").strip():
        return
    chain = [directory]
    while chain[-1] != root and not files.read(os.path.dirname(chain[-1]), "cpuset.mems").strip():
        chain.append(os.path.dirname(chain[-1]))
    for child in reversed(chain):
        for file in ("cpuset.cpus", "cpuset.mems"):
            files.write(child, file, files.read(os.path.dirname(child), file).strip())
        if child != directory:
            files.write(child, "cgroup.clone_children", "1")
