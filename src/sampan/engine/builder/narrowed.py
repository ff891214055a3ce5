"""The client of one build as its steps see it: of its directories only what the build uses."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sampan.engine.builder.session import Forwarding, LocalRequest, Session
from sampan.engine.builder.trees import Tree

ALL = "/"


class NarrowedSession(Forwarding):
    """A session that knows which paths of each context a build needs.

    `paths` may grow until the context is asked for.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.paths: dict[str, tuple[str, ...]] = {}
        self.owned: list[Tree] = []
        """Trees that are closed when the build has ended."""

    async def local(self, wanted: LocalRequest) -> Tree:
        used = self.paths.get(wanted.name, ())
        if not wanted.follow and used and ALL not in used:
            wanted = replace(wanted, follow=tuple(path.lstrip("/") for path in used))
        return await super().local(wanted)

    async def close(self) -> None:
        """Close the trees that go with the build."""
        for tree in self.owned:
            await asyncio.to_thread(tree.close)
