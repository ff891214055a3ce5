"""The mounts of one RUN step: `--mount` of all kinds, as OCI mounts, and what has to exist for them meanwhile.

    <exec root>/builder/<task>/       of one step, gone after it: hosts, resolv.conf, sockets, mount points on the host
    <exec root>/builder/secrets/      a tmpfs of the engine's, when the exec root is on a disk; empty between steps

bind    a tree's directory or a state's file system; read-only unless asked for, and then what is written is thrown away
cache   a directory of cachemounts.py
tmpfs   in the step's own namespace only
secret  a file on tmpfs, or a variable; never below the data root
ssh     a socket that leads to the client's agent

Every path below a source is resolved inside it (saferoot).
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress

from sampan.engine.builder import sshagent
from sampan.engine.builder.ops import RunMount, RunOp, Vertex
from sampan.engine.builder.session import Session
from sampan.engine.builder.solver.cachemounts import CacheMounts, Seed, origin_of
from sampan.engine.builder.solver.layers import Work
from sampan.engine.builder.state import LayerChain, Solved
from sampan.engine.images.service import Images
from sampan.errors import InvalidArgument, NotFound
from sampan.linux import copying, saferoot
from sampan.linux import mounts as kernel
from sampan.linux.syscalls import fstatfs_type
from sampan.spec.oci_runtime import Mount

TMPFS_MAGIC = 0x01021994
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Mounting:
    """Prepares the mounts of one step. `undo` takes everything away again."""

    def __init__(
        self,
        images: Images,
        caches: CacheMounts,
        session: Session,
        solved: Mapping[Vertex, Solved],
        directory: str,
        secrets: str,
        undo: AsyncExitStack,
        emptied: set[str] | None = None,
    ) -> None:
        """directory: the step's own; secrets: one on tmpfs.

        emptied: of a build that uses no cache, the cache mounts that it has begun anew so far.
        """
        self._emptied = emptied
        self._images, self._caches, self._session, self._solved = images, caches, session, solved
        self._directory, self._secrets = directory, secrets
        self._undo = undo
        self._count = 0
        self._set: tuple[str, ...] = ()  # variables that the step has anyway
        self.mounts: list[Mount] = []
        self.env: list[str] = []
        self.targets: list[tuple[str, bool]] = []  # (path, whether it is a directory)

    async def prepare(self, op: RunOp) -> None:
        """Fill `mounts`, `env` and `targets`. Raises: NotFound for what is missing, InvalidArgument."""
        self._set = op.env
        for mount in op.mounts:
            self._count += 1
            match mount.kind:
                case "bind":
                    await self._bind(mount)
                case "cache":
                    await self._cache(mount)
                case "tmpfs":
                    size = [f"size={mount.size_bytes}"] if mount.size_bytes else []
                    self._add(mount.target, "tmpfs", "tmpfs", ["nosuid", *size])
                case "secret":
                    await self._secret(mount)
                case "ssh":
                    await self._ssh(mount)
                case _:
                    raise InvalidArgument(f"unsupported mount type {mount.kind!r}")

    def _add(self, target: str, type_: str, source: str, options: list[str], *, directory: bool = True) -> None:
        path = os.path.normpath("/" + target.lstrip("/"))
        self.mounts.append(Mount(type_, source, path, tuple(options)))
        self.targets.append((path, directory))

    # -- bind ---------------------------------------------------------------------------------------------------------

    async def _bind(self, mount: RunMount) -> None:
        if mount.source is None:
            raise InvalidArgument(f"the bind mount at {mount.target} has no source")
        solved = self._solved[mount.source]
        if solved.tree is not None:
            root = await asyncio.to_thread(solved.tree.directory)
            source = _inside(root, mount.path)
            if mount.writable:
                source = await self._discarded(source)
        else:
            root = await self._mounted(solved.state or LayerChain())
            source = _inside(root, mount.path)
        access = "rw" if mount.writable else "ro"
        self._add(mount.target, "bind", source, ["rbind", access, "rprivate"], directory=os.path.isdir(source))

    async def _mounted(self, state: LayerChain) -> str:
        """A state's file system as a directory of the host; what is written to it is thrown away."""
        work = await self._undo.enter_async_context(Work(self._images, state))
        place = f"{self._directory}/mount-{self._count}"
        os.mkdir(place, 0o700)
        target_fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            kernel.attach(work.root_fd, target_fd)
        finally:
            os.close(target_fd)
        self._undo.callback(unmount, place)
        return place

    async def _discarded(self, source: str) -> str:
        """A copy of a tree's file or directory that may be written to."""
        number = self._images.driver.new_layer(None)
        self._undo.callback(self._images.driver.remove, number)
        path = f"{self._images.driver.path(number)}/fs"
        if os.path.isdir(source):
            await asyncio.to_thread(_copy_tree, source, path)
            return path
        await asyncio.to_thread(_copy_file, source, f"{path}/file")
        return f"{path}/file"

    # -- cache --------------------------------------------------------------------------------------------------------

    async def _cache(self, mount: RunMount) -> None:
        origin, seed = "", None
        if mount.source is not None:
            solved = self._solved[mount.source]
            name = solved.state.chain_id if solved.state is not None else mount.source.digest
            if name:  # nothing at all is what every cache begins with
                origin = origin_of(name, mount.path)
                seed = self._seed(solved, mount.path)
        elif mount.uid or mount.gid or mount.mode is not None:
            origin = f"{mount.uid}:{mount.gid}:{'' if mount.mode is None else format(mount.mode, 'o')}"
        path = await self._undo.enter_async_context(self._caches.use(mount, origin, seed, self._emptied))
        self._add(mount.target, "bind", path, ["rbind", "ro" if mount.read_only else "rw", "rprivate"])

    def _seed(self, solved: Solved, path: str) -> Seed:
        async def fill(directory: str) -> None:
            if solved.tree is not None:
                root = await asyncio.to_thread(solved.tree.directory)
            else:
                root = await self._mounted(solved.state or LayerChain())
            await asyncio.to_thread(_copy_tree, _inside(root, path), directory)

        return fill

    # -- secrets and keys ---------------------------------------------------------------------------------------------

    async def _secret(self, mount: RunMount) -> None:
        try:
            value = await self._session.secret(mount.id)
        except NotFound:
            if mount.required:
                raise NotFound(f"secret {mount.id}: not found") from None
            return
        if mount.env:
            self.env.append(f"{mount.env}={value.decode(errors='surrogateescape')}")
        if not mount.target:
            return
        path = f"{self._secrets}/{os.path.basename(self._directory)}-{self._count}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._undo.callback(os.unlink, path)
        try:
            os.write(fd, value)
            os.fchown(fd, mount.uid, mount.gid)
            os.fchmod(fd, 0o400 if mount.mode is None else mount.mode)
        finally:
            os.close(fd)
        self._add(mount.target, "bind", path, ["bind", "ro", "nosuid", "nodev", "noexec", "rprivate"], directory=False)

    async def _ssh(self, mount: RunMount) -> None:
        try:
            _, writer = await self._session.ssh_agent(mount.id or "default")
        except NotFound:
            if mount.required:
                raise NotFound(f"unset ssh forward key {mount.id or 'default'}") from None
            return
        writer.close()
        name = f"ssh-{self._count}"
        path = await self._undo.enter_async_context(
            sshagent.listening(self._session, mount.id or "default", self._directory, name)
        )
        os.chown(path, mount.uid, mount.gid)
        os.chmod(path, 0o600 if mount.mode is None else mount.mode)
        target = mount.target or f"/run/buildkit/ssh_agent.{self._ssh_number()}"
        if not any(entry.startswith("SSH_AUTH_SOCK=") for entry in (*self._set, *self.env)):
            self.env.append(f"SSH_AUTH_SOCK={target}")
        self._add(target, "bind", path, ["bind", "rprivate"], directory=False)

    def _ssh_number(self) -> int:
        return sum(1 for path, _ in self.targets if path.startswith("/run/buildkit/ssh_agent."))


