"""The solver: vertices in, states and trees out; what an equal step gave before is not done again.

    solve ─▶ every vertex when its inputs are there ─▶ source   an image's layers, the client's files, a download
                                                     └▶ step     key ─▶ record? ─▶ "cached"
                                                                       └▶ flight: one run for all that want it now

What a build was given is kept, layers and trees, until `release`; so it may be solved piece by piece, and nothing runs
twice for it. Two dialects: `serial` is the classic builder (one step after the other, no empty layers), else
BuildKit's.

Invariants: a step of a running build is never pruned; a step nobody waits for any more is killed; what failed or was
cancelled leaves no layer, no record and nothing that runs.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from sampan.engine.background import Background, first_failure, thread_to_its_end
from sampan.engine.builder import privileges
from sampan.engine.builder.failures import BuildFailure, NotAllowed
from sampan.engine.builder.files.service import FileService
from sampan.engine.builder.ops import (
    ArchiveOp,
    Copy,
    FileOp,
    GitOp,
    HttpOp,
    ImageOp,
    LocalOp,
    RunOp,
    ScratchOp,
    Vertex,
)
from sampan.engine.builder.progress import Progress, Step, StepStatus
from sampan.engine.builder.session import LocalRequest, Session
from sampan.engine.builder.solver import policy
from sampan.engine.builder.solver.cache import NO_BOUNDS, Cache, Filters, GcPolicy, Space
from sampan.engine.builder.solver.cachemounts import CacheMounts
from sampan.engine.builder.solver.flights import Flight
from sampan.engine.builder.solver.holding import HeldTrees, JoinedSession, is_personal, used_trees
from sampan.engine.builder.solver.imported import ImportedCache
from sampan.engine.builder.solver.jobs import Job
from sampan.engine.builder.solver.layers import empty_layer
from sampan.engine.builder.solver.linking import Linking
from sampan.engine.builder.solver.records import CacheRecord
from sampan.engine.builder.solver.run import Runner
from sampan.engine.builder.solver.steps import Steps
from sampan.engine.builder.state import LayerChain, Solved
from sampan.engine.builder.trees import Tree
from sampan.engine.config import EngineConfig
from sampan.engine.images.service import Images
from sampan.engine.networks.service import Networks
from sampan.engine.store import Store
from sampan.engine.tasks import seccomp
from sampan.errors import Internal, SampanError, words
from sampan.supervisor.client import Supervisor

log = logging.getLogger("sampan.builder")

GC_EVERY_S = 60.0
SOURCES = (ScratchOp, ImageOp, LocalOp, HttpOp, GitOp, ArchiveOp)


class Solver:
    """The solver of one engine. On the loop's thread."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        images: Images,
        networks: Networks,
        supervisor: Supervisor,
        files: FileService,
        filters: seccomp.Filters,
    ) -> None:
        self._config = config
        self._images, self._files = images, files
        table = images.store.table("build_cache", CacheRecord)
        self.mounts = CacheMounts(config.data_root, images.store, table, images)
        self.cache = Cache(images.store, table, images, self.mounts)
        self._runner = Runner(config, images, networks, supervisor, self.mounts, filters)
        self._steps = Steps(images, files, self._runner, self.cache)
        self._linking = Linking(images, files)
        self._jobs: dict[Session, Job] = {}
        self._numbers = itertools.count(1)
        self._flights: dict[str, Flight] = {}
        self.trees = HeldTrees()
        self._background = Background()
        self._gc: asyncio.Task[Any] | None = None
        self._collected = 0.0

    def start(self) -> None:
        """Recover records, directories and mounts after the end of the last run."""
        self._runner.recover()
        self.mounts.start()
        self.cache.start()

    async def close(self) -> None:
        """End everything under way."""
        for flight in list(self._flights.values()):
            await flight.end()
        for job in list(self._jobs.values()):
            await self.release(job.session)
        await self._background.close()
        await self._runner.close()

    # -- solving ------------------------------------------------------------------------------------------------------

    async def solve(
        self,
        vertices: Sequence[Vertex],
        *,
        session: Session,
        progress: Progress,
        serial: bool = False,
        on_error: str = "",
        entitlements: Collection[str] = frozenset(),
        cache_from: Sequence[ImportedCache] = (),
        no_cache: bool = False,
    ) -> dict[Vertex, Solved]:
        """Run what is needed for these vertices; returns them and all that they needed.

        no_cache: run the steps again, whatever they gave before.
        on_error: "keep" or "commit" makes an image of a failed step's file system (`StepFailed.image_id`).
        Raises: BuildFailure, whose cause is StepFailed, NotAllowed, or what sources and copies raise.
        """
        job = self._job(session)
        job.serial, job.on_error, job.entitlements = serial, on_error, frozenset(entitlements)
        job.no_cache = no_cache
        job.cache_from = cache_from or job.cache_from
        ordered = postorder(vertices)
        todo = [vertex for vertex in ordered if vertex not in job.solved]
        for vertex in todo:
            self._allow(job, vertex)
        if not serial:
            for vertex in todo:
                progress.step(Step.of(vertex))
        if serial:
            for vertex in todo:
                job.solved[vertex] = await self._solved(job, vertex, progress)
        else:
            await self._in_parallel(job, todo, progress)
        return {vertex: job.solved[vertex] for vertex in ordered}

    async def _in_parallel(self, job: Job, todo: Sequence[Vertex], progress: Progress) -> None:
        ready = {vertex: asyncio.Event() for vertex in todo}

        async def one(vertex: Vertex) -> None:
            for needed in vertex.inputs:
                if needed in ready:
                    await ready[needed].wait()
            job.solved[vertex] = await self._solved(job, vertex, progress)
            ready[vertex].set()

        try:
            async with asyncio.TaskGroup() as group:
                for vertex in todo:
                    group.create_task(one(vertex))
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from None

    def give(self, session: Session, vertex: Vertex, solved: Solved) -> None:
        """Let a build take this for what a vertex gives: its layers are here, from an image that the client trusts."""
        job = self._job(session)
        if solved.state is not None:
            self._hold(job, solved.state.chain_id)
        job.solved[vertex] = solved

    def made(self, session: Session) -> Mapping[Vertex, CacheRecord]:
        """Return the record of every step that this build was given so far: what an export of its cache holds."""
        job = self._jobs.get(session)
        return dict(job.made) if job is not None else {}

    def _job(self, session: Session) -> Job:
        """Return the job of a session, a new one with its first call."""
        job = self._jobs.get(session)
        if job is None:
            number = str(next(self._numbers))
            job = Job(id=number, session=session, holder=self._images.layers.hold(""))
            self._jobs[session] = job
        return job

    async def release(self, session: Session) -> None:
        """Let go of a session's layers and trees, when its build has ended."""
        job = self._jobs.pop(session, None)
        if job is None:
            return
        await self._background.finish(self._give_back(job), "what a build held cannot be given back")

    async def _give_back(self, job: Job) -> None:
        self.cache.let_go(job.id)
        self._images.layers.let_go(job.holder)
        await self.trees.let_go(job.trees.values())
        if not self._jobs:
            await self._runner.idle()
        self._collect_soon()

    def _allow(self, job: Job, vertex: Vertex) -> None:
        """Refuse a privilege that the build does not have (privileges.py). Raises: BuildFailure of NotAllowed."""
        if not isinstance(vertex, RunOp):
            return
        try:
            privileges.check_step(
                vertex, classic=job.serial, entitlements=job.entitlements, builder=self._config.builder
            )
        except NotAllowed as e:
            raise BuildFailure(e, vertex=vertex, lines=vertex.label.ranges) from e

    async def _solved(self, job: Job, vertex: Vertex, progress: Progress) -> Solved:
        """One vertex whose inputs are solved; failures say which it was."""
        try:
            if isinstance(vertex, SOURCES):
                return await self._source(job, vertex, progress)
            return await self._step(job, vertex, progress)
        except (SampanError, OSError) as e:
            error = e if isinstance(e, SampanError) else Internal(_words(e))
            raise BuildFailure(error, vertex=vertex, lines=vertex.label.ranges) from e

    # -- sources ------------------------------------------------------------------------------------------------------

    async def _source(self, job: Job, vertex: Vertex, progress: Progress) -> Solved:
        if isinstance(vertex, ScratchOp):
            return Solved(state=LayerChain())
        if isinstance(vertex, ImageOp):
            image = self._images.resolve(vertex.image_id)
            self._hold(job, image.chain_id)
            now = time.time_ns()
            progress.step(Step.of(vertex, started_ns=now, completed_ns=now, cached=True, result=image.chain_id))
            return Solved(state=LayerChain(diff_ids=image.layers, chain_id=image.chain_id), cached=True)
        began = time.time_ns()
        progress.step(Step.of(vertex, started_ns=began))
        try:
            tree = await self._tree(job, vertex, progress)
        except BaseException as e:
            progress.step(Step.of(vertex, started_ns=began, completed_ns=time.time_ns(), error=_reason(e)))
            raise
        job.trees[vertex] = self.trees.hold(tree)
        progress.step(Step.of(vertex, started_ns=began, completed_ns=time.time_ns()))
        return Solved(tree=tree)

    async def _tree(self, job: Job, vertex: Vertex, progress: Progress) -> Tree:
        session = job.session
        match vertex:
            case LocalOp():
                return await session.local(
                    LocalRequest(
                        name=vertex.context,
                        include=vertex.include,
                        exclude=vertex.exclude,
                        follow=vertex.follow,
                        report=_report(vertex, progress),
                    )
                )
            case HttpOp():
                return await self._files.http(vertex, session)
            case GitOp():
                return await self._files.git(vertex, session)
            case ArchiveOp():
                return await self._files.archive(vertex, session)
        raise Internal(f"no such source: {type(vertex).__name__}")

    def _hold(self, job: Job, chain_id: str) -> None:
        if chain_id:
            self._images.layers.hold_more(job.holder, chain_id)

    # -- steps --------------------------------------------------------------------------------------------------------

    async def _step(self, job: Job, vertex: Vertex, progress: Progress) -> Solved:
        trees = await self._trees_of_states(job, vertex)
        key = await self._steps.key(vertex, job.solved, trees, classic=job.serial)
        if not (vertex.no_cache or job.no_cache) and (record := await self._known(job, key)) is not None:
            self.cache.used(record, job.id, keep=not job.serial)
            self._hold(job, record.chain_id)
            solved = await self._result(job, vertex, record, cached=True)
            now = time.time_ns()
            progress.step(Step.of(vertex, started_ns=now, completed_ns=now, cached=True, result=_chain(solved)))
            return solved
        flight = None if self._alone(job, vertex) else self._flights.get(key)
        if flight is None or flight.doomed:
            flight = self._take_off(job, vertex, key, trees)
        record = await flight.join(progress, vertex, job.session)
        try:
            self.cache.used(record, job.id, keep=not job.serial)
            self._hold(job, record.chain_id)
        finally:
            flight.leave()
        return await self._result(job, vertex, record, cached=False)

    def _alone(self, job: Job, vertex: Vertex) -> bool:
        """Whether a step is run for this build only: the classic builder's waits for its client to read."""
        return vertex.no_cache or job.no_cache or job.serial or is_personal(vertex)

    async def _known(self, job: Job, key: str) -> CacheRecord | None:
        """What an equal step gave before, here or where the build may take it from."""
        record = self.cache.find(key)
        for source in job.cache_from if record is None else ():
            if (record := await source.find(key)) is not None:
                break
        return record

    def _take_off(self, job: Job, vertex: Vertex, key: str, trees: Mapping[Vertex, Tree]) -> Flight:
        """Begin a step. Another build that wants an equal one meanwhile joins it."""
        name = f"{key}#{job.id}" if self._alone(job, vertex) else key
        holder = self._images.layers.hold("")
        solved = {needed: job.solved[needed] for needed in vertex.inputs}
        for found in solved.values():  # the build that begins the step may end before it
            if found.state is not None and found.state.chain_id:
                self._images.layers.hold_more(holder, found.state.chain_id)
        used = [self.trees.hold(tree) for tree in used_trees(vertex, solved, trees)]

        async def work(flight: Flight) -> CacheRecord:
            return await self._steps.run(
                vertex,
                key,
                solved=solved,
                trees=trees,
                session=JoinedSession(flight.clients),
                emptied=job.emptied if vertex.no_cache else None,
                classic=job.serial,
                on_error=job.on_error,
                holder=holder,
                flight=flight,
            )

        def landed() -> None:
            self._background.spawn(self.trees.let_go(used), "what a build step read cannot be closed", finish=True)
            self._images.layers.let_go(holder)
            if self._flights.get(name) is flight:
                del self._flights[name]

        flight = Flight(work, landed)
        self._flights[name] = flight
        return flight

    async def _trees_of_states(self, job: Job, vertex: Vertex) -> dict[Vertex, Tree]:
        """The trees that a vertex copies from or mounts, those of file systems made of layers included."""
        found: dict[Vertex, Tree] = {}
        wanted: Iterable[Vertex] = ()
        if isinstance(vertex, FileOp):
            wanted = [action.source for action in vertex.actions if isinstance(action, Copy)]
        elif isinstance(vertex, RunOp):
            wanted = [m.source for m in vertex.mounts if m.source is not None and job.solved[m.source].tree is not None]
        for source in wanted:
            solved = job.solved[source]
            found[source] = solved.tree if solved.tree is not None else await self._layers_tree(job, source, solved)
        return found

    async def _layers_tree(self, job: Job, source: Vertex, solved: Solved) -> Tree:
        """The files of a state, opened once for a build."""
        known = job.trees.get(source)
        if known is not None:
            return known
        chain_id = solved.state.chain_id if solved.state is not None else ""
        opened: list[Tree] = []
        try:
            await thread_to_its_end(lambda: opened.append(self._files.layers(chain_id)))
            if source not in job.trees:  # else another step of the build was faster
                job.trees[source] = self.trees.hold(opened.pop())
            return job.trees[source]
        finally:
            for tree in opened:
                tree.close()

    async def _result(self, job: Job, vertex: Vertex, record: CacheRecord, *, cached: bool) -> Solved:
        """What a record means for this build: BuildKit's builds get an empty layer for a step that changed nothing."""
        job.made[vertex] = record
        state = self.cache.state(record)
        if isinstance(vertex, FileOp) and vertex.link:
            base = job.solved[vertex.base].state or LayerChain()
            state = await self._linking.lay_over(vertex, base, state, job.holder)
        elif record.empty and not job.serial:
            state = await empty_layer(self._images, state, job.holder)
        return Solved(state=state, time_ns=record.time_ns, cached=cached)

    # -- what lasts ---------------------------------------------------------------------------------------------------

    async def disk_usage(self) -> list[dict[str, Any]]:
        """Return BuildCache objects of API 1.51."""
        return await self.cache.disk_usage()

    async def prune(
        self, filters: Filters | None = None, *, all: bool = False, space: Space = NO_BOUNDS
    ) -> tuple[list[str], int]:
        """Remove records that nobody uses: (ids, bytes). Raises: InvalidArgument."""
        return await self.cache.prune(filters, all=all, space=space)

    def _collect_soon(self) -> None:
        policies = policy.of(self._config.builder, self._config.data_root)
        if not policies or (self._gc is not None and not self._gc.done()):
            return
        if time.monotonic() - self._collected < GC_EVERY_S:
            return
        self._collected = time.monotonic()
        self._gc = self._background.spawn(self._collect(policies), "garbage collection of the build cache")

    async def _collect(self, policies: Sequence[GcPolicy]) -> None:
        try:
            await self.cache.collect(policies)
        except (SampanError, OSError) as e:
            log.warning("the build cache cannot be collected: %s", e)


def postorder(vertices: Sequence[Vertex]) -> list[Vertex]:
    """Return all vertices that these need, inputs first, each once. Not recursive: Dockerfiles may be long. Pure."""
    found: dict[Vertex, None] = {}
    stack: list[tuple[Vertex, bool]] = [(vertex, False) for vertex in reversed(vertices)]
    while stack:
        vertex, done = stack.pop()
        if vertex in found:
            continue
        if done:
            found[vertex] = None
        else:
            stack.append((vertex, True))
            stack += [(needed, False) for needed in reversed(vertex.inputs)]
    return list(found)


def _report(vertex: LocalOp, progress: Progress) -> Callable[[int, bool], None]:
    """Tell how much of a directory has come."""
    began = time.time_ns()
    what = "transferring dockerfile:" if vertex.context == "dockerfile" else "transferring context:"

    def report(count: int, complete: bool) -> None:
        ended = time.time_ns() if complete else 0
        progress.status(StepStatus(key=vertex.digest, id=what, current=count, started_ns=began, completed_ns=ended))

    return report


def _chain(solved: Solved) -> str:
    return solved.state.chain_id if solved.state is not None else ""


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "context canceled"
    return error.message if isinstance(error, SampanError) else str(error)


def _words(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{words(error)}{where}"
