"""The volumes of one engine: records, who uses what, and which driver a volume is of.

Where the data lies the drivers decide (drivers/).

Who holds a volume is asked of the store (`volume:<name>`) and of the claims of containers that are being made; which
containers have one mounted right now is kept here.

One lock a volume: whoever makes, fills, mounts, unmounts or removes it has it to itself, so two first users mount once,
and nobody sees a volume half filled. A driver is given a limit of time for each answer. Looks at file systems that are
not the engine's own are those of `HostPaths`.

Invariants: a record exists only with its volume; a removal marks the record first, so one that was interrupted is
finished at the next start.

Source: Engine API 1.51, tag Volume; moby 28.5 volume/service for the words.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from msgspec.structs import replace

from sampan.engine.background import thread_to_its_end
from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.hostpaths import WALK_PATIENCE_S, WALKS, HostPaths
from sampan.engine.store import Ref, Store
from sampan.engine.volumes.drivers.choice import DEFAULT, DRIVERS, DriverFactory
from sampan.engine.volumes.drivers.driver import VolumeDriver
from sampan.engine.volumes.filling import Filling
from sampan.engine.volumes.records import ANONYMOUS_LABEL, Volume
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound, SampanError, Unavailable, words
from sampan.linux import mounts, saferoot
from sampan.linux.syscalls import AT_EMPTY_PATH, AT_RECURSIVE
from sampan.spec import go_values, times

log = logging.getLogger("sampan.volumes")

LIST_FILTERS = frozenset({"dangling", "driver", "label", "name"})
PRUNE_FILTERS = frozenset({"all", "label", "label!"})
DRIVER_LIMIT_S = 120.0
Filters = Mapping[str, Iterable[str]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedVolume:
    """What of a volume goes into a container: `fd` is a detached mount of it, the caller's; `path` is for messages."""

    path: str
    fd: int


