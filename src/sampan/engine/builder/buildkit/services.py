"""BuildKit's API of one engine: the door, and the gRPC services that reach it.

What the composition root and the API hold.

POST /session ─▶ attach    ─▶ Sessions                          (the engine is the client on that connection)
POST /grpc    ─▶ protocol  ─▶ Control, Gateway, Content, Trace  (the engine is the server)
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from sampan.engine.builder.buildkit.content import ContentService, TraceService
from sampan.engine.builder.buildkit.control import ControlService
from sampan.engine.builder.buildkit.door import Door
from sampan.engine.builder.buildkit.gateway import GatewayService
from sampan.engine.builder.buildkit.server import GrpcServer
from sampan.engine.builder.clients.sessions import GrpcSession
from sampan.engine.builder.service import Builder
from sampan.engine.config import EngineConfig
from sampan.engine.networks.service import Networks
from sampan.engine.store import Store


class BuildKit:
    """One engine's BuildKit. `start` it once; `close` ends its sessions."""

    def __init__(self, config: EngineConfig, store: Store, networks: Networks, builder: Builder) -> None:
        self._door = Door(config, store, networks, builder)
        content = ContentService(self._door.history)
        self._grpc = GrpcServer([ControlService(self._door), GatewayService(self._door), content, TraceService()])

    def start(self) -> None:
        """Recover the history after the end of the last run. Blocking."""
        self._door.start()

    def protocol(self) -> asyncio.Protocol:
        """Return what serves one upgraded `/grpc` connection."""
        return self._grpc.protocol()

    def attach(self, headers: Mapping[str, str], methods: Sequence[str]) -> GrpcSession:
        """Register the client of one `/session` connection. Raises: InvalidArgument."""
        return self._door.attach(headers, methods)

    def close(self) -> None:
        """End every session; the builds that need one fail."""
        self._door.close()
