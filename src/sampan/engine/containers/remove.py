"""Unmaking a container: remove, and the removals that nobody asked for by name (--rm, after a crash).

The record is marked first, so that a removal that is interrupted is resumed at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from msgspec.structs import replace

from sampan.engine.config import EngineConfig
from sampan.engine.containers.attach import PendingSessions
from sampan.engine.containers.exec import Execs
from sampan.engine.containers.launch import Launcher
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.records import Container, MountPoint, with_status
from sampan.engine.containers.states import State, Trigger
from sampan.engine.containers.stopping import Stopper
from sampan.engine.containers.table import ContainerTable, next_state
from sampan.engine.containers.waiting import ExitWaiters
from sampan.engine.events import Events
from sampan.engine.images.service import Images
from sampan.engine.layers.roots import Roots
from sampan.engine.layers.snapshots.trash import discard
from sampan.engine.store import Ref
from sampan.engine.volumes.service import Volumes
from sampan.errors import Conflict, Internal, SampanError

LOOK_S = 0.3
"""How long a container stays after its die event when somebody has heard it."""
_ATTEMPTS = 5  # of a forced removal against starts that come in between


class ContainerRemover:
    """Removes containers with what they have on the disk."""

    def __init__(
        self,
        config: EngineConfig,
        table: ContainerTable,
        launcher: Launcher,
        events: Events,
        images: Images,
        roots: Roots,
        volumes: Volumes,
        execs: Execs,
        stopper: Stopper,
        waiting: ExitWaiters,
        pending: PendingSessions,
    ) -> None:
        self._config = config
        self._table = table
        self._launcher = launcher
        self._events = events
        self._images = images
        self._roots = roots
        self._volumes = volumes
        self._execs = execs
        self._stopper = stopper
        self._waiting = waiting
        self._pending = pending
        self._told: dict[str, float] = table.live.notes({})  # when somebody heard of its end: time.monotonic()

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
        """Remove a container; force kills it first, volumes takes its anonymous volumes with it.

        link: `ref` is the name of a link, `container/alias`, and only that goes.
        """
        c = self._table.get(ref)
        if link:
            await self._launcher.links.unlink(ref)
            return
        if c.status.state is State.REMOVING and self._table.live.lock(c.id).locked():
            raise Conflict(f"removal of container {ref} is already in progress")
        for _ in range(_ATTEMPTS):
            if c.active:
                if not force:
                    raise _still_active(ref, c)
                await self._stopper.kill_and_wait(c)
            await self._let_listeners_look(c.id)
            async with self._table.live.lock(c.id):
                now = self._table.find(c.id)
                if now is None:  # --rm or another client was faster: it is as the caller wanted it, but for this
                    if volumes:
                        await self._remove_volumes(c)
                    return
                if not now.active:
                    await self._remove_locked(now, volumes=volumes)
                    return
                c = now  # a start was under way
        raise _still_active(ref, c)

    def told(self, id: str, listeners: int) -> None:
        """Note that an end has just been told to so many listeners."""
        if listeners:
            self._told[id] = time.monotonic()

    async def _let_listeners_look(self, id: str) -> None:
        """Keep a container for a moment after its die event, if somebody has heard that.

        Who is told of its end asks next how it ended, as `docker compose up` does; Docker's own removal takes longer
        than that. When nobody has heard it, nobody waits.
        """
        async with self._table.live.lock(id):  # an end that is being recorded has been told then
            told_at = self._told.get(id)
        if told_at is not None and (left_s := told_at + LOOK_S - time.monotonic()) > 0:
            await asyncio.sleep(left_s)

    async def _remove_locked(self, c: Container, *, volumes: bool) -> None:
        c = with_status(c, state=next_state(c, Trigger.REMOVE), pid=0)
        c = await self._table.save(replace(c, removal={"volumes": volumes}))
        try:
            await self._unmake(c, volumes=volumes)
        except (SampanError, OSError) as e:
            text = e.message if isinstance(e, SampanError) else str(e)
            await self._table.save(with_status(c, state=next_state(c, Trigger.REMOVE_FAILED), error=text))
            raise Internal(f"container {c.id}: cannot remove: {text}") from e
        self._pending.abandon(c.id)
        publish(self._events, c, "destroy")
        self._waiting.removed(c.id, (c.status.exit_status, ""))

    async def _unmake(self, c: Container, *, volumes: bool) -> None:
        _to_trash(self._config.data_root, self._launcher.directory(c.id), c.id)
        self._roots.remove(c.id, self._images.unclaim(c.id))  # wakes the one who empties the trash
        store = self._table.store
        self._execs.forget(c.id)
        await self._table.delete(c, store.release(Ref("container", c.id)))
        if volumes:
            await self._remove_volumes(c)

    async def _remove_volumes(self, c: Container) -> None:
        """Remove the anonymous volumes of a container that is no more, those that no other one holds."""
        for m in c.mounts:
            if m.type == "volume" and self._is_anonymous(m) and not self._volumes.holders(m.name):
                with contextlib.suppress(SampanError):
                    await self._volumes.remove(m.name)

    def _is_anonymous(self, m: MountPoint) -> bool:
        volume = self._volumes.get(m.name)
        return volume is not None and volume.anonymous

    def discard_directory(self, name: str) -> None:
        """Throw away the directory of a container that has no record."""
        _to_trash(self._config.data_root, self._launcher.directory(name), name)

    async def auto_remove(self, id: str) -> None:
        """Remove a --rm container that has ended, with its anonymous volumes."""
        await self._let_listeners_look(id)
        async with self._table.live.lock(id):
            c = self._table.find(id)
            if c is not None and not c.active:  # else it is removed already, or was started again
                await self._remove_locked(c, volumes=True)

    def was_removed(self, c: Container) -> bool:
        """Tell whether all that a container has on the disk is gone: it was removed, and power loss took only the note.

        Its directory goes first, then its snapshot, then its record; the disk may keep what came later and lose what
        came before, as the record is in a database and the others are names in directories.
        """
        return not os.path.isdir(self._launcher.directory(c.id)) and self._roots.is_lost(c.id)

    async def resume_removal(self, c: Container) -> None:
        """Finish a removal that a crash interrupted, whatever the record says that the container did."""
        async with self._table.live.lock(c.id):
            now = self._table.find(c.id)
            if now is None:
                return
            if now.active:
                now = with_status(now, state=next_state(now, Trigger.EXIT), pid=0)
            await self._remove_locked(now, volumes=now.removal.get("volumes", False))


def _still_active(ref: str, c: Container) -> Conflict:
    advice = (
        " and must be unpaused first"
        if c.status.state is State.PAUSED
        else ": stop the container before removing or force remove"
    )
    return Conflict(f'cannot remove container "{ref}": container is {c.status.state.value}{advice}')


def _to_trash(data_root: str, directory: str, id: str) -> None:
    """Rename away, so that nobody waits for unlink; the images service reaps the trash."""
    trash = f"{data_root}/trash"
    os.makedirs(trash, mode=0o700, exist_ok=True)
    discard(directory, f"{trash}/container-{id}")