class Volumes:
    """The volume service. Use on the event loop's thread."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        events: Events,
        host_paths: HostPaths,
        drivers: Mapping[str, DriverFactory] = DRIVERS,
        *,
        driver_limit_s: float = DRIVER_LIMIT_S,
    ) -> None:
        self._store, self._events = store, events
        self._host_paths = host_paths
        self._walks = HostPaths(WALKS, WALK_PATIENCE_S)
        self._drivers = {name: make(config, host_paths) for name, make in drivers.items()}
        self._driver_limit_s = driver_limit_s
        self._table = store.table("volumes", Volume)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._users: dict[str, set[str]] = {}
        self._claims: dict[str, set[str]] = {}  # containers that are being made
        self.making: set[str] = set()  # names whose directory may be there before their record

    async def start(self) -> None:
        """Start the drivers; finish removals that were interrupted."""
        for name, driver in self._drivers.items():
            mine = [v for v in self._table.all() if v.driver == name]
            await driver.start([v for v in mine if not v.removing])
            for volume in mine:
                if volume.removing:
                    await self._finish_removal(driver, volume)

    async def _finish_removal(self, driver: VolumeDriver, volume: Volume) -> None:
        try:
            await self._ask("remove", volume, driver.remove(volume))
        except SampanError as e:
            log.error("a volume stays half removed: %s", e.message)
            return
        await self._store.apply(self._table.delete(volume.id))

    async def close(self) -> None:
        """Wait for deletions under way."""
        self._walks.close()
        for driver in self._drivers.values():
            await driver.close()

    # --- drivers -----------------------------------------------------------------------------------------------------

    def driver_names(self) -> Sequence[str]:
        """Return the names of the drivers that volumes may be made with."""
        return sorted(self._drivers)

    def check_driver(self, volume: str, driver: str) -> None:
        """Refuse a driver that is not here. Raises NotFound in Docker's words."""
        self._driver("create", volume, driver or DEFAULT)

    def _driver(self, verb: str, volume: str, name: str) -> VolumeDriver:
        """Return a driver by name. Raises NotFound in Docker's words."""
        found = self._drivers.get(name)
        if found is None:
            raise NotFound(f'{verb} {volume}: error looking up volume plugin {name}: plugin "{name}" not found')
        return found

    def _driver_of(self, verb: str, volume: Volume) -> VolumeDriver:
        return self._driver(verb, volume.name, volume.driver)

    async def _ask(self, verb: str, volume: Volume, answer: Awaitable[T]) -> T:
        """Wait for a driver, but not for ever. Raises the SampanError that it raises, Internal, Unavailable."""
        limit = asyncio.timeout(self._driver_limit_s)
        try:
            async with limit:
                return await answer
        except OSError as e:  # TimeoutError is one
            if not limit.expired():
                raise Internal(f"{verb} {volume.name}: {words(e)}") from e
            raise Unavailable(
                f"{verb} {volume.name}: the volume driver {volume.driver} has not answered for"
                f" {self._driver_limit_s:g} seconds"
            ) from e

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    # --- looking -----------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Volume | None:
        """Return a volume's record."""
        return self._table.get(name)

    def lookup(self, name: str) -> Volume:
        """Return a volume's record. Raises NotFound in Docker's words."""
        found = self._table.get(name)
        if found is None:
            raise NotFound(f"get {name}: no such volume")
        return found

    def path(self, name: str) -> str:
        """Return where the volume's data is as far as is known without asking, or "". Raises NotFound."""
        volume = self.lookup(name)
        return self._driver_of("get", volume).path(volume)

    def inspect(self, volume: Volume) -> dict[str, Any]:
        """Return Docker's JSON of a volume, from its record alone."""
        driver = self._drivers.get(volume.driver)
        return {
            "CreatedAt": volume.created_at,
            "Driver": volume.driver,
            "Labels": volume.labels,
            "Mountpoint": volume.mountpoint,
            "Name": volume.name,
            "Options": volume.options,
            "Scope": driver.capabilities.scope if driver is not None else "local",
        }

    async def describe(self, volume: Volume) -> dict[str, Any]:
        """Return Docker's JSON of a volume with what its driver says of it. Raises NotFound (driver), Unavailable."""
        driver = self._driver_of("get", volume)
        status = await self._ask("get", volume, driver.describe(volume))
        return {**self.inspect(volume), **({"Status": dict(status)} if status else {})}

    def list(self, filters: Filters | None = None) -> Sequence[Volume]:
        """Return the volumes that pass the filters, by name. Raises InvalidArgument for a bad `dangling`."""
        chosen = {key: set(values) for key, values in (filters or {}).items()}
        dangling = _one_bool("dangling", chosen["dangling"]) if chosen.get("dangling") else None
        found = [v for v in self._table.all() if _matches(v, chosen)]
        if dangling is not None:
            found = [v for v in found if bool(self.holders(v.name)) is not dangling]
        return sorted(found, key=lambda v: v.name)

    def holders(self, name: str) -> tuple[str, ...]:
        """Return the ids of the containers that refer to a volume, running or not, or still being made."""
        return tuple(sorted({h.id for h in self._store.holders(Ref("volume", name))} | self._claims.get(name, set())))

    def measured(self) -> Mapping[str, str]:
        """Return {name: directory} of the volumes whose data takes space in the data root."""
        mine = [v for v in self._table.all() if self._is_measured(v)]
        return {v.name: os.path.dirname(v.mountpoint) for v in mine}

    def _is_measured(self, volume: Volume) -> bool:
        driver = self._drivers.get(volume.driver)
        return driver is not None and driver.capabilities.measured and bool(volume.mountpoint)

    async def usage(self, volumes: Iterable[Volume] | None = None) -> Sequence[dict[str, Any]]:
        """Return volumes with their size in bytes and reference count, for `docker system df`."""
        chosen = sorted(self._table.all() if volumes is None else volumes, key=lambda v: v.name)
        sizes = await self._sizes(chosen)
        return [
            {**self.inspect(v), "UsageData": {"RefCount": len(self.holders(v.name)), "Size": size}}
            for v, size in zip(chosen, sizes, strict=True)
        ]

    async def _sizes(self, volumes: Sequence[Volume]) -> Sequence[int]:
        """Return the size of each volume in bytes, -1 for one that cannot be measured."""
        return await asyncio.gather(*(self._size(v) for v in volumes))

    async def _size(self, volume: Volume) -> int:
        if not self._is_measured(volume):
            return -1
        path = volume.mountpoint
        try:
            threads = self._host_paths if volume.options else self._walks
            return await threads.run(path, partial(size_bytes, path))
        except Unavailable:
            return -1

    # --- making and removing -----------------------------------------------------------------------------------------

    async def get_or_create(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        anonymous: bool = False,
        claimant: str = "",
    ) -> Volume:
        """Return the volume of this name, made if it is missing; an existing one stays as it is.

        name "": a new anonymous volume. claimant: a container that is being made; it holds the volume from here on
        until `let_go`. Raises InvalidArgument, NotFound (driver), Conflict (of another driver), Internal, Unavailable.
        """
        if not name:
            name, anonymous = secrets.token_hex(32), True
        async with self._lock(name):
            volume = self._table.get(name)
            made = volume is None
            if volume is None:
                volume = await self._make(name, driver or DEFAULT, options, labels, anonymous=anonymous)
            elif driver not in ("", volume.driver):
                raise Conflict(f"create {name}: conflict: volume name must be unique")
            if claimant:
                self._claims.setdefault(name, set()).add(claimant)
        if made:
            self._events.publish("volume", "create", name, {"driver": volume.driver})
        return volume

    async def _make(
        self,
        name: str,
        driver_name: str,
        options: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
        *,
        anonymous: bool,
    ) -> Volume:
        driver = self._driver("create", name, driver_name)
        driver.check(name, options or {})
        marked = {**(labels or {}), ANONYMOUS_LABEL: ""} if anonymous else labels
        volume = Volume(
            id=name,
            driver=driver_name,
            options=None if options is None else dict(options),
            labels=None if marked is None else dict(marked),
            created_at=times.rfc3339(time.time_ns()),
        )
        self.making.add(name)
        try:
            mountpoint = await self._ask("create", volume, driver.create(volume))
            volume = replace(volume, mountpoint=mountpoint)
            await self._store.apply(self._table.put(volume))
        finally:
            self.making.discard(name)
        return volume

    def let_go(self, name: str, claimant: str) -> None:
        """End the claim of a container. Idempotent.

        It has been made, and the store says what it holds, or it never will be.
        """
        claims = self._claims.get(name, set())
        claims.discard(claimant)
        if not claims:
            self._claims.pop(name, None)

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume that nobody holds. With `force` a missing one is fine.

        Raises NotFound, Conflict, Internal, Unavailable.
        """
        async with self._lock(name):
            volume = self._table.get(name)
            if volume is None:
                if force:
                    return
                raise NotFound(f"get {name}: no such volume")
            holders = self.holders(name)
            if holders:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(holders)}]")
            driver = self._driver_of("remove", volume)
            self._users.pop(name, None)
            # the mark first: whoever is killed between the two next leaves a removal that the next start finishes
            self._store.apply_now(self._table.put(replace(volume, removing=True)))
            try:
                await self._ask("remove", volume, driver.remove(volume))
            except BaseException:
                self._store.apply_now(self._table.put(volume))
                raise
            await self._store.apply(self._table.delete(name))
        self._events.publish("volume", "destroy", name, {"driver": volume.driver})

    async def prune(self, filters: Filters | None = None, *, named: bool = False) -> tuple[Sequence[str], int]:
        """Remove what nobody holds: anonymous volumes, and named ones with `all=true` or `named`.

        Returns (names, bytes). Raises InvalidArgument for a bad `all`.
        """
        chosen = {key: set(values) for key, values in (filters or {}).items()}
        if chosen.get("all"):
            named = named or _go_bool("all", chosen["all"])
        candidates = [
            v for v in self._table.all() if (named or v.anonymous) and not self.holders(v.name) and _matches(v, chosen)
        ]
        sizes = await self._sizes(candidates)
        removed, reclaimed = [], 0
        for volume, size in zip(candidates, sizes, strict=True):
            try:
                await self.remove(volume.name, force=True)
            except Conflict:
                continue  # somebody took it meanwhile
            removed.append(volume.name)
            reclaimed += max(size, 0)
        self._events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return removed, reclaimed

    # --- using -------------------------------------------------------------------------------------------------------

    async def mount(self, name: str, container_id: str, *, subpath: str = "", recursive: bool = True) -> MountedVolume:
        """Make a volume ready for a container that starts; return it as a detached mount, to be attached there.

        subpath: a directory or file inside the volume, resolved so that no symlink leads out of it. recursive: with
        what is mounted below. The caller publishes the event. Raises NotFound, InvalidArgument (subpath), Internal when
        the filesystem cannot be mounted, Unavailable.
        """
        async with self._lock(name):
            volume = self.lookup(name)
            if volume.filling:  # a copy that was interrupted: from now on what is there may be a user's
                self._store.apply_now(self._table.put(replace(volume, filling=False)))
            async with self._mounted(volume, container_id) as source:
                return await self._clone(volume, source, subpath, recursive)

    @contextlib.asynccontextmanager
    async def _mounted(self, volume: Volume, user: str) -> AsyncIterator[str]:
        """Have a volume mounted for a user, whose it stays unless the block fails; yields where it is."""
        driver = self._driver_of("mount", volume)
        users = self._users.get(volume.name, set())
        known = user in users
        try:
            source = await self._ask("mount", volume, driver.mount(volume, user))
            self._users.setdefault(volume.name, set()).add(user)
            yield source
        except BaseException:
            if not known:
                await self._unmount(volume, user)
            raise

    async def _clone(self, volume: Volume, source: str, subpath: str, recursive: bool) -> MountedVolume:
        try:
            if self._is_measured(volume) and not volume.options and not subpath:
                fd = clone(source, "", recursive)
            else:  # a file system that is not ours may not answer
                fd = await self._host_paths.run(source, partial(clone, source, subpath, recursive), os.close)
        except OSError as e:
            raise Internal(f"error while mounting volume '{volume.mountpoint}': {words(e)}") from e
        return MountedVolume(path=os.path.join(source, subpath) if subpath else source, fd=fd)

    async def unmount(self, name: str, container_id: str) -> None:
        """Take note that a container has stopped using a volume. Idempotent."""
        async with self._lock(name):
            volume = self._table.get(name)
            if volume is not None and container_id in self._users.get(name, ()):
                await self._unmount(volume, container_id)

    async def _unmount(self, volume: Volume, user: str) -> None:
        users = self._users.get(volume.name, set())
        users.discard(user)
        if not users:
            self._users.pop(volume.name, None)
        try:
            driver = self._driver_of("unmount", volume)
            await self._ask("unmount", volume, driver.unmount(volume, user, last=not users))
        except SampanError as e:
            log.warning("cannot unmount volume %s: %s", volume.name, e.message)

    def adopt(self, name: str, container_id: str) -> None:
        """Remember, after a restart of the daemon, that a running container uses a volume."""
        self._users.setdefault(name, set()).add(container_id)

    async def fill(self, name: str, container_id: str, root_fd: int, path: str, *, subpath: str = "") -> None:
        """Fill an empty volume, or an empty directory in it, with what the image has at `path` below an open root.

        Nothing to do: what the image does not have there, and a subpath that the volume does not have. The container
        uses the volume meanwhile. Raises NotFound, Unavailable, Internal with nothing copied.
        """
        async with self._lock(name):
            volume = self.lookup(name)
            with contextlib.closing(Filling()) as filling:
                try:
                    if not await thread_to_its_end(partial(filling.open_source, root_fd, path)):
                        return
                    async with self._mounted(volume, container_id) as source:
                        await self._fill(volume, filling, source, subpath)
                    await self._unmount(volume, container_id)
                except OSError as e:
                    raise Internal(f"failed to populate volume: copying {path} into {name}: {words(e)}") from e
                except Internal as e:
                    raise Internal(f"failed to populate volume: {e.message}") from e

    async def _fill(self, volume: Volume, filling: Filling, source: str, subpath: str) -> None:
        if not await self._host_paths.run(source, partial(filling.open_target, source, subpath)):
            return
        nobodys = len(self._users[volume.name]) == 1 and not self._store.holders(Ref("volume", volume.name))
        if volume.filling and nobodys:  # the engine was killed in the midst of it
            await thread_to_its_end(filling.clear)
        if not await thread_to_its_end(filling.is_empty):
            return
        self._store.apply_now(self._table.put(replace(volume, filling=True)))
        try:
            await thread_to_its_end(filling.copy)
        finally:
            self._store.apply_now(self._table.put(replace(volume, filling=False)))


def clone(source: str, subpath: str, recursive: bool) -> int:
    """Clone the mount of a directory, or of what is at a subpath inside it: what was found is what will be mounted.

    Nothing of it is ever looked up again, so a container that exchanges names in a volume meanwhile changes nothing.
    Raises: InvalidArgument for a subpath that leaves the volume, NotFound, OSError.
    """
    below = os.path.normpath(subpath) if subpath else ""
    if os.path.isabs(below) or below.split("/")[0] == "..":
        raise InvalidArgument(f"subpath must be a relative path within the volume: {subpath}")
    root = os.open(source, os.O_PATH | os.O_CLOEXEC | (os.O_DIRECTORY if subpath else 0))
    try:
        if not subpath:
            return _clone_at(root, recursive)
        try:
            fd = saferoot.open_beneath(root, below)
        except OSError as e:
            if e.errno == errno.EXDEV:
                raise InvalidArgument(
                    f"path concatenation escapes the base directory, base: {source}, subpath: {subpath}"
                ) from e
            kind = NotFound if e.errno in (errno.ENOENT, errno.ENOTDIR) else InvalidArgument
            raise kind(f"cannot access path {source}/{subpath}: {words(e)}") from e
        try:
            return _clone_at(fd, recursive)
        finally:
            os.close(fd)
    finally:
        os.close(root)


def _clone_at(fd: int, recursive: bool) -> int:
    return mounts.open_tree(fd, b"", mounts.OPEN_TREE_CLONE | AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0))


def size_bytes(path: str) -> int:
    """Add up the sizes of the regular files below a directory, each inode once; -1 when it cannot be read."""
    total, seen = 0, set()
    stack = [path]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        info = entry.stat(follow_symlinks=False)
                        if (info.st_dev, info.st_ino) not in seen:
                            seen.add((info.st_dev, info.st_ino))
                            total += info.st_size
        except FileNotFoundError:
            continue
        except OSError:
            return -1
    return total


def _matches(volume: Volume, filters: Mapping[str, set[str]]) -> bool:
    labels = volume.labels or {}
    if filters.get("name") and not any(part in volume.name for part in filters["name"]):
        return False
    if filters.get("driver") and volume.driver not in filters["driver"]:
        return False
    if not all(_has_label(labels, wanted) for wanted in filters.get("label", ())):
        return False
    return not any(_has_label(labels, unwanted) for unwanted in filters.get("label!", ()))


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def _one_bool(name: str, values: set[str]) -> bool:
    truths = {v in ("1", "true") for v in values if v in ("0", "1", "true", "false")}
    if len(truths) != 1 or len(values) > 2:
        raise InvalidArgument(f"invalid filter '{name}=[{' '.join(sorted(values, reverse=True))}]'")
    return truths.pop()


def _go_bool(name: str, values: set[str]) -> bool:
    if len(values) > 1:
        raise InvalidArgument(f"invalid filter '{name}=[{' '.join(sorted(values))}]': only one value is expected")
    try:
        return True in {go_values.boolean(value) for value in values}
    except ValueError as e:
        raise InvalidArgument(f"invalid filter '{name}': {e}") from e
