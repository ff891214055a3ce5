"""RUN: one task of the supervisor on a snapshot, from the command to its exit status.

    network ─┐
    mounts ──┼─▶ spec ─▶ create · attach · start ─▶ output … exit ─▶ delete
    files ───┘

The two dialects differ as they do in Docker: the classic builder's step is a container (hostname and /etc/hosts with
its own address, HOSTNAME set), BuildKit's has the hostname `buildkitsandbox` and a fixed /etc/hosts.

Invariant: whatever happens, nothing of the step is left but the Work that it wrote to: no task, network, mount, socket,
secret. What a killed daemon leaves, `recover` and containers/recovery.py take away at the next start.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from sampan.engine.background import Background, beside
from sampan.engine.builder.failures import StepFailed
from sampan.engine.builder.ops import RunOp, Vertex
from sampan.engine.builder.session import Session
from sampan.engine.builder.solver import runspec, stubs
from sampan.engine.builder.solver.cachemounts import CacheMounts
from sampan.engine.builder.solver.layers import Work
from sampan.engine.builder.solver.mounting import Mounting, secret_place, unmount
from sampan.engine.builder.solver.runspec import RunStep
from sampan.engine.builder.solver.sandboxes import Net, SandboxPool
from sampan.engine.builder.state import Solved
from sampan.engine.config import EngineConfig
from sampan.engine.images.service import Images
from sampan.engine.networks.service import Networks
from sampan.engine.tasks import devices, etcfiles, failures, namespaces, spec
from sampan.engine.tasks.namespaces import HeldNamespace
from sampan.engine.tasks.options import TaskOptions
from sampan.engine.tasks.seccomp import Filters
from sampan.supervisor.client import Exit, Supervisor, TaskFailed, TaskKind, TaskRequest

SANDBOX_HOSTNAME = "buildkitsandbox"
TAIL_LINES = 20
ENDING_S = 60.0  # so long `close` waits for what the last steps used
TAIL_BYTES = 16 * 1024
_SPEC = msgspec.json.Encoder()

Output = Callable[[int, bytes], None]
Room = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Tail:
    """The last lines of a step's output, at most TAIL_LINES and TAIL_BYTES."""

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
        self,
        config: EngineConfig,
        images: Images,
        networks: Networks,
        supervisor: Supervisor,
        caches: CacheMounts,
        filters: Filters,
    ) -> None:
        self._config = config
        self._images, self._supervisor, self._caches = images, supervisor, caches
        self._filters = filters
        self._root = f"{config.exec_root}/builder"
        self._background = Background()
        self._sandboxes = SandboxPool(networks)

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
        await self._background.close(ENDING_S)
        self.recover()

    async def idle(self) -> None:
        """Give back what was made ahead, when no build is under way."""
        await self._sandboxes.drop()

    async def run(
        self,
        op: RunOp,
        work: Work,
        *,
        solved: Mapping[Vertex, Solved],
        session: Session,
        emptied: set[str] | None = None,
        output: Output,
        room: Room,
        classic: bool,
    ) -> None:
        """Run the step on `work`. output: called with (1 stdout or 2 stderr, bytes) as they come, room: after each.
        emptied: see Mounting.

        Raises: StepFailed for a command that failed or could not be run, SampanError for what it needs and is not
        there.
        """
        async with AsyncExitStack() as undo:
            net = await self._sandboxes.take(runspec.network_mode(op, self._config), ahead=True)
            undo.callback(lambda: self._later(self._sandboxes.give_back(net)))
            directory = f"{self._root}/{net.id}"
            os.makedirs(directory, mode=0o700)
            undo.callback(partial(shutil.rmtree, directory, ignore_errors=True))
            own_name = net.id[:12] if classic else SANDBOX_HOSTNAME
            step = RunStep(id=net.id, op=op, hostname=op.hostname or own_name, classic=classic)
            place = secret_place(self._config.exec_root) if any(m.kind == "secret" for m in op.mounts) else ""
            mounting = Mounting(self._images, self._caches, session, solved, directory, place, undo, emptied)
            await mounting.prepare(op)
            made: list[stubs.Stub] = []
            if mounting.targets:
                made = await asyncio.to_thread(stubs.make, work.root_fd, mounting.targets)
                work.close_root()
            options = runspec.task_options(step, self._config, mounting.mounts, mounting.env)
            self._write_files(step, options, net, directory)
            found = await asyncio.to_thread(devices.look, options) if devices.waits(options) else devices.look(options)
            joined = {}
            if net.sandbox.netns:
                opened = undo.enter_context(ExitStack())
                joined["network"] = HeldNamespace.by_path(net.sandbox.netns, opened)
            provisions = spec.Provisions(
                namespaces=namespaces.paths(joined),
                files=tuple((f"/etc/{name}", f"{directory}/{name}") for name in step.files),
                devices=found,
            )
            try:
                await self._execute(step, options, provisions, joined, work, output, room, unmounted=bool(made))
            finally:
                if made:
                    await asyncio.shield(asyncio.to_thread(work.clear_stubs, made))

    # -- what surrounds it --------------------------------------------------------------------------------------------

    def _later(self, work: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        """Let go of something of a step in the background: no step waits for it, for its processes are dead."""
        task = self._background.spawn(work, "what a build step used cannot be cleared away", finish=True)
        assert task is not None  # it is closed when every step has ended
        return task

    def _write_files(self, step: RunStep, options: TaskOptions, net: Net, directory: str) -> None:
        etcfiles.write(directory, options, net.sandbox, self._config)
        if step.classic or step.op.network == "host":
            return
        pairs = [etcfiles.extra_host(text, net.sandbox, self._config) for text in options.resolver.extra_hosts]
        extra = "".join(f"{address}\t{name}\n" for name, address in pairs)
        text = f"127.0.0.1\tlocalhost {step.hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n{extra}"
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
        step: RunStep,
        options: TaskOptions,
        provisions: spec.Provisions,
        joined: Mapping[str, HeldNamespace],
        work: Work,
        output: Output,
        room: Room,
        *,
        unmounted: bool,
    ) -> None:
        """Run the task to its end. unmounted: return only when nothing of it is mounted any more."""
        id, args = step.id, step.op.args
        seccomp = await self._filters.path(self._supervisor, options.process)
        request = TaskRequest(
            id=id,
            kind=TaskKind.BUILD_STEP,
            spec=_SPEC.encode(spec.build(options, provisions)),
            rootfs=work.mounts(container=step.classic),
            seccomp=seccomp,
            log_driver="none",
            sources=namespaces.sources(joined),
        )
        tail = Tail.new()
        ended: Exit | None = None
        try:
            await self._supervisor.create(request, start=False)
            async with beside(self._supervisor.wait(id, begun=False), "the end of a build step", quiet=True) as exit_:
                attachment = await self._supervisor.attach(id)
                try:
                    await self._supervisor.start(id)
                    await self._pass_on(attachment.reader, output, room, tail)
                    ended = await exit_
                finally:
                    attachment.writer.close()
        except TaskFailed as e:
            refusal = failures.of_start(e.step, e.errno, e.message).error.message
            raise StepFailed(args, -1, refusal=refusal if step.classic else e.message) from e
        finally:
            gone = self._later(self._supervisor.delete(id))
            if ended is None or unmounted:  # it may still run
                await asyncio.shield(gone)
        if ended.status:
            raise StepFailed(args, ended.status, tail=tail.text(), oom_killed=ended.oom_killed)

    async def _pass_on(self, reader: asyncio.StreamReader, output: Output, room: Room, tail: Tail) -> None:
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
                await room()
