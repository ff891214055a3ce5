"""A container run by another OCI runtime (runc, crun, runsc …): the same verbs as runtime.container, each one execution
of that binary, for which it waits. So the shim has workers do all of it but `prepare`.

The root file system is mounted by the shim in a mount namespace of its own, which the runtime inherits: as with the
built-in runtime nothing of it is ever mounted on the host. Init and exec'd processes become the shim's children,
because it is their subreaper.

What only our runtime understands (`process.user.username`) is resolved here and written into config.json.
Source: opencontainers/runtime-tools command line interface; runc(8).
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import stat
from typing import Any

from sampan.linux import mounts, namespaces
from sampan.linux.cgroups import groups
from sampan.linux.cgroups.interface import Cgroup
from sampan.linux.syscalls import AT_EMPTY_PATH, AT_RECURSIVE
from sampan.runtime import plan as planning
from sampan.runtime import user
from sampan.runtime.failure import RuntimeFailure
from sampan.runtime.steps import rootfs
from sampan.supervisor import layout

Spec = dict[str, Any]

_RESET = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class External:
    """One container between create and delete."""

    def __init__(self, binary: str, arguments: list[str], *, id: str, bundle: str) -> None:
        self.id = id
        self.pid = 0
        self.console_fd: int | None = None
        self.cgroup: Cgroup
        self._binary = binary
        self._bundle = bundle
        self._global = [*arguments, "--root", f"{bundle}/runtime", "--log-format", "json"]
        self._execs = 0
        self._namespaces: list[int] = []
        self._spec: Spec = {}

    def prepare(self, spec: Spec, rootfs: list[Spec], sources: dict[str, int]) -> None:
        """Mount the root and write config.json: here in the shim, because its mount namespace is what the runtime
        will be executed in until the end. Raises: RuntimeFailure, OSError; then `clear` must follow.
        """
        self.cgroup = groups.load((spec.get("linux") or {}).get("cgroupsPath") or f"/{self.id}")
        self._spec = self._prepare(spec, rootfs, sources)

    def create(self, stdio: tuple[int, int, int] | None) -> tuple[dict[str, int], list[int]]:
        terminal = bool(self._spec["process"].get("terminal"))
        return self._detached("create", ["--bundle", self._bundle], stdio, terminal=terminal)

    def created(self) -> None:
        """Close what only `create` needed. To be called where `prepare` was, because `create` runs in a fork."""
        while self._namespaces:
            os.close(self._namespaces.pop())

    def start(self) -> None:
        self._run(["start", self.id])

    def number_exec(self) -> int:
        """Return a number for the files of the next `exec`."""
        self._execs += 1
        return self._execs

    def exec(self, number: int, process: Spec, stdio: tuple[int, int, int] | None) -> tuple[dict[str, int], list[int]]:
        path = f"{self._bundle}/exec-{number}.json"
        layout.write_json(path, self._resolved(process))
        try:
            terminal = bool(process.get("terminal"))
            return self._detached("exec", ["--detach", "--process", path], stdio, terminal=terminal, number=number)
        finally:
            os.unlink(path)

    def signal(self, sig: int, all: bool = False) -> None:
        self._run(["kill", *(["--all"] if all else []), self.id, str(int(sig))])

    def pause(self) -> None:
        self._run(["pause", self.id])

    def resume(self) -> None:
        self._run(["resume", self.id])

    def update(self, resources: Spec) -> None:
        path = f"{self._bundle}/update.json"
        layout.write_json(path, resources)
        self._run(["update", "--resources", path, self.id])

    def delete(self) -> list[str]:
        """Return what went wrong, as texts."""
        try:
            self._run(["delete", "--force", self.id])
        except RuntimeFailure as e:
            return [e.message]
        finally:
            self.clear()
        return []

    def to_state(self) -> Spec:
        return {"version": 1, "id": self.id, "pid": self.pid, "runtime": self._binary, "cgroup": self.cgroup.path}

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self, spec: Spec, rootfs_mounts: list[Spec], sources: dict[str, int]) -> Spec:
        """Mount the root in a mount namespace of our own; give the runtime a config.json in plain OCI."""
        plan = planning.build({**spec, "process": None}, id=self.id, bundle=self._bundle, rootfs=rootfs_mounts)
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_SLAVE | mounts.MS_REC)
        if plan.rootfs:
            root = rootfs.open_source(plan)
            try:
                rootfs.attach(plan, root)
            finally:
                os.close(root)
        self._root_path = plan.root_path
        plain = {**spec, "process": self._resolved(spec["process"])}
        if sources:
            plain |= self._named(spec, sources)
        layout.write_json(f"{self._bundle}/config.json", plain)
        return plain

    def _named(self, spec: Spec, sources: dict[str, int]) -> Spec:
        """Return `mounts` and `linux` of a spec with names for what is a descriptor.

        A mount's source gets one in the bundle, in the mount namespace that only the runtime sees; a namespace is named
        by a descriptor of ours, which stays open until `created` or `clear`.
        """
        linux = {**spec["linux"], "namespaces": [*spec["linux"].get("namespaces", ())]}
        for at, namespace in enumerate(linux["namespaces"]):
            if (fd := sources.get(f"namespaces/{namespace['type']}")) is not None:
                self._namespaces.append(os.dup(fd))  # the caller closes its own before the runtime has looked
                linux["namespaces"][at] = {**namespace, "path": f"/proc/{os.getpid()}/fd/{self._namespaces[-1]}"}
        found = [*spec.get("mounts", ())]
        for index, fd in [(int(p[7:]), fd) for p, fd in sources.items() if p.startswith("mounts/")]:
            place = f"{self._bundle}/source-{index}"
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                os.mkdir(place, 0o700)
            else:
                os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            target = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                mounts.attach(fd, target)
            finally:
                os.close(target)
            mounts.mount_setattr(fd, b"", AT_EMPTY_PATH | AT_RECURSIVE, propagation=mounts.MS_SLAVE)
            found[index] = {**found[index], "source": place}
        return {"mounts": found, "linux": linux}

    def _resolved(self, process: Spec) -> Spec:
        """The process with its user as numbers; Docker's `--user` names are looked up inside the root."""
        wanted = process.get("user") or {}
        if wanted.get("username") is None:
            return process
        root = os.open(self._root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            passwd, group = user.read_file(root, "/etc/passwd"), user.read_file(root, "/etc/group")
        finally:
            os.close(root)
        identity = user.resolve(wanted["username"], wanted.get("additionalGroupNames") or [], passwd, group)
        numeric = {"uid": identity.uid, "gid": identity.gid, "additionalGids": [*identity.groups]}
        environment = list(process.get("env") or [])
        if not any(entry.startswith("HOME=") for entry in environment):
            environment.append(f"HOME={identity.home or '/'}")
        kept = {k: v for k, v in wanted.items() if k not in ("username", "additionalGroupNames")}
        return {**process, "user": {**kept, **numeric}, "env": environment}

    def _detached(
        self, verb: str, arguments: list[str], stdio: tuple[int, int, int] | None, *, terminal: bool, number: int = 0
    ) -> tuple[dict[str, int], list[int]]:
        """Run a verb that leaves a process behind; return {"pid"} and, with a terminal, the master."""
        pid_file, socket_name = f"{self._bundle}/{verb}{number}.pid", f"console{number}.sock"
        listener = layout.listen(self._bundle, socket_name) if terminal else None
        directory = os.open(self._bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if listener:
                # by way of our descriptor, because a socket's path may not be long
                arguments = [*arguments, "--console-socket", f"/proc/{os.getpid()}/fd/{directory}/{socket_name}"]
            self._run([verb, *arguments, "--pid-file", pid_file, self.id], stdio)
            console = [_receive_console(listener)] if listener else []
        finally:
            os.close(directory)
            if listener:
                listener.close()
                os.unlink(f"{self._bundle}/{socket_name}")
        with open(pid_file) as file:
            pid = int(file.read())
        os.unlink(pid_file)
        return {"pid": pid}, console

    def _run(self, arguments: list[str], stdio: tuple[int, int, int] | None = None) -> None:
        """Execute the runtime and wait for it. Raises RuntimeFailure with the last error of its log."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate(stdio or (null, null, null))]
        log = f"{self._bundle}/runtime-{os.getpid()}.log"  # each worker's own
        with open(log, "wb"):
            pass
        before = os.umask(0o022)
        try:
            pid = os.posix_spawn(
                self._binary,
                [self._binary, *self._global, "--log", log, *arguments],
                {"PATH": _PATH},
                file_actions=actions,
                setsigmask=(),
                setsigdef=_RESET,
            )
        except OSError as e:
            raise RuntimeFailure("runtime", e.errno or 0, f"{self._binary}: {e.strerror}") from e
        finally:
            os.umask(before)
            os.close(null)
        _, status = os.waitpid(pid, 0)
        words = _last_error(log)
        os.unlink(log)
        if status:
            raise RuntimeFailure(arguments[0], 0, words or f"{self._binary} {arguments[0]}: wait status {status}")

    def clear(self) -> None:
        """Take away what the runtime may have left; the mounts go with the shim's mount namespace."""
        self.created()
        try:
            self.cgroup.kill()
            self.cgroup.delete()
        except (OSError, AttributeError):
            pass


def _last_error(log: str) -> str:
    message = ""
    with open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and record.get("level") in ("error", "fatal"):
                message = str(record.get("msg", ""))
    return message


def _receive_console(listener: socket.socket) -> int:
    """The master that the runtime sent to the console socket before it ended."""
    listener.settimeout(5)
    peer, _ = listener.accept()
    with peer:
        _, ancillary, _, _ = peer.recvmsg(4096, socket.CMSG_LEN(4))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            (fd,) = array.array("i", data[:4])
            os.set_inheritable(fd, False)
            return fd
    raise RuntimeFailure("console", 0, "the runtime sent no terminal")
