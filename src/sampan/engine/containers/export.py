"""`docker export`, `docker diff` and `docker commit`: the images service does the work, containers say on what.

Source: Engine API 1.51, ContainerExport, ContainerChanges, ImageCommit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sampan.engine.containers.lifecycle import Lifecycle
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.records import Container
from sampan.engine.containers.states import State
from sampan.engine.containers.table import ContainerTable
from sampan.engine.events import Events
from sampan.engine.images.service import Images
from sampan.engine.layers.roots import Roots
from sampan.errors import Conflict, SampanError
from sampan.spec.engine_api.container import ContainerConfig
from sampan.spec.reference import parse, with_tag


class Exports:
    """What leaves a container as an archive or an image."""

    def __init__(
        self, table: ContainerTable, images: Images, roots: Roots, events: Events, lifecycle: Lifecycle
    ) -> None:
        self._table = table
        self._images = images
        self._roots = roots
        self._events = events
        self._lifecycle = lifecycle

    async def export(self, ref: str) -> AsyncIterator[bytes]:
        """Return the container's file system as a tar archive."""
        c = self._table.get(ref)
        if c.status.state in (State.REMOVING, State.DEAD):
            raise Conflict(f"You cannot export container {c.id} which is {c.status.state.value}")
        chunks = self._roots.export(c.id)
        publish(self._events, c, "export")
        return chunks

    async def changes(self, ref: str) -> list[dict[str, Any]] | None:
        """Return what the container changed, None when nothing."""
        c = self._table.get(ref)
        found = await self._roots.changes(c.id)
        return [{"Path": path, "Kind": kind} for kind, path in found] or None

    async def commit(
        self,
        ref: str,
        config: ContainerConfig | None,
        *,
        repo: str = "",
        tag: str = "",
        comment: str = "",
        author: str = "",
        pause: bool = True,
        changes: list[str] | None = None,
    ) -> str:
        """Make an image of the container; a running one is paused meanwhile. Returns the image's id."""
        if repo:
            parse(repo)  # before the container is looked for, as Docker does
        c = self._table.get(ref)
        if c.status.state in (State.REMOVING, State.DEAD):
            raise Conflict(f"You cannot commit container {c.id} which is {c.status.state.value}")
        pauses = pause and c.status.state is State.RUNNING and await self._pause(c)
        try:
            return await self._commit(c, config, repo, tag, comment, author, changes or [])
        finally:
            if pauses:
                await self._resume(c)

    async def _commit(
        self,
        c: Container,
        config: ContainerConfig | None,
        repo: str,
        tag: str,
        comment: str,
        author: str,
        changes: list[str],
    ) -> str:
        parent = self._images.resolve(c.image_id) if c.image_id else None
        id = await self._images.commit(
            c.id,
            config=config,
            container_config=c.config,
            comment=comment,
            author=author,
            parent=parent,
            repo=repo,
            tag=tag,
            changes=changes,
        )
        ref = with_tag(parse(repo), tag or "latest").familiar() if repo else ""
        publish(self._events, c, "commit", comment=comment, imageID=id, imageRef=ref)
        return id

    async def _pause(self, c: Container) -> bool:
        """Freeze the container; False when it is just ending, or frozen by somebody else, which is as good."""
        try:
            await self._lifecycle.pause(c.id)
        except SampanError:
            return False
        return True

    async def _resume(self, c: Container) -> None:
        try:
            await self._lifecycle.unpause(c.id)
        except SampanError:
            pass  # it ended, or somebody resumed it meanwhile
