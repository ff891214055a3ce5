"""Builder: one build from a request to an exported image. What both doors and the composition root talk to.

    definition   the Dockerfile and ignore files, from the request or the client
    graph        vertices and image configurations
    solver       file systems
    exporters    an image, an archive, a directory

Not here: the language (spec/dockerfile), what clients see (classic/, buildkit/). Invariants: whatever ends a build, its
steps are killed and what it held is released; one build's task is one asyncio task, and cancelling it is cancelling it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from sampan.engine.builder import checking, definition, failures, remote
from sampan.engine.builder.bases import Bases
from sampan.engine.builder.checking import Checked
from sampan.engine.builder.clients.sessions import Sessions
from sampan.engine.builder.definition import Definition, Ignores
from sampan.engine.builder.dialect import ConvertedBuild, Dialect
from sampan.engine.builder.exporters import results
from sampan.engine.builder.failures import BuildFailure
from sampan.engine.builder.files.service import FileService
from sampan.engine.builder.files.target import remove
from sampan.engine.builder.graph.convert import convert
from sampan.engine.builder.graph.values import ResolvedImage, Target
from sampan.engine.builder.narrowed import NarrowedSession
from sampan.engine.builder.progress import BuildWarning, Progress, Quiet
from sampan.engine.builder.request import BuildRequest, Built, epoch_seconds
from sampan.engine.builder.session import Session
from sampan.engine.builder.solver.cache import KeptSources, Space
from sampan.engine.builder.solver.solver import Solver
from sampan.engine.builder.solving import BUILDKIT
from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.hostpaths import HostPaths
from sampan.engine.images.service import Images
from sampan.engine.metrics import Metrics
from sampan.engine.networks.service import Networks
from sampan.engine.platforms import HOST, Platform
from sampan.engine.store import Store
from sampan.engine.tasks.seccomp import Filters
from sampan.errors import SampanError
from sampan.spec.dockerfile.checkrules import CheckWarning
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.stages import parse
from sampan.supervisor.client import Supervisor

EPOCH = "SOURCE_DATE_EPOCH"

UNSEEN = Quiet()


class Builder:
    """The builder of one engine. Use on the event loop's thread. scratch: a directory for what clients send."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        events: Events,
        images: Images,
        networks: Networks,
        supervisor: Supervisor,
        host_paths: HostPaths,
        metrics: Metrics | None = None,
    ) -> None:
        metrics = metrics or Metrics()
        self.images = images
        self.events = events
        self.scratch = os.path.join(config.data_root, "builder", "tmp")
        os.makedirs(self.scratch, mode=0o700, exist_ok=True)
        self.sessions = Sessions(self.scratch)
        filters = Filters(host_paths)
        self.files = FileService(config, images, supervisor, filters)
        self.solver = Solver(config, store, images, networks, supervisor, self.files, filters)
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._metrics = metrics

        self.solver.cache.kept += [
            KeptSources(
                kind="source.local",
                description="directories of clients",
                size_bytes=lambda: self.sessions.packs.bytes,
                forget=self.sessions.packs.forget,
                in_thread=False,
            ),
            KeptSources(
                kind="source.git.checkout",
                description="git repositories",
                size_bytes=self.files.repositories.size_bytes,
                forget=self.files.repositories.forget,
            ),
            KeptSources(
                kind="source.http",
                description="downloads",
                size_bytes=self.files.downloads.size_bytes,
                forget=self.files.downloads.forget,
            ),
        ]

    def start(self) -> None:
        """Recover the cache after the end of the last run, and delete what that run left unfinished.

        Blocking, where there is something of the last run: that is at the engine's start, before it serves anybody.
        """
        _empty(self.scratch)
        self.solver.start()

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.sessions.close()
        await self.solver.close()
        await self.files.close()

    # -- building -----------------------------------------------------------------------------------------------

    async def build(self, request: BuildRequest, session: Session, progress: Progress, dialect: Dialect) -> Built:
        """Build and export. Cancelling the task cancels the build. dialect: the one that the request names.

        Raises: BuildFailure for what belongs to a Dockerfile or a step, else SampanError.
        """
        client = NarrowedSession(session)
        with self._listed(request.id), self._counted():
            try:
                converted = await self._converted(with_epoch(request), client, progress, dialect)
                return await dialect.finish(converted)
            finally:
                await self._let_go(client)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a build, and why it failed; steps that fail do not count as failed builds, as in dockerd."""
        self._metrics.builds_triggered.add()
        try:
            yield
        except asyncio.CancelledError:
            self._metrics.builds_failed.add("build_canceled")
            raise
        except SampanError as e:
            if isinstance(e.cause if isinstance(e, BuildFailure) else e, DockerfileError):
                self._metrics.builds_failed.add("dockerfile_syntax_error")
            raise

    async def _let_go(self, client: NarrowedSession) -> None:
        """Give back what a build has held, also when it is cancelled at this moment."""
        try:
            await self.solver.release(client)
        finally:
            await client.close()

    def cancel(self, build_id: str) -> bool:
        """End a running build by its id; False when there is none."""
        task = self._running.get(build_id)
        return task.cancel() if task is not None else False

    async def _converted(
        self, request: BuildRequest, client: NarrowedSession, progress: Progress, dialect: Dialect
    ) -> ConvertedBuild:
        """Read the Dockerfile and make the graph. Raises: BuildFailure, SampanError for what comes before it."""
        assert request.dialect == dialect.name
        results.validate(request)
        request = await remote.localised(request, client, progress, self.solver)
        text = await definition.text(request, client, progress)
        with failures.located(text[0], request.filename):
            found = Definition(text=text[0], filename=request.filename, dockerfile=parse(text[0]), beside=text[1])
            ignores = Ignores(found, request, client, progress)
            bases = self._bases(request, client, progress, dialect)
            if dialect.checked:
                targets = await _checked(found, request, bases, ignores, progress.warning)
            else:
                targets = await convert(found.dockerfile, request, bases, ignores=ignores)
        client.paths.update(_paths(targets))
        return ConvertedBuild(
            request=request,
            definition=found,
            targets=targets,
            session=client,
            progress=progress,
            bases=bases,
            images=self.images,
            files=self.files,
            solver=self.solver,
            scratch=self.scratch,
        )

    def _bases(self, request: BuildRequest, session: Session, progress: Progress, dialect: Dialect) -> Bases:
        return Bases(
            self.images,
            session,
            progress,
            build=request.id,
            auth=request.auth,
            several=len(request.platforms) > 1,
            lenient=dialect.lenient,
            told=dialect.told,
        )

    @contextmanager
    def _listed(self, build_id: str) -> Iterator[None]:
        """While a build runs it can be cancelled by its id."""
        task = asyncio.current_task()
        assert task is not None
        key = build_id if build_id and build_id not in self._running else f"{id(task):x}"
        self._running[key] = task
        try:
            yield
        finally:
            del self._running[key]

    # -- the cache ----------------------------------------------------------------------------------------------

    async def disk_usage(self) -> list[dict[str, Any]]:
        """Return BuildCache objects of API 1.51."""
        return await self.solver.disk_usage()

    async def prune(
        self,
        filters: Mapping[str, Any] | None = None,
        *,
        all: bool = False,
        reserved_bytes: int = 0,
        max_used_bytes: int = 0,
        min_free_bytes: int = 0,
    ) -> tuple[list[str], int]:
        """Remove records that nobody uses: (ids, bytes). Bounds: see `Space`. Raises: InvalidArgument."""
        space = Space(reserved_bytes=reserved_bytes, max_used_bytes=max_used_bytes, min_free_bytes=min_free_bytes)
        ids, reclaimed = await self.solver.prune(filters, all=all, space=space)
        self.events.publish("builder", "prune", "", {"reclaimed": str(reclaimed)})
        return ids, reclaimed

    # -- asking -------------------------------------------------------------------------------------------------

    async def check(self, request: BuildRequest, session: Session, progress: Progress = UNSEEN) -> Checked:
        """Return the findings of the build checks, and why the Dockerfile cannot be built; builds nothing (`--check`).

        Raises: SampanError for what is not the Dockerfile's fault.
        """
        request = with_epoch(request)
        warnings: list[BuildWarning] = []
        try:
            async with self._reading(request, session, progress) as (found, client):
                bases = self._bases(request, client, progress, BUILDKIT)
                ignores = Ignores(found, request, client, progress)
                await _checked(found, request, bases, ignores, warnings.append, everywhere=True)
        except BuildFailure as e:
            if e.source is None:
                raise
            return Checked(warnings=warnings, error=e)
        return Checked(warnings=warnings)

    async def outline(self, request: BuildRequest, session: Session, progress: Progress = UNSEEN) -> dict[str, Any]:
        """Return what a target takes: arguments, secrets, keys (`--call=outline`)."""
        async with self._reading(request, session, progress) as (found, _):
            return checking.outline(found, request)

    async def targets(self, request: BuildRequest, session: Session, progress: Progress = UNSEEN) -> dict[str, Any]:
        """Return the stages that can be built (`--call=targets`)."""
        async with self._reading(request, session, progress) as (found, _):
            return checking.targets(found)

    @asynccontextmanager
    async def _reading(
        self, request: BuildRequest, session: Session, progress: Progress
    ) -> AsyncIterator[tuple[Definition, NarrowedSession]]:
        """The definition of a build that will not be."""
        client = NarrowedSession(session)
        try:
            request = await remote.localised(request, client, progress, self.solver)
            text = await definition.text(request, client, progress)
            with failures.located(text[0], request.filename):
                found = Definition(text=text[0], filename=request.filename, dockerfile=parse(text[0]), beside=text[1])
                yield found, client
        finally:
            await self._let_go(client)

    async def resolve(
        self,
        ref: str,
        platform: Platform,
        session: Session,
        *,
        auth: Mapping[str, Any] | None = None,
        pull: bool = False,
    ) -> ResolvedImage:
        """Return the configuration of an image, pulled if need be: for the gateway's ResolveImageConfig."""
        bases = Bases(self.images, session, Quiet(), build=ref, auth=auth or {})
        return await bases.image(ref, platform, pull=pull)


