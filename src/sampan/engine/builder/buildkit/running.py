"""One build from Control.Solve to its answer: wait for what to build, build it, write its history.

Invariants: a build ends with its call (a client that hangs up cancels it) and with nothing of it left: linked results
and uploaded contexts are gone. History is written for every build that was more than a question.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from sampan.engine.builder import questions
from sampan.engine.builder.buildkit import provenance, worker
from sampan.engine.builder.buildkit.borrowing import BorrowingSession, InnerProgress
from sampan.engine.builder.buildkit.builds import SCHEME, Build, Builds
from sampan.engine.builder.buildkit.details import ClientFailure, Detail, UnknownQuestion, details_of
from sampan.engine.builder.buildkit.history import IMAGE_TYPE, PROVENANCE_TYPE, STATUS_TYPE, History, stream
from sampan.engine.builder.buildkit.options import FRONTENDS, UPLOADED, Asked, outputs, to_request
from sampan.engine.builder.buildkit.protos import control_pb2 as pb
from sampan.engine.builder.buildkit.server import code_of, status_message
from sampan.engine.builder.buildkit.status import timestamp
from sampan.engine.builder.clients.sessions import GrpcSession, Sessions
from sampan.engine.builder.files.tartree import TarTree
from sampan.engine.builder.request import BuildRequest, Built, CacheEnd, Output
from sampan.engine.builder.service import Builder
from sampan.engine.builder.session import Session
from sampan.engine.builder.solving import BUILDKIT
from sampan.engine.builder.uploaded import UploadedSession
from sampan.errors import NotImplemented_, SampanError
from sampan.spec import times
from sampan.spec.urls import masked_text

log = logging.getLogger("sampan.builder")


class LinkedImages:
    """The images of linked targets that builds stand on now, and which of them are there for nothing else."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()
        self._made: set[str] = set()

    def use(self, image_id: str, *, made: bool) -> None:
        """A build stands on an image. made: by this build; else it was there before, perhaps somebody else's."""
        self._used[image_id] += 1
        if made:
            self._made.add(image_id)

    def give_up(self, image_id: str) -> bool:
        """A build needs an image no longer. True: nobody does, and builds alone have made it."""
        self._used[image_id] -= 1
        if self._used[image_id]:
            return False
        del self._used[image_id]
        mine = image_id in self._made
        self._made.discard(image_id)
        return mine


