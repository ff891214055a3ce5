"""RUN: one task of the supervisor on a snapshot, from the command to its exit status.

    network ─┐
    mounts ──┼─▶ spec ─▶ create · attach · start ─▶ output … exit ─▶ delete
    files ───┘

The two dialects differ as they do in Docker: the classic builder's step is a container (hostname and /etc/hosts with its
own address, HOSTNAME set), BuildKit's has the hostname `buildkitsandbox` and a fixed /etc/hosts.

Invariant: whatever happens, nothing of the step is left but the Work that it wrote to: no task, network, mount, socket,
secret. What a killed daemon leaves, `recover` and containers/recovery.py take away at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from sampan.engine.builder.ops import Limits, RunOp, Vertex
from sampan.engine.builder.session import Session
from sampan.engine.builder.solver import stubs
from sampan.engine.builder.solver.cachemounts import CacheMounts
from sampan.engine.builder.solver.failures import StepFailed
from sampan.engine.builder.solver.layers import Work
from sampan.engine.builder.solver.mounting import Mounting, secret_place, unmount
from sampan.engine.builder.solver.sandboxes import Sandboxes
from sampan.engine.builder.state import Solved
from sampan.engine.config import EngineConfig
from sampan.engine.images.service import Images
from sampan.engine.networks.service import Networks, Sandbox
from sampan.engine.tasks import etcfiles, failures, security, spec
from sampan.engine.tasks.capabilities import permitted
from sampan.engine.tasks.host import probe
from sampan.engine.tasks.seccomp import Filters
from sampan.spec.engine_api.container import HostConfig, Ulimit
from sampan.supervisor.client import Exit, Supervisor, TaskFailed, TaskRequest

log = logging.getLogger("sampan.builder")

SANDBOX_HOSTNAME = "buildkitsandbox"
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TAIL_LINES = 20
TAIL_BYTES = 16 * 1024
_SPEC = msgspec.json.Encoder()

Output = Callable[[int, bytes], None]


@dataclass(slots=True)
class Tail:
    """The last lines of a step's output, whatever it wrote."""

    lines: deque[bytes]
    rest: bytes = b""

    @classmethod
    def new(cls) -> Tail:
        return cls(deque(maxlen=TAIL_LINES))

    def add(self, data: bytes) -> None:
        *whole, self.rest = (self.rest + data)[-TAIL_BYTES:].split(b"\n")
        self.lines.extend(whole)

    def text(self) -> bytes:
        return b"\n".join([*self.lines, *([self.rest] if self.rest else [])])[-TAIL_BYTES:]


