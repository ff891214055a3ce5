"""The one interface to a container's control groups, whatever the machine's layout.

A `Cgroup` is a path that exists in every hierarchy. It owns no descriptor except the OOM one, so it can be rebuilt from
its path by any process (`load`) and crosses a fork. Limits are OCI `linux.resources`; a limit whose controller the
machine lacks is an error that names the controller, a missing controller nobody asks for is not.

Not here: policy (what a container gets), systemd's slices, delegation.

Source: cgroups(7); OCI runtime-spec 1.2 config-linux.md.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any

from sampan.linux.cgroups import files, hierarchy

Resources = dict[str, Any]


class Cgroup(ABC):
    """One container's cgroup. `paths` maps controller → absolute directory; the v2 directory is under ""."""

    __slots__ = ("_oom", "layout", "path", "paths")

    def __init__(self, path: str, paths: dict[str, str], layout: hierarchy.CgroupLayout) -> None:
        self.path = path
        self.paths = paths
        self.layout = layout
        self._oom = -1

    @property
    def directories(self) -> list[str]:
        """The distinct directories, one a hierarchy."""
        return list(dict.fromkeys(self.paths.values()))

    @abstractmethod
    def make(self) -> None:
        """Make the directories, and the parents that are missing; existing ones are taken as they are."""

    @abstractmethod
    def add(self, pid: int, *, cloned: bool = False) -> None:
        """Move a process, with its threads, into every hierarchy. 0 is the caller, which then must have one thread.

        Joining from inside is twenty times cheaper on v1 than moving another process. `cloned`: the process was made
        with CLONE_INTO_CGROUP of `directory_fd()`, so the v2 tree holds it already.
        """

    def directory_fd(self) -> int | None:
        """Open the v2 directory for CLONE_INTO_CGROUP; the caller closes it. None when the machine has no v2 tree."""
        directory = self.paths.get("")
        if directory is None:
            return None
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @abstractmethod
    def apply(self, resources: Resources) -> None:
        """Write limits, in an order the kernel accepts; device rules only when `resources` has them.

        Raises:
            OSError: the message names the controller or file, and the value.
        """

    @abstractmethod
    def apply_fresh(self, resources: Resources) -> None:
        """Apply limits to a cgroup just made: what the kernel has by default is not written; device rules
        always are.
        """

    @abstractmethod
    def freeze(self) -> None:
        """Stop every process inside; return when all have stopped."""

    @abstractmethod
    def try_freeze(self) -> bool:
        """Ask for every process to stop; say whether all have. To be called again until they have, or `thaw`."""

    @abstractmethod
    def thaw(self) -> None: ...

    @abstractmethod
    def frozen(self) -> bool: ...

    @abstractmethod
    def pids(self) -> list[int]:
        """Return every process inside, cgroups below included, as numbers of the caller's pid namespace."""

    @abstractmethod
    def kill(self) -> None:
        """Kill everything inside, frozen or not. Does not wait for the deaths."""

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Return usage: {"version", "cpu", "memory", "pids", "blkio", "hugetlb", "rdma"}; times in ns, sizes in
        bytes.
        """

    @abstractmethod
    def oom_fd(self) -> int:
        """Return a descriptor, owned by this object, that polls readable when an OOM kill has happened or is about to
        (cgroup v1 tells of it before the kill is counted).
        """

    @abstractmethod
    def oom_count(self) -> int:
        """Return how many processes the OOM killer took inside, and make `oom_fd()` unreadable until the next."""

    @abstractmethod
    def let_die(self) -> None:
        """Thaw the whole tree, also what a container has frozen in it by itself: with cgroup v1 a frozen process does
        not die of SIGKILL.
        """

    def under_oom(self) -> bool:
        """Whether processes wait for memory because the OOM killer is switched off, which only cgroup v1 knows."""
        return False

    def _drain(self) -> None:
        if self._oom >= 0:
            try:
                os.read(self._oom, 4096)
            except BlockingIOError:
                pass

    def close(self) -> None:
        """Close the OOM descriptor, if one was opened."""
        if self._oom >= 0:
            os.close(self._oom)
            self._oom = -1

    def delete(self) -> None:
        """Remove the directories, those below included; missing ones are fine. Processes that are dying are waited for.

        Raises:
            OSError: EBUSY when something is still alive inside after half a second.
        """
        self.close()
        files.remove_trees(self.directories)

    def try_delete(self) -> bool:
        """Remove the directories as far as nothing in them is busy; say whether all have gone. Waits for nothing."""
        self.close()
        return files.try_remove_trees(self.directories)
