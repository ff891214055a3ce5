"""Doing one step: its key, its work on a snapshot, its layer, its record."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from functools import partial

from sampan.engine import platforms
from sampan.engine.background import thread_to_its_end
from sampan.engine.builder.failures import StepFailed
from sampan.engine.builder.files.service import FileService
from sampan.engine.builder.ops import Copy, FileOp, RunOp, ScratchOp, Vertex
from sampan.engine.builder.session import Session
from sampan.engine.builder.solver import keys
from sampan.engine.builder.solver.cache import Cache
from sampan.engine.builder.solver.clipping import Clipped
from sampan.engine.builder.solver.flights import Flight
from sampan.engine.builder.solver.layers import Committed, Work
from sampan.engine.builder.solver.records import CacheRecord
from sampan.engine.builder.solver.run import Room, Runner
from sampan.engine.builder.state import LayerChain, Solved
from sampan.engine.builder.trees import Tree
from sampan.engine.images.service import Images
from sampan.engine.store import Ref
from sampan.errors import Internal
from sampan.spec import oci_image, times

RUNS_AT_ONCE = 2 * (os.cpu_count() or 1)
COPIES_AT_ONCE = 4
SLOW_S = 0.5
"""A run whose client has not read for so long gives its turn to others, until the client reads on."""


class Turn:
    """One run's share of those that go on at once; a context manager."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns
        self._held = False

    async def __aenter__(self) -> Turn:
        await self._turns.acquire()
        self._held = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._held:
            self._turns.release()

    async def room(self, flight: Flight) -> None:
        """Wait until the clients can take more, without the turn when that takes long."""
        try:
            async with asyncio.timeout(SLOW_S):
                await flight.room()
        except TimeoutError:
            self._turns.release()
            self._held = False
            await flight.room()
            await self._turns.acquire()
            self._held = True


class Steps:
    """The steps of one engine."""

    def __init__(self, images: Images, files: FileService, runner: Runner, cache: Cache) -> None:
        self._images, self._files, self._runner, self._cache = images, files, runner, cache
        self._runs = asyncio.Semaphore(RUNS_AT_ONCE)
        self._copies = asyncio.Semaphore(COPIES_AT_ONCE)

    # -- keys ---------------------------------------------------------------------------------------------------------

    async def key(
        self, vertex: Vertex, solved: Mapping[Vertex, Solved], trees: Mapping[Vertex, Tree], *, classic: bool
    ) -> str:
        """Return the cache key of a step whose inputs are solved.

        Raises: what a checksum raises, for missing sources.
        """
        if isinstance(vertex, RunOp):
            digests: dict[Vertex, str] = {}
            for source, path in sorted({(m.source, m.path) for m in vertex.mounts if m.source in trees}, key=str):
                assert source is not None
                found = await thread_to_its_end(partial(self._files.checksum, trees[source], _whole(path)))
                digests[source] = f"{digests.get(source, '')} {path}={found}"
            return keys.of_run(vertex, solved, digests, classic=classic)
        if isinstance(vertex, FileOp):
            copies = [action for action in vertex.actions if isinstance(action, Copy)]
            sums: dict[int, str] = {}
            for copy in copies:
                sums[id(copy)] = await thread_to_its_end(partial(self._files.checksum, trees[copy.source], copy))
            return keys.of_files(vertex, solved, lambda copy: sums[id(copy)])
        raise Internal(f"no such step: {type(vertex).__name__}")

    # -- running ------------------------------------------------------------------------------------------------------

    async def run(
        self,
        vertex: Vertex,
        key: str,
        *,
        solved: Mapping[Vertex, Solved],
        trees: Mapping[Vertex, Tree],
        session: Session,
        emptied: set[str] | None,
        classic: bool,
        on_error: str,
        holder: Ref,
        flight: Flight,
    ) -> CacheRecord:
        """Do the step and record it. emptied: cache mounts that the build has begun anew, None where it begins none.
        Raises: StepFailed, SampanError, OSError; nothing is left then."""
        if isinstance(vertex, RunOp):
            async with Turn(self._runs) as turn:
                flight.begun()
                room = partial(turn.room, flight)
                done, time_ns = await self._run(
                    vertex, solved, session, emptied, classic, on_error, holder, flight, room
                )
            inputs = [vertex.base, *(m.source for m in vertex.mounts if m.source is not None)]
        else:
            assert isinstance(vertex, FileOp)
            async with self._copies:
                flight.begun()
                done, time_ns = await self._copy(vertex, solved, trees, holder)
            inputs = [vertex.base, *(a.source for a in vertex.actions if isinstance(a, Copy))]
        parents = [state for needed in inputs if (state := solved[needed].state) is not None]
        return self._cache.put(
            key,
            done.state,
            empty=done.empty,
            time_ns=time_ns,
            description=vertex.label.text or vertex.label.name,
            size_bytes=done.size_bytes,
            parents=parents,
            weak=classic,
        )

    async def _run(
        self,
        op: RunOp,
        solved: Mapping[Vertex, Solved],
        session: Session,
        emptied: set[str] | None,
        classic: bool,
        on_error: str,
        holder: Ref,
        flight: Flight,
        room: Room,
    ) -> tuple[Committed, int]:
        async with Work(self._images, solved[op.base].state or LayerChain(), holder) as work:
            output = flight.output if classic else Clipped(flight.output)
            try:
                await self._runner.run(
                    op,
                    work,
                    solved=solved,
                    session=session,
                    emptied=emptied,
                    output=output,
                    room=room,
                    classic=classic,
                )
            except StepFailed as failed:
                if on_error in ("keep", "commit"):
                    failed.image_id = await self._keep(op, work)
                raise
            return await work.commit(epoch_s=op.epoch_s), time.time_ns()

    async def _copy(
        self, op: FileOp, solved: Mapping[Vertex, Solved], trees: Mapping[Vertex, Tree], holder: Ref
    ) -> tuple[Committed, int]:
        base = LayerChain() if op.link else solved[op.base].state or LayerChain()
        async with Work(self._images, base, holder) as work:
            time_ns = await work.in_thread(
                self._files.execute, op, work.root_fd, trees, 0 if op.link else solved[op.base].time_ns
            )
            return await work.commit(epoch_s=op.epoch_s), time_ns

    async def _keep(self, op: RunOp, work: Work) -> str:
        """An image of what a failed step left, so that it can be looked into. Returns its id."""
        done = await work.commit()
        platform = op.platform or platforms.HOST
        now = times.rfc3339(time.time_ns())
        document = {
            "architecture": platform.architecture,
            "config": {"Env": list(op.env), "WorkingDir": op.cwd, "User": op.user, "Cmd": ["/bin/sh"]},
            "created": now,
            "history": [{"created": now, "created_by": " ".join(op.args), "comment": "what a failed step left"}],
            "os": platform.os,
            "rootfs": {"type": "layers", "diff_ids": list(done.state.diff_ids)},
        }
        return await self._images.publisher.publish_image(oci_image.encode(document), durable=False)


def _whole(path: str) -> Copy:
    """A copy that takes all that a mount shows."""
    return Copy(source=ScratchOp(), patterns=(path or "/",), dest="/")