class Runner:
    """Runs the RUN steps of one engine."""

    def __init__(
        self, config: EngineConfig, images: Images, networks: Networks, supervisor: Supervisor, caches: CacheMounts
    ) -> None:
        self._config = config
        self._images, self._supervisor, self._caches = images, supervisor, caches
        self._filters = Filters()
        self._root = f"{config.exec_root}/builder"
        self._ending: set[asyncio.Task[Any]] = set()
        self._sandboxes = Sandboxes(networks)

    def recover(self) -> None:
        """Take away what steps of an earlier daemon left on the host. Its tasks are containers/recovery.py's."""
        try:
            for name in os.listdir(self._root):
                directory = f"{self._root}/{name}"
                for inner in os.listdir(directory):
                    unmount(f"{directory}/{inner}")
                unmount(directory)
                shutil.rmtree(directory, ignore_errors=True)
        except FileNotFoundError:
            return

    async def close(self) -> None:
        """Wait until the last steps are cleared away."""
        await self.idle()
        await asyncio.gather(*self._ending, return_exceptions=True)
        self.recover()

    async def idle(self) -> None:
        """No build is under way: give back what was made ahead."""
        await self._sandboxes.drop()

    async def run(
        self,
        op: RunOp,
        work: Work,
        *,
        solved: Mapping[Vertex, Solved],
        session: Session,
        output: Output,
        classic: bool,
    ) -> None:
        """Run the step on `work`. output: called with (1 stdout or 2 stderr, bytes) as they come.

        Raises: StepFailed for a command that failed or could not be run, SampanError for what it needs and is not there.
        """
        host = _host_config(op, self._config)
        async with AsyncExitStack() as undo:
            net = await self._sandboxes.take(host.network_mode, ahead=True)
            undo.callback(lambda: self._later(self._sandboxes.give_back(net)))
            id, sandbox = net.id, net.sandbox
            directory = f"{self._root}/{id}"
            os.makedirs(directory, mode=0o700)
            undo.callback(partial(shutil.rmtree, directory, ignore_errors=True))
            hostname = op.hostname or (id.removeprefix(spec.BUILD_TASK)[:12] if classic else SANDBOX_HOSTNAME)
            place = secret_place(self._config.exec_root) if any(m.kind == "secret" for m in op.mounts) else ""
            mounting = Mounting(self._images, self._caches, session, solved, directory, place, undo)
            await mounting.prepare(op)
            made: list[stubs.Stub] = []
            if mounting.targets:
                made = await asyncio.to_thread(stubs.make, work.root_fd, mounting.targets)
                work.close_root()
            self._write_files(directory, op, host, hostname, sandbox, classic)
            try:
                await self._execute(
                    id, op, work, host, hostname, sandbox, mounting, directory, output, classic, bool(made)
                )
            finally:
                if made:
                    await asyncio.shield(asyncio.to_thread(work.clear_stubs, made))

    # -- what surrounds it --------------------------------------------------------------------------------------------

    def _later(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let go of something that nobody has to wait for: with its process a task's every writer is dead."""
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("what a build step used cannot be cleared away: %s", error)

    def _write_files(
        self, directory: str, op: RunOp, host: HostConfig, hostname: str, sandbox: Sandbox, classic: bool
    ) -> None:
        etcfiles.write(directory, hostname=hostname, host=host, sandbox=sandbox, config=self._config)
        if classic or op.network == "host":
            return
        pairs = [etcfiles.extra_host(text, sandbox, self._config) for text in host.extra_hosts or ()]
        extra = "".join(f"{address}\t{name}\n" for name, address in pairs)
        text = f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n{extra}"
        with open(f"{directory}/hosts", "w") as file:  # there already, with the mode that everybody may read
            file.write(text)
        with open(f"{directory}/resolv.conf", "r+") as file:
            lines = [line for line in file if line.strip() and not line.startswith("#")]
            file.seek(0)
            file.truncate()
            file.writelines(lines)

    # -- the task -----------------------------------------------------------------------------------------------------

    async def _execute(
        self,
        id: str,
        op: RunOp,
        work: Work,
        host: HostConfig,
        hostname: str,
        sandbox: Sandbox,
        mounting: Mounting,
        directory: str,
        output: Output,
        classic: bool,
        made: bool,
    ) -> None:
        options = security.parse(host, self._config)
        document = self._document(id, op, host, hostname, sandbox, mounting, directory, options, classic)
        seccomp = await self._filters.path(self._supervisor, options, document["process"]["capabilities"]["bounding"])
        request = TaskRequest(
            id=id,
            spec=_SPEC.encode(document),
            rootfs=work.mounts(container=classic),
            seccomp=seccomp,
            log_driver="none",
        )
        tail = Tail.new()
        ended: Exit | None = None
        try:
            await self._supervisor.create(request, start=False)
            exit_ = asyncio.create_task(self._supervisor.wait(id, begun=False))
            try:
                attachment = await self._supervisor.attach(id)
                try:
                    await self._supervisor.start(id)
                    await self._pass_on(attachment.reader, output, tail)
                    ended = await exit_
                finally:
                    attachment.writer.close()
            finally:
                exit_.cancel()
        except TaskFailed as e:
            refusal = failures.of_start(e.step, e.errno, e.message).error.message
            raise StepFailed(op, op.args, -1, refusal=refusal if classic else e.message) from e
        finally:
            gone = self._later(self._supervisor.delete(id))
            if ended is None or made:  # it may still run, or its mounts have to be gone
                await asyncio.shield(gone)
        if ended.status:
            raise StepFailed(op, op.args, ended.status, tail=tail.text(), oom_killed=ended.oom_killed)

    async def _pass_on(self, reader: asyncio.StreamReader, output: Output, tail: Tail) -> None:
        """Pass the output on until its end."""
        while head := await reader.read(8):
            if len(head) < 8:
                head += await reader.readexactly(8 - len(head))
            stream, left = head[0], int.from_bytes(head[4:], "big")
            while left:
                data = await reader.read(min(left, 256 * 1024))
                if not data:
                    break
                left -= len(data)
                tail.add(data)
                output(stream, data)

    def _document(
        self,
        id: str,
        op: RunOp,
        host: HostConfig,
        hostname: str,
        sandbox: Sandbox,
        mounting: Mounting,
        directory: str,
        options: security.SecurityOptions,
        classic: bool,
    ) -> dict[str, Any]:
        """The OCI spec of the step."""
        parent = op.limits.cgroup_parent or self._config.cgroup_parent or "/sampan"
        prepared = spec.Prepared(
            netns=sandbox.netns,
            cgroup_parent=parent if parent.startswith("/") else f"/{parent}",
            default_ulimits=tuple(
                Ulimit(name=n, hard=int(u.get("Hard", -1)), soft=int(u.get("Soft", -1)))
                for n, u in self._config.default_ulimits.items()
            ),
            available_capabilities=permitted(),
        )
        caps = spec.capability_names(host, prepared.available_capabilities)
        process: dict[str, Any] = {
            "user": spec.user(op.user, None),
            "args": list(op.args),
            "env": _environment(op, hostname, mounting.env, classic),
            "cwd": op.cwd or "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "oomScoreAdj": 0,
        }
        if limits := spec.rlimits(host.ulimits, prepared.default_ulimits):
            process["rlimits"] = limits
        if options.no_new_privileges:
            process["noNewPrivileges"] = True
        if options.apparmor_profile:
            process["apparmorProfile"] = options.apparmor_profile
        taken = {mount["destination"] for mount in mounting.mounts}
        own = etcfiles.NAMES if classic else ("resolv.conf", "hosts")
        access = ["rbind", "rprivate"] if classic else ["rbind", "ro", "nosuid", "nodev", "noexec", "rprivate"]
        etc = [spec.mount(f"/etc/{name}", "bind", f"{directory}/{name}", access) for name in own]
        asked = sorted(
            [*mounting.mounts, *(mount for mount in etc if mount["destination"] not in taken)],
            key=lambda mount: mount["destination"].rstrip("/").count("/"),
        )
        defaults = [m for m in spec.default_mounts(host, prepared) if m["destination"] not in taken]
        document: dict[str, Any] = {
            "ociVersion": "1.2.1",
            "process": process,
            "root": {"path": "rootfs"},
            "hostname": hostname,
            "mounts": defaults + asked,
            "linux": spec.linux(host, prepared, id=id),
        }
        return document


def _environment(op: RunOp, hostname: str, secret: list[str], classic: bool) -> list[str]:
    """PATH unless it is set, what the step says, then proxies and secrets, which are recorded nowhere."""
    env = {"PATH": DEFAULT_PATH.partition("=")[2]}
    if classic:
        env["HOSTNAME"] = hostname
    for item in (*op.proxy_env, *op.env, *secret):
        key, equals, value = item.partition("=")
        if equals:
            env[key] = value
    return [f"{key}={value}" for key, value in env.items()]


def _host_config(op: RunOp, config: EngineConfig) -> HostConfig:
    limits: Limits = op.limits
    insecure = op.security == "insecure"
    machine = probe()
    mode = op.network
    return HostConfig(
        network_mode="bridge" if mode in ("", "default", "sandbox") else mode,
        privileged=insecure,
        masked_paths=None if insecure else list(security.MASKED_PATHS),
        readonly_paths=None if insecure else list(security.READONLY_PATHS),
        extra_hosts=[f"{name}:{address}" for name, address in op.extra_hosts],
        cgroupns_mode=config.default_cgroupns_mode or ("private" if machine.unified else "host"),
        ipc_mode="private",
        shm_size=limits.shm_size_bytes or config.default_shm_size_bytes,
        memory=limits.memory_bytes,
        memory_swap=limits.memory_swap_bytes or 2 * limits.memory_bytes,
        cpu_shares=limits.cpu_shares,
        cpu_period=limits.cpu_period_us,
        cpu_quota=limits.cpu_quota_us,
        cpuset_cpus=limits.cpuset_cpus,
        cpuset_mems=limits.cpuset_mems,
        ulimits=[Ulimit(name=name, soft=soft, hard=hard) for name, soft, hard in limits.ulimits],
    )