def secret_place(exec_root: str) -> str:
    """Return a directory on tmpfs for secrets, made when missing. Blocking, cheap."""
    path = f"{exec_root}/builder/secrets"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    os.makedirs(path, mode=0o700, exist_ok=True)
    fd = os.open(path, _DIRECTORY)
    try:
        if fstatfs_type(fd) != TMPFS_MAGIC:
            flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
            kernel.mount("secrets", path, "tmpfs", flags, "mode=0700,size=64m")
    finally:
        os.close(fd)
    return path


def unmount(path: str) -> None:
    """Take off what is mounted there; nothing is already so."""
    with suppress(OSError):
        kernel.umount2(path, kernel.MNT_DETACH)


def _inside(root: str, path: str) -> str:
    """The path on the host of what `path` names below a directory of the host. Raises: NotFound."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = saferoot.open_in_root(root_fd, path)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise NotFound(f'"{path}": not found')
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
    except OSError as e:
        raise NotFound(f'"/{path.lstrip("/")}": not found') from e
    finally:
        os.close(root_fd)


def _copy_tree(source: str, target: str) -> None:
    source_fd, target_fd = os.open(source, _DIRECTORY), os.open(target, _DIRECTORY)
    try:
        copying.copy_tree(source_fd, target_fd)
    finally:
        os.close(source_fd)
        os.close(target_fd)


def _copy_file(source: str, target: str) -> None:
    with open(source, "rb") as read, open(target, "wb") as write:
        status = os.fstat(read.fileno())
        copying.copy_file(read.fileno(), write.fileno(), status)
        copying.copy_attributes(read.fileno(), write.fileno(), status)
