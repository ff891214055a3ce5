"""BuildKit's door to the builder: sessions, builds with their status, history. The gRPC services call it.

Not here: the services and their messages (services.py, control.py, gateway.py), one build from request to result
(running.py), the wire (server.py; clients/http2.py for connections of which the engine is the client).
Source: BuildKit's API as Docker Engine 28.5.2 serves it to buildx 0.29.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence

from sampan.engine.builder.buildkit import listing, usage, worker
from sampan.engine.builder.buildkit.builds import Build, Builds
from sampan.engine.builder.buildkit.history import History
from sampan.engine.builder.buildkit.options import FRONTENDS, Asked
from sampan.engine.builder.buildkit.protos import control_pb2, gateway_pb2, ops_pb2, worker_pb2
from sampan.engine.builder.buildkit.reading import Reading
from sampan.engine.builder.buildkit.running import Running
from sampan.engine.builder.clients.sessions import GrpcSession, SessionInfo, Sessions
from sampan.engine.builder.request import CacheEnd
from sampan.engine.builder.service import Builder
from sampan.engine.builder.solver.cache import KeptSources
from sampan.engine.config import EngineConfig, engine_id
from sampan.engine.networks.service import Networks
from sampan.engine.platforms import Platform
from sampan.engine.store import Store
from sampan.errors import InvalidArgument, NotFound, NotImplemented_
from sampan.spec.buildkit.filesync_pb2 import Stat


class Door:
    """One engine's BuildKit. `start` it once; `close` ends its sessions."""

    def __init__(self, config: EngineConfig, store: Store, networks: Networks, builder: Builder) -> None:
        self._config = config
        self._builder = builder
        self._networks = networks
        self.sessions: Sessions = builder.sessions
        self.builds = Builds()
        self.history = History(store, os.path.join(config.data_root, "builder", "history"))
        builder.solver.cache.kept.append(
            KeptSources(
                kind="internal",
                description="histories of builds",
                size_bytes=self.history.size_bytes,
                forget=self.history.forget,
                in_thread=False,
            )
        )
        self._running = Running(builder, self.sessions, self.builds, self.history)
        self._reading = Reading(builder, self.sessions, self.builds)

    def start(self) -> None:
        self.history.start()

    def attach(self, headers: Mapping[str, str], methods: Sequence[str]) -> GrpcSession:
        """Register the client of one `/session` connection. Raises: InvalidArgument."""
        id = headers.get("X-Docker-Expose-Session-Uuid", "")
        if not id:
            raise InvalidArgument("session id header missing")
        return self.sessions.add(
            SessionInfo(
                id=id,
                name=headers.get("X-Docker-Expose-Session-Name", ""),
                shared_key=headers.get("X-Docker-Expose-Session-Sharedkey", ""),
                methods=frozenset(methods),
            )
        )

    # ── what the builder is ──────────────────────────────────────────────────────────────────────────────────────────

    def worker(self) -> worker_pb2.WorkerRecord:
        root = self._config.data_root
        return worker.record(root, engine_id(root), self._host_gateway())

    def _host_gateway(self) -> str:
        """The address at which a build finds the host; "" without a default bridge."""
        if self._config.host_gateway_ips:
            return self._config.host_gateway_ips[0]
        try:
            subnets = self._networks.find("bridge").subnets
        except NotFound:
            return ""
        return next((s.gateway for s in subnets if s.gateway), "")

    async def disk_usage(self, filters: Sequence[str]) -> list[control_pb2.UsageRecord]:
        records = map(usage.record, await self._builder.solver.disk_usage())
        return [record for record in records if usage.matches(record, filters)]

    async def prune(self, request: control_pb2.PruneRequest, filters: Sequence[str]) -> list[control_pb2.UsageRecord]:
        """Remove what the cache can miss; returns what is gone."""
        records = list(map(usage.record, await self._builder.solver.disk_usage()))
        before = {record.ID: record for record in records}
        ids, _ = await self._builder.solver.prune(**usage.prune_arguments(request, filters, records))
        if request.all:
            self.sessions.packs.forget()
        return [before[id] for id in ids if id in before]

    # ── builds ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def solve(self, request: control_pb2.SolveRequest) -> dict[str, str]:
        """Run a build to its end; returns the exporters' answer. Raises: SampanError, GRPCError."""
        return await self._running.solve(request)

    async def status(self, ref: str) -> AsyncIterator[bytes]:
        """Status responses of a build that runs, is about to run, or has ended. Raises: NotFound."""
        if not self.builds.knows(ref) and self.history.get(ref) is not None:
            for response in self.history.responses(ref):
                yield response
            return
        build = await self.builds.get(ref)
        async for response in build.log.follow():
            yield response

    async def gateway_solve(self, build: Build, request: gateway_pb2.SolveRequest) -> gateway_pb2.Result:
        """Note what a client wants built, or answer its question about a Dockerfile."""
        if not request.Frontend:
            asked = Asked(session=build.session, inputs=self.builds.inputs({"context": request.Definition}))
        elif request.Frontend not in FRONTENDS:
            raise NotImplemented_(f"unknown frontend {request.Frontend}")
        else:
            asked = Asked(
                session=build.session,
                attrs={**build.attrs, **request.FrontendOpt},
                inputs=self.builds.inputs(request.FrontendInputs),
                imports=tuple(CacheEnd(type=one.Type, attrs=dict(one.Attrs)) for one in request.CacheImports),
            )
            if asked.request_id:
                metadata = await self._running.answer(build, asked)
                return gateway_pb2.Result(ref=gateway_pb2.Ref(), metadata=metadata)
        id, definition = self.builds.note(asked)
        return gateway_pb2.Result(ref=gateway_pb2.Ref(id=id, **{"def": definition}))

    def returned(self, result: gateway_pb2.Result) -> Asked | None:
        """Return what a client's result stands for; None for nothing. Raises: NotFound."""
        refs = [result.ref] if result.HasField("ref") else list(result.refs.refs.values())
        ids = [ref.id for ref in refs if ref.id] or ([result.refDeprecated] if result.refDeprecated else [])
        return self.builds.asked(ids[0]) if ids else None

    async def resolve(
        self, build: Build, ref: str, platform: ops_pb2.Platform, *, pull: bool
    ) -> tuple[str, str, bytes]:
        """Return (reference, digest, configuration) of an image."""
        wanted = Platform(platform.OS, platform.Architecture, platform.Variant)
        return await self._reading.resolve(build, ref, wanted if wanted.os else worker.platforms()[0], pull=pull)

    async def read_file(self, build: Build, ref: str, path: str) -> bytes:
        return await self._reading.file(build, ref, path)

    async def read_directory(self, build: Build, ref: str, path: str, pattern: str) -> list[Stat]:
        return await self._reading.directory(build, ref, path, pattern)

    async def stat_file(self, build: Build, ref: str, path: str) -> Stat:
        return await self._reading.stat(build, ref, path)

    async def evaluate(self, build: Build, ref: str) -> None:
        """Refuse a reference that is not known; a known one is built when the client returns it. Raises: NotFound."""
        self.builds.asked(ref)

    # ── history ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def history_events(
        self, request: control_pb2.BuildHistoryRequest
    ) -> AsyncIterator[control_pb2.BuildHistoryEvent]:
        """Yield the builds that run, those that have ended unless only the first are wanted, then what happens.

        The stream ends before the last part when the client asks for that.
        """
        wanted = listing.wanted(request)
        active = [self._running.started(build) for build in self.builds.running()]
        for record in filter(wanted, active):
            yield control_pb2.BuildHistoryEvent(type=control_pb2.STARTED, record=record)
        if not request.ActiveOnly:
            done = list(filter(wanted, self.history.all()))
            for record in done[-request.Limit :] if request.Limit else done:
                yield control_pb2.BuildHistoryEvent(type=control_pb2.COMPLETE, record=record)
        if not request.EarlyExit:
            async for event in self.history.listen(wanted):
                yield event

    def close(self) -> None:
        """End every session; the builds that need one fail."""
        self.sessions.close()
