"""Control groups v2: one directory in one tree; also the operations a hybrid v1 layout borrows from its v2 tree.

Controllers are switched on from the root down, one by one, because the kernel takes a list only whole; only those that
the limits or the statistics of a container need. No process may live in an inner cgroup, so a container's parents stay
empty.

Source: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import select
import time
from typing import Any

from sampan.linux import bpf
from sampan.linux.cgroups import devices, files, hierarchy, resources_v2, stats_v2
from sampan.linux.cgroups.interface import Cgroup, Resources
from sampan.linux.inotify import IN_MODIFY, Inotify


class CgroupV2(Cgroup):
    __slots__ = ("directory",)

    def __init__(self, path: str, layout: hierarchy.CgroupLayout) -> None:
        own = "" if path.startswith("/") else hierarchy.own_paths()[""].rstrip("/")
        self.directory = layout.v2_root + own + "/" + path.strip("/")
        super().__init__(path, {"": self.directory}, layout)

    def make(self) -> None:
        old = os.umask(0o022)
        try:
            try:
                os.mkdir(self.directory, 0o755)
            except FileExistsError:
                return
            except FileNotFoundError:
                self._make_parents()
                os.mkdir(self.directory, 0o755)
            # A parent that lives already has what it needs, unless another program made it.
            parent = os.path.dirname(self.directory)
            if self.layout.v2_controllers - set(files.read(parent, "cgroup.subtree_control").split()):
                self._enable_controllers()
        finally:
            os.umask(old)

    def _make_parents(self) -> None:
        parent = os.path.dirname(self.directory)
        files.make_directory(parent)
        self._enable_controllers()

    def _enable_controllers(self) -> None:
        """Switch every controller on, from the root to the parent. One that refuses stays off: a limit will name it.

        A cgroup with processes of its own is left alone, and so is what lies below it: the kernel would take the
        threaded controllers there (cpu, cpuset, pids) and make every child invalid for whole processes.
        """
        relative = os.path.relpath(os.path.dirname(self.directory), self.layout.v2_root)
        here = self.layout.v2_root
        for name in ("", *(() if relative == "." else relative.split("/"))):
            here = f"{here}/{name}" if name else here
            off = set(files.read(here, "cgroup.controllers").split())
            off.difference_update(files.read(here, "cgroup.subtree_control").split())
            if off and name and files.read(here, "cgroup.procs").strip():
                return
            for controller in off:
                try:
                    files.write(here, "cgroup.subtree_control", "+" + controller)
                except OSError:
                    pass

    def add(self, pid: int, *, cloned: bool = False) -> None:
        if not cloned:
            files.join(self.directory, "cgroup.procs", pid)

    def apply_fresh(self, resources: Resources) -> None:
        self._write_plan(resources, fresh=True)
        rules = [*devices.rules(resources.get("devices") or []), *devices.DEFAULTS]
        bpf.set_device_rules(self.directory, rules)

    def apply(self, resources: Resources) -> None:
        self._write_plan(resources, fresh=False)
        if resources.get("devices"):
            bpf.set_device_rules(self.directory, [*devices.rules(resources["devices"]), *devices.DEFAULTS])

    def _write_plan(self, resources: Resources, *, fresh: bool) -> None:
        if not fresh and (resources.get("memory") or {}).get("checkBeforeUpdate"):
            resources_v2.check_usage(resources["memory"], files.read_int(self.directory, "memory.current"))
        bfq = bool(resources.get("blockIO")) and os.path.exists(self.directory + "/io.bfq.weight")
        refused = []
        for write in resources_v2.plan(resources, fresh=fresh, bfq=bfq):
            try:
                self._write(*write)
            except OSError as e:
                if e.errno != errno.EINVAL or write[0] != "cpu":
                    raise
                refused.append(write)  # a burst that does not fit the old quota, or the other way round
        for write in refused:
            self._write(*write)

    def _write(self, controller: str, file: str, value: str) -> None:
        try:
            files.write(self.directory, file, value)
        except FileNotFoundError:
            if file == "memory.swap.max" and value in ("0", "max"):
                return  # a kernel without swap has none to limit
            if controller != "cgroup" and controller not in files.read(self.directory, "cgroup.controllers").split():
                raise files.missing_controller(controller) from None
            raise

    def freeze(self) -> None:
        freeze_tree(self.directory, frozen=True)

    def try_freeze(self) -> bool:
        return try_freeze_tree(self.directory)

    def thaw(self) -> None:
        freeze_tree(self.directory, frozen=False)

    def frozen(self) -> bool:
        return tree_frozen(self.directory)

    def pids(self) -> list[int]:
        return files.collect_pids(self.directory)

    def kill(self) -> None:
        if not kill_tree(self.directory):
            raise OSError(errno.EOPNOTSUPP, "the kernel has no cgroup.kill (Linux 5.14)", self.directory)

    def let_die(self) -> None:
        """A frozen process dies of SIGKILL here."""

    def stats(self) -> dict[str, Any]:
        return stats_v2.read(self.directory)

    def oom_fd(self) -> int:
        if self._oom < 0:
            with Inotify() as watcher:
                watcher.add_watch(self.directory + "/memory.events", IN_MODIFY)
                self._oom = os.dup(watcher.fileno())
        return self._oom

    def oom_count(self) -> int:
        self._drain()
        return files.read_map(self.directory, "memory.events").get("oom_kill", 0)


def freeze_tree(directory: str, *, frozen: bool, patience_s: float = 10.0) -> None:
    """Set cgroup.freeze; for freezing, wait until cgroup.events says that everything stopped.

    Raises:
        OSError: ETIMEDOUT; the tree is thawed again then.
    """
    files.write(directory, "cgroup.freeze", "1" if frozen else "0")
    if not frozen:
        return
    fd = os.open(directory + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        deadline = time.monotonic() + patience_s
        while b"frozen 1" not in os.pread(fd, 4096, 0):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                files.write(directory, "cgroup.freeze", "0")
                raise OSError(errno.ETIMEDOUT, "timeout of freezing", directory)
            poll.poll(left_s * 1000)
    finally:
        os.close(fd)


def try_freeze_tree(directory: str) -> bool:
    """Set cgroup.freeze; say whether cgroup.events says that everything stopped."""
    files.write(directory, "cgroup.freeze", "1")
    return tree_frozen(directory)


def tree_frozen(directory: str) -> bool:
    return files.read_map(directory, "cgroup.events").get("frozen", 0) == 1


def kill_tree(directory: str) -> bool:
    """Kill a whole tree at once; False when the kernel has no cgroup.kill (before 5.14)."""
    try:
        files.write(directory, "cgroup.kill", "1")
    except FileNotFoundError:
        return not os.path.isdir(directory)
    return True
