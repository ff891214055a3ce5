"""A shell script with the host's programs, in a task of its own: for git, which the daemon never runs itself.

The task sees /usr (read-only), certificates, the resolver's files and the directories that it is given. It is nobody's
user without a capability, cannot gain one, runs under the default seccomp profile in its own namespaces but for the
network, which is the host's, as for any download of the engine.

    <exec root>/builder/<task>/root    mount points; gone with the task
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from sampan.engine.builder import sshagent
from sampan.engine.builder.session import Session
from sampan.engine.config import EngineConfig
from sampan.engine.tasks import security, spec
from sampan.engine.tasks.options import (
    NamespaceMode,
    Namespaces,
    ProcessOptions,
    TaskOptions,
    cgroup_parent,
)
from sampan.engine.tasks.seccomp import Filters
from sampan.errors import Internal, NotFound
from sampan.spec.oci_runtime import Mount
from sampan.supervisor.client import Attachment, Supervisor, TaskFailed, TaskKind, TaskRequest

NOBODY = 65534
MAX_OUTPUT_BYTES = 1024 * 1024
SHELL = "/bin/sh"
PATH = "/usr/local/bin:/usr/bin:/bin"
TOP = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")  # links into /usr, or directories beside it
ETC = (
    "ssl",
    "ca-certificates",
    "pki",
    "resolv.conf",
    "hosts",
    "nsswitch.conf",
    "host.conf",
    "gai.conf",
    "alternatives",
)
_READ_ONLY = ("rbind", "ro", "nosuid", "nodev", "rprivate")
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a script ended, and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


class HostTask:
    """Runs shell scripts with the host's programs and nothing else of it."""

    def __init__(self, config: EngineConfig, supervisor: Supervisor, filters: Filters) -> None:
        self._config = config
        self._supervisor = supervisor
        self._filters = filters

    async def run(
        self, script: str, env: Mapping[str, str], writable: Mapping[str, str], session: Session | None
    ) -> CommandResult:
        """Run a script; when this is cancelled, its task is killed.

        writable: variable → directory that the script may write to; the variable holds its path there. session: whose
        ssh agent the script may use. Raises: NotFound when git is not installed, Internal.
        """
        if shutil.which("git", path=PATH) is None:
            raise NotFound("git is not installed on this host: git repositories cannot be read")
        id = secrets.token_hex(16)
        directory = f"{self._config.exec_root}/builder/{id}"
        async with AsyncExitStack() as undo:
            os.makedirs(directory, mode=0o700)
            undo.callback(partial(shutil.rmtree, directory, ignore_errors=True))
            mounts = await asyncio.to_thread(_prepare, f"{directory}/root", writable)
            variables = {"PATH": PATH, "HOME": "/tmp", "TMPDIR": "/tmp", **env}
            variables |= {name: f"/work/{name}" for name in writable}
            if session is not None and await self._forward(session, directory, mounts, undo):
                variables["SSH_AUTH_SOCK"] = "/run/agent"
            hosts = "/work/REPO/known_hosts"  # a host that was once seen must stay the same
            variables["GIT_SSH_COMMAND"] = (
                f"ssh -F /dev/null -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={hosts} -o BatchMode=yes"
            )
            return await self._execute(id, directory, script, variables, mounts)

    async def _forward(self, session: Session, directory: str, mounts: list[Mount], undo: AsyncExitStack) -> bool:
        """Give the task a socket that leads to the client's agent. False: it has none."""
        try:
            _, writer = await session.ssh_agent("default")
        except NotFound:
            return False
        writer.close()
        path = await undo.enter_async_context(sshagent.listening(session, "default", directory, "agent"))
        os.chown(path, NOBODY, NOBODY)
        mounts.append(Mount("bind", path, "/run/agent", ("bind", "rprivate")))
        return True

    async def _execute(
        self, id: str, directory: str, script: str, env: Mapping[str, str], mounts: list[Mount]
    ) -> CommandResult:
        host = NamespaceMode.HOST
        options = TaskOptions(
            id=id,
            process=ProcessOptions(
                args=(SHELL, "-c", script),
                env=tuple(f"{name}={value}" for name, value in env.items()),
                user=f"{NOBODY}:{NOBODY}",
                security=replace(security.parse((), self._config, privileged=False), no_new_privileges=True),
            ),
            namespaces=Namespaces(network=host, cgroup=host),
            hostname="git",
            readonly_root=True,
            mounts=tuple(mounts),
            without=frozenset({"/sys", "/sys/fs/cgroup"}),
            cgroup_parent=cgroup_parent("", self._config),
        )
        document = spec.build(options, spec.Provisions())
        root = Mount("bind", f"{directory}/root", "/", ("bind", "rw"))
        seccomp = await self._filters.path(self._supervisor, options.process)
        request = TaskRequest(
            id=id,
            kind=TaskKind.HOST_TASK,
            spec=_ENCODER.encode(document),
            rootfs=(root,),
            seccomp=seccomp,
            log_driver="none",
        )
        try:
            await self._supervisor.create(request, start=False)
            attachment = await self._supervisor.attach(id)
            try:
                await self._supervisor.start(id)
                stdout, stderr = await _read(attachment)
            finally:
                attachment.writer.close()
            ended = await self._supervisor.wait(id)
            return CommandResult(status=ended.status, stdout=stdout, stderr=stderr)
        except TaskFailed as e:
            raise Internal(f"git cannot be run: {e.message}") from e
        finally:
            await asyncio.shield(self._supervisor.delete(id))