def _empty(directory: str) -> None:
    """Remove what is in a directory. Blocking."""
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            remove(entry.path)
        else:
            os.unlink(entry.path)


async def _checked(
    found: Definition,
    request: BuildRequest,
    bases: Bases,
    ignores: Ignores,
    tell: Callable[[BuildWarning], None],
    *,
    everywhere: bool = False,
) -> dict[Platform, Target]:
    """The targets. Tells of findings of the build checks on the way, also when there is no graph.

    everywhere: of findings in all stages, not just those that the targets need. Raises: DockerfileError, SampanError.
    """
    targets: dict[Platform, Target] | None = None
    seen: list[CheckWarning] = []
    try:
        targets = await convert(found.dockerfile, request, bases, ignores=ignores)
    finally:
        known = targets.values() if targets is not None else None
        seen = checking.findings(found, request, known, ignores.read, everywhere=everywhere)
        for warning in checking.warnings(found, seen):
            tell(warning)
    checking.insist(found, request, seen)
    return targets


def with_epoch(request: BuildRequest) -> BuildRequest:
    """SOURCE_DATE_EPOCH of the build arguments, and a platform. Raises: InvalidArgument."""
    if request.epoch_s is None:
        request = replace(request, epoch_s=epoch_seconds(request.build_args.get(EPOCH) or ""))
    return request if request.platforms else replace(request, platforms=(HOST,))


def _paths(targets: Mapping[Platform, Target]) -> dict[str, tuple[str, ...]]:
    """What all platforms together need of each context."""
    found: dict[str, set[str]] = {}
    for target in targets.values():
        for name, paths in target.paths.items():
            found.setdefault(name, set()).update(paths)
    return {name: tuple(sorted(paths)) for name, paths in found.items()}
