"""Namespaces that a task is to join: opened once, by the engine, and handed over as descriptors.

A path below /proc/<pid> may lead to another process's namespace by the time somebody else opens it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from sampan.engine.tasks import procfs
from sampan.supervisor.client import NamespaceSource

_LINKS = {"network": "net", "pid": "pid", "ipc": "ipc"}  # type of a namespace → its link in /proc/<pid>/ns


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldNamespace:
    """A namespace by descriptor, open until `opened` is closed. path: its name, for the spec's readers."""

    path: str
    fd: int

    @classmethod
    def by_path(cls, path: str, opened: ExitStack) -> HeldNamespace:
        """Open one by a path that the daemon alone decides over: of a descriptor of its own. Raises: OSError."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, fd)
        return cls(path=path, fd=fd)

    @classmethod
    def of_task(cls, pid: int, id: str, kind: str, opened: ExitStack) -> HeldNamespace:
        """Open one of a process of the task `id`.

        Raises: OSError, ESRCH when the process is not the task's any more.
        """
        fd = procfs.open_namespace(pid, id, _LINKS[kind])
        opened.callback(os.close, fd)
        return cls(path=f"/proc/{pid}/ns/{_LINKS[kind]}", fd=fd)


def paths(held: Mapping[str, HeldNamespace]) -> dict[str, str]:
    """Return the names of namespaces by type, as the spec has them."""
    return {kind: namespace.path for kind, namespace in held.items()}


def sources(held: Mapping[str, HeldNamespace]) -> tuple[NamespaceSource, ...]:
    """Return what goes with the task's request for these."""
    return tuple(NamespaceSource(type=kind, fd=namespace.fd) for kind, namespace in held.items())