async def _read(attachment: Attachment) -> tuple[bytes, bytes]:
    """What the task wrote, up to a bound each."""
    texts = {1: bytearray(), 2: bytearray()}
    while head := await attachment.reader.read(8):
        if len(head) < 8:
            head += await attachment.reader.readexactly(8 - len(head))
        data = await attachment.reader.readexactly(int.from_bytes(head[4:], "big"))
        text = texts.get(head[0])
        if text is not None and len(text) < MAX_OUTPUT_BYTES:
            text += data
    return bytes(texts[1]), bytes(texts[2])


def _prepare(root: str, writable: Mapping[str, str]) -> list[Mount]:
    """Make the root's mount points; the mounts that belong to them."""
    for name in ("", "usr", "etc", "dev", "proc", "tmp", "run", "work"):
        _directory(f"{root}/{name}" if name else root)
    mounts = [Mount("bind", "/usr", "/usr", _READ_ONLY)]
    for name in TOP:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            _directory(f"{root}/{name}")
            mounts.append(Mount("bind", f"/{name}", f"/{name}", _READ_ONLY))
    for name in ETC:
        source = os.path.realpath(f"/etc/{name}")
        if os.path.isdir(source):
            _directory(f"{root}/etc/{name}")
        elif os.path.isfile(source):
            _write(f"{root}/etc/{name}", "")
        else:
            continue
        mounts.append(Mount("bind", source, f"/etc/{name}", _READ_ONLY))
    _write(f"{root}/etc/passwd", f"nobody:x:{NOBODY}:{NOBODY}:nobody:/tmp:{SHELL}\n")
    _write(f"{root}/etc/group", f"nogroup:x:{NOBODY}:\n")
    _write(f"{root}/run/agent", "")
    mounts.append(Mount("tmpfs", "tmpfs", "/tmp", ("nosuid", "nodev", "mode=1777", "size=64m")))
    for name, source in writable.items():
        _directory(f"{root}/work/{name}")
        for directory, names, files, fd in os.fwalk(source):
            os.fchown(fd, NOBODY, NOBODY)
            for inner in files:
                os.chown(inner, NOBODY, NOBODY, dir_fd=fd, follow_symlinks=False)
            del directory, names
        mounts.append(Mount("bind", source, f"/work/{name}", ("rbind", "rw", "nosuid", "nodev", "rprivate")))
    return mounts


def _directory(path: str) -> None:
    """Make a directory that any user may enter, whatever the daemon's umask is."""
    os.mkdir(path)
    os.chmod(path, 0o755)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o644)