class Running:
    """Runs builds for the door."""

    def __init__(self, builder: Builder, sessions: Sessions, builds: Builds, history: History) -> None:
        self._builder = builder
        self._sessions = sessions
        self._builds = builds
        self._history = history
        self._linked_images = LinkedImages()

    async def solve(self, request: pb.SolveRequest) -> dict[str, str]:
        """Run a build to its end. Raises: SampanError, GRPCError with the client's own status when it gave up."""
        build = self._builds.begin(request.Ref, request.Session)
        build.attrs = dict(request.FrontendAttrs)
        asked: Asked | None = None
        built = Built()
        error: BaseException | None = None
        try:
            asked = await self._asked(build, request)
            if asked is not None:
                if not request.Internal:
                    self._history.announce(pb.STARTED, self.started(build, request))
                built = await self._build(build, asked, request)
            return dict(built.response)
        except ClientFailure as e:
            error = e
            details = [Detail(one.type_url, one.value) for one in e.status.details]
            raise GRPCError(Status(e.status.code), e.status.message, details or None) from e
        except BaseException as e:
            error = e
            raise
        finally:
            self._builds.end(build)
            if not request.Internal and (asked is not None or error is not None):
                self._remember(build, request, asked, built, error)

    async def answer(self, build: Build, asked: Asked) -> dict[str, bytes]:
        """Return the answer to a question about a Dockerfile. Raises: NotImplemented_, DockerfileError, …"""
        if asked.request_id == questions.DESCRIBE:
            return questions.describe()
        async with AsyncExitStack() as stack:
            request, session = await self._prepare(build, asked, stack)
            if asked.request_id == questions.LINT:
                return questions.lint(await self._builder.check(request, session, build.log))
            if asked.request_id == questions.OUTLINE:
                return questions.outline(await self._builder.outline(request, session, build.log))
            if asked.request_id == questions.TARGETS:
                return questions.targets(await self._builder.targets(request, session, build.log))
        raise UnknownQuestion(asked.request_id)

    def started(self, build: Build, request: pb.SolveRequest | None = None) -> pb.BuildHistoryRecord:
        """Return the record of a build that runs."""
        cached, completed, total = build.log.counts()
        return pb.BuildHistoryRecord(
            Ref=build.ref,
            Frontend="dockerfile.v0",
            FrontendAttrs=_shown(build.attrs),
            Exporters=_exporters(request) if request is not None else [],
            CreatedAt=timestamp(build.started_ns),
            numCachedSteps=cached,
            numCompletedSteps=completed,
            numTotalSteps=total,
        )

    # ── one build ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _asked(self, build: Build, request: pb.SolveRequest) -> Asked | None:
        """What to build: in the call itself, or what the gateway's Return brings."""
        if request.Frontend:
            if request.Frontend not in FRONTENDS:
                raise NotImplemented_(f"unknown frontend {request.Frontend}")
            inputs = self._builds.inputs(request.FrontendInputs)
            return Asked(session=request.Session, attrs=build.attrs, inputs=inputs)
        if request.Definition.ByteSize():
            inputs = self._builds.inputs({"context": request.Definition})
            return Asked(session=request.Session, attrs=build.attrs, inputs=inputs)
        return await build.returned

    async def _build(self, build: Build, asked: Asked, request: pb.SolveRequest) -> Built:
        async with AsyncExitStack() as stack:
            wanted = outputs((one.Type, one.Attrs) for one in _exporters(request))
            made, session = await self._prepare(build, asked, stack, wanted, request)
            return await self._builder.build(made, session, build.log, BUILDKIT)

    async def _prepare(
        self,
        build: Build,
        asked: Asked,
        stack: AsyncExitStack,
        wanted: tuple[Output, ...] = (),
        request: pb.SolveRequest | None = None,
    ) -> tuple[BuildRequest, Session]:
        """The request as the builder takes it, and the session that has its files; what they need goes with `stack`."""
        source = asked.inputs.get("context", "")
        if source.startswith(SCHEME) and not asked.attrs:  # the result of another build, exported again
            asked = self._builds.asked(source.removeprefix(SCHEME))
        linked = {
            name: await self._linked(build, value, stack) if value.startswith(SCHEME) else value
            for name, value in asked.inputs.items()
        }
        cache = request.Cache if request is not None else pb.CacheOptions()
        made = to_request(
            replace(asked, inputs=linked),
            build.ref,
            outputs=wanted,
            cache_from=(CacheEnd(type=one.Type, attrs=dict(one.Attrs)) for one in cache.Imports),
            cache_to=(CacheEnd(type=one.Type, attrs=dict(one.Attrs)) for one in cache.Exports),
            entitlements=request.Entitlements if request is not None else (),
        )
        session = await self._sessions.get(asked.session)
        context = made.contexts["context"]
        if not context.startswith(UPLOADED):
            return made, await self._borrowing(asked, session)
        tree = await TarTree.receive(session.upload("/" + context.removeprefix(UPLOADED)), self._builder.scratch)
        stack.push_async_callback(asyncio.to_thread, tree.close)
        uploaded = UploadedSession(session.id, tree, session)
        return replace(made, contexts={**made.contexts, "context": "local:context"}), uploaded

    async def _borrowing(self, asked: Asked, session: GrpcSession) -> Session:
        """The session, with the directories that lie with others."""
        lenders = {name: await self._sessions.get(id) for name, id in asked.lenders.items() if id != session.id}
        return BorrowingSession(session, lenders) if lenders else session

    async def _linked(self, build: Build, value: str, stack: AsyncExitStack) -> str:
        """Build what an input stands for; returns it as a context that names its image.

        The image goes with the stack.
        """
        asked = self._builds.asked(value.removeprefix(SCHEME))
        async with AsyncExitStack() as inner:
            made, session = await self._prepare(build, asked, inner, (Output(type="image"),))
            made = replace(made, id=f"{build.ref}-linked")
            before = {record.id for record in self._builder.images.catalog.images.all()}
            built = await self._builder.build(made, session, InnerProgress(build.log), BUILDKIT)
        self._linked_images.use(built.image_id, made=built.image_id not in before)
        stack.push_async_callback(self._drop, built.image_id)
        return f"docker-image://{built.image_id}"

    async def _drop(self, image_id: str) -> None:
        """Remove an image that only linked builds have needed, unless somebody has named or used it meanwhile."""
        if not self._linked_images.give_up(image_id):
            return
        images = self._builder.images
        with suppress(SampanError):
            if not (await images.inspect(image_id)).get("RepoTags"):
                await images.remove(image_id)

    # ── history ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _remember(
        self,
        build: Build,
        request: pb.SolveRequest,
        asked: Asked | None,
        built: Built,
        error: BaseException | None,
    ) -> None:
        """Write the history of an ended build; a disk that is full costs the history, not the build."""
        record = self.started(build, request)
        ended = time.time_ns()
        record.CompletedAt.CopyFrom(timestamp(ended))
        record.numWarnings = build.log.warnings
        attrs = asked.attrs if asked is not None else build.attrs
        record.FrontendAttrs.update(_shown(attrs))
        record.ExporterResponse.update(built.response)
        if isinstance(error, ClientFailure):
            record.error.CopyFrom(error.status)
        elif error is not None:
            text = masked_text(error.message) if isinstance(error, SampanError) else "context canceled"
            record.error.CopyFrom(status_message(code_of(error), text, details_of(error)))
        blobs: list[str] = []
        try:
            data = stream(build.log.responses)
            self._describe(record.logs, STATUS_TYPE, data, blobs)
            if error is None:
                self._result(record, build, attrs, built, ended, blobs)
            self._history.add(record, blobs)
        except OSError as e:
            log.warning("the history of build %s is lost: %s", build.ref, e)

    def _result(
        self,
        record: pb.BuildHistoryRecord,
        build: Build,
        attrs: Mapping[str, str],
        built: Built,
        ended_ns: int,
        blobs: list[str],
    ) -> None:
        if built.image_id:
            image = pb.Descriptor(media_type=IMAGE_TYPE, digest=built.image_id, size=1)
            record.Result.ResultDeprecated.CopyFrom(image)
            record.Result.Results[0].CopyFrom(image)
        document = provenance.predicate(
            attrs=_shown(attrs),
            vertices=[step.vertex for step in build.log.steps.values() if step.vertex is not None],
            platform=str(worker.platforms()[0]),
            started=times.rfc3339_nano(build.started_ns),
            finished=times.rfc3339_nano(ended_ns),
            invocation=build.ref,
        )
        described = record.Result.Attestations.add()
        self._describe(described, PROVENANCE_TYPE, document, blobs)
        described.annotations["in-toto.io/predicate-type"] = provenance.PREDICATE

    def _describe(self, descriptor: pb.Descriptor, type: str, data: bytes, blobs: list[str]) -> None:
        descriptor.media_type, descriptor.size, descriptor.digest = type, len(data), self._history.write(data)
        blobs.append(descriptor.digest)


def _shown(attrs: Mapping[str, str]) -> dict[str, str]:
    """A frontend's options without the credentials in them: of URLs, and of cache sources."""
    hidden = {"cache-imports", "cache-from"}
    return {name: masked_text(value) for name, value in attrs.items() if name not in hidden}


def _exporters(request: pb.SolveRequest) -> list[pb.Exporter]:
    """A client's exporters; older ones name a single one in fields of its own."""
    if request.Exporters:
        return list(request.Exporters)
    if request.ExporterDeprecated:
        return [pb.Exporter(Type=request.ExporterDeprecated, Attrs=request.ExporterAttrsDeprecated)]
    return []
