"""Where things lie under an exec root, and the few ways of touching them: one place knows the names.

    <exec_root>/            0700
      supervisor.sock       gRPC
      supervisor.pid        locked while a supervisor runs
      supervisor.log
      deposits.sock         descriptors for requests (deposits.py)
      seccomp/<sha256>.bpf  compiled filters
      tasks/<id>/           0700, the OCI bundle of one task
        config.json         the OCI spec as received
        shim.json           {"version", "boot_id", "cgroup", "kind"}: written before there is anything to clean up
        state.json          the runtime's state, once created
        shim.sock           control, attach, exec
        exit.json           {"status", "exited_at_ns", "oom_killed"}: the last word; written before anybody is told
        rootfs/             mount point inside the container's own mount namespace; empty on the host

Sockets are bound and reached through /proc/self/fd/<directory>, because sun_path holds 108 bytes and an exec root may
be longer.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from sampan.supervisor.notes import note

VERSION = 1
_RETRY_S = 1.0


def tasks_dir(exec_root: str) -> str:
    return f"{exec_root}/tasks"


def task_dir(exec_root: str, id: str) -> str:
    return f"{exec_root}/tasks/{id}"


@functools.cache
def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def write_json(path: str, value: Any, *, durable: bool = False) -> None:
    write(path, json.dumps(value).encode(), durable=durable)


def write_down(
    path: str, value: Any, later: Callable[[float, Callable[[], None]], object], *, durable: bool = False
) -> None:
    """Keep a fact for whoever comes after this process. A full disk holds nobody back: it is tried again `later`."""
    try:
        write_json(path, value, durable=durable)
    except FileNotFoundError:  # the task has been deleted
        pass
    except OSError as e:
        note(f"{path}: {e}; trying again")
        later(_RETRY_S, lambda: write_down(path, value, later, durable=durable))


def write(path: str, data: bytes, *, durable: bool = False) -> None:
    """Replace `path` in one step; `durable` waits for the disk."""
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if durable:
            os.fsync(fd)
    except BaseException:
        os.unlink(temporary)  # a full disk needs what room there is
        raise
    finally:
        os.close(fd)
    os.rename(temporary, path)


def write_shim(directory: str, spec: Any, kind: str) -> None:
    """Say what will have to be cleaned up of a task with the OCI spec `spec`, and what kind of task it is."""
    linux = spec.get("linux") if isinstance(spec, dict) else None
    cgroup = linux.get("cgroupsPath") if isinstance(linux, dict) else None
    values = {"version": VERSION, "boot_id": boot_id(), "cgroup": cgroup or "", "kind": kind}
    write_json(f"{directory}/shim.json", values)


def read_filter(path: str) -> bytes | None:
    """The compiled seccomp program at `path`, none for an empty path. Raises OSError."""
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()


def read_shim(directory: str) -> dict[str, Any] | None:
    """What a task's shim.json says; None when it is missing or damaged."""
    return read_json(f"{directory}/shim.json", cgroup=str)


def read_json(path: str, **fields: type) -> dict[str, Any] | None:
    """Read an object written by `write_json`; None when it is missing or damaged, or a field is not of its type."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or any(type(value.get(name)) is not kind for name, kind in fields.items()):
        return None
    return value


def lock(path: str) -> int | None:
    """Take a file for this process, for as long as the descriptor is open, and write the pid into it.

    None when another process has it. Raises: OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def listen(
    directory: str, name: str, backlog: int = 4096, kind: socket.SocketKind = socket.SOCK_STREAM
) -> socket.socket:
    """A listening unix socket `directory/name`, 0600, non-blocking. A leftover of that name is replaced."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            pass
        server = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            server.bind(f"/proc/self/fd/{fd}/{name}")
            os.chmod(name, 0o600, dir_fd=fd)
            server.listen(backlog)
        except BaseException:
            server.close()
            raise
        return server
    finally:
        os.close(fd)


def connect(directory: str, name: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Connect to `directory/name`; the socket comes back non-blocking. Connecting to a unix socket does not wait."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        peer = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            peer.connect(f"/proc/self/fd/{fd}/{name}")
        except BaseException:
            peer.close()
            raise
        return peer
    finally:
        os.close(fd)


def peer_pid(peer: socket.socket) -> int:
    """The pid of the process at the other end, as it was when it connected or listened (SO_PEERCRED)."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], sys.byteorder)


def peer_uid(peer: socket.socket) -> int:
    """The uid of the process at the other end, as it was when it connected (SO_PEERCRED)."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], "little")
