"""Builder: one build from a request to an exported image. What both doors and the composition root talk to.

Not here: the language (spec/dockerfile), the graph (graph/), running it (solver/), what clients see (classic/, buildkit/).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampan.engine.builder.graph.values import Resolved
from sampan.engine.builder.progress import Progress, Warning_
from sampan.engine.builder.request import BuildRequest, Built
from sampan.engine.builder.session import Session
from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.images.platforms import Platform
from sampan.engine.images.service import Images
from sampan.engine.networks.service import Networks
from sampan.engine.store import Store
from sampan.supervisor.client import Supervisor


class Builder:
    """The builder of one engine."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        events: Events,
        images: Images,
        networks: Networks,
        supervisor: Supervisor,
    ) -> None:
        self.config = config
        self.store = store
        self.events = events
        self.images = images
        self.networks = networks
        self.supervisor = supervisor

    async def start(self) -> None:
        """Recover the cache after whatever ended the last run."""

    async def close(self) -> None:
        """End what is under way."""

    async def build(self, request: BuildRequest, session: Session, progress: Progress) -> Built:
        """Build and export. Cancelling the task cancels the build. Raises: DockerfileError, StepFailed, SampanError."""
        raise NotImplementedError

    async def check(self, request: BuildRequest, session: Session) -> list[Warning_]:
        """The findings of the build checks, nothing is built (`--check`). Raises: DockerfileError."""
        raise NotImplementedError

    async def outline(self, request: BuildRequest, session: Session) -> dict[str, Any]:
        """What a target takes: arguments, secrets, keys, cache mounts (`--call=outline`)."""
        raise NotImplementedError

    async def targets(self, request: BuildRequest, session: Session) -> dict[str, Any]:
        """The stages that can be built (`--call=targets`)."""
        raise NotImplementedError

    async def resolve(
        self,
        ref: str,
        platform: Platform,
        session: Session,
        *,
        auth: Mapping[str, Any] | None = None,
        pull: bool = False,
    ) -> Resolved:
        """The configuration of an image, pulled if need be: for the gateway's ResolveImageConfig."""
        raise NotImplementedError
