"""The volumes of one engine: records, directories, and who uses what.

Who holds a volume is asked of the store (`volume:<name>`); which containers have one mounted right now is kept here.
Blocking work (mounting, copying, deleting) runs in the default executor.

Invariants: a record exists only with its directory; a directory without a record is left alone (it may be the user's
only copy); removal renames into trash/ first, so a half-deleted volume never has a name.

Source: Engine API 1.51, tag Volume; moby 28.5 volume/service for the words.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.store import Store
from sampan.engine.volumes import copyup, local
from sampan.engine.volumes.records import ANONYMOUS_LABEL, Volume
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound
from sampan.linux import mounts, saferoot
from sampan.linux.syscalls import AT_EMPTY_PATH, AT_RECURSIVE

log = logging.getLogger("sampan.volumes")

LIST_FILTERS = frozenset({"dangling", "driver", "label", "name"})
PRUNE_FILTERS = frozenset({"all", "label", "label!"})
Filters = Mapping[str, Iterable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """What of a volume goes into a container: `fd` is a detached mount of it, the caller's; `path` names it in messages."""

    path: str
    fd: int


class Volumes:
    """The volume service. Use on the event loop's thread."""

    def __init__(self, config: EngineConfig, store: Store, events: Events) -> None:
        self._store, self._events = store, events
        self._root = os.path.join(config.data_root, "volumes")
        self._trash = os.path.join(config.data_root, "trash")
        self._table = store.table("volumes", Volume)
        self._lock = asyncio.Lock()
        self._users: dict[str, set[str]] = {}
        self.making: set[str] = set()  # names whose directory may be there before their record
        self._reaping: set[asyncio.Future[None]] = set()

    async def start(self) -> None:
        """Make the directories; forget records whose directory is gone; finish interrupted deletions."""
        os.makedirs(self._root, mode=0o711, exist_ok=True)
        os.makedirs(self._trash, mode=0o700, exist_ok=True)
        for volume in self._table.all():
            if volume.removing:
                self._discard(volume)
                await self._store.apply(self._table.delete(volume.id))
            elif not os.path.isdir(volume.mountpoint):
                log.error("volume %s has lost its directory %s: made anew, empty", volume.name, volume.mountpoint)
                self._make_directory(volume.mountpoint)
        for name in os.listdir(self._trash):
            if name.startswith("volume-"):
                self._reap(os.path.join(self._trash, name))

    async def close(self) -> None:
        """Wait for deletions under way."""
        if self._reaping:
            await asyncio.wait(self._reaping, timeout=5)

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
        """Return the directory that holds the volume's data. Raises NotFound."""
        return self.lookup(name).mountpoint

    def inspect(self, volume: Volume) -> dict[str, Any]:
        """Return Docker's JSON of a volume."""
        return {
            "CreatedAt": volume.created_at,
            "Driver": volume.driver,
            "Labels": volume.labels,
            "Mountpoint": volume.mountpoint,
            "Name": volume.name,
            "Options": volume.options,
            "Scope": "local",
        }

    def list(self, filters: Filters | None = None) -> Sequence[Volume]:
        """Return the volumes that pass the filters, by name. Raises InvalidArgument for a bad `dangling`."""
        chosen = {key: set(values) for key, values in (filters or {}).items()}
        dangling = _one_bool("dangling", chosen["dangling"]) if chosen.get("dangling") else None
        found = [v for v in self._table.all() if _matches(v, chosen)]
        if dangling is not None:
            found = [v for v in found if bool(self.holders(v.name)) is not dangling]
        return sorted(found, key=lambda v: v.name)

    def holders(self, name: str) -> tuple[str, ...]:
        """Return the ids of the containers that refer to a volume, running or not."""
        return tuple(sorted(h.partition(":")[2] for h in self._store.holders(f"volume:{name}")))

    async def usage(self, volumes: Iterable[Volume] | None = None) -> Sequence[dict[str, Any]]:
        """Return volumes with their size in bytes and reference count, for `docker system df`."""
        chosen = sorted(self._table.all() if volumes is None else volumes, key=lambda v: v.name)
        sizes = await asyncio.to_thread(lambda: [size_bytes(v.mountpoint) for v in chosen])
        return [
            {**self.inspect(v), "UsageData": {"RefCount": len(self.holders(v.name)), "Size": size}}
            for v, size in zip(chosen, sizes, strict=True)
        ]

    # --- making and removing -----------------------------------------------------------------------------------------

    async def get_or_create(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        anonymous: bool = False,
    ) -> Volume:
        """Return the volume of this name, made if it is missing; an existing one stays as it is.

        name "": a new anonymous volume. Raises InvalidArgument, NotFound (driver), Internal.
        """
        if driver not in ("", "local"):
            raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')
        if name:
            known = self._table.get(name)
            if known is not None:
                return known
            local.check_name(name)
        else:
            name, anonymous = secrets.token_hex(32), True
        if options:
            local.check_options(name, options)
        marked = {**(labels or {}), ANONYMOUS_LABEL: ""} if anonymous else labels
        volume = Volume(
            id=name,
            options=None if options is None else dict(options),
            labels=None if marked is None else dict(marked),
            created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            mountpoint=os.path.join(self._root, name, "_data"),
        )
        async with self._lock:
            known = self._table.get(name)
            if known is not None:
                return known
            self.making.add(name)
            try:
                self._make_directory(volume.mountpoint)
                await self._store.apply(self._table.put(volume))
            except OSError as e:
                raise Internal(
                    f"create {name}: error while creating volume path '{volume.mountpoint}': {_words(e)}"
                ) from e
            finally:
                self.making.discard(name)
        self._events.publish("volume", "create", name, {"driver": "local"})
        return volume

    def _make_directory(self, path: str) -> None:
        os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o755)

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume that nobody holds. With `force` a missing one is fine. Raises NotFound, Conflict."""
        async with self._lock:
            volume = self._table.get(name)
            if volume is None:
                if force:
                    return
                raise NotFound(f"get {name}: no such volume")
            holders = self.holders(name)
            if holders:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(holders)}]")
            self._users.pop(name, None)
            local.unmount(volume.mountpoint)
            # the mark first: whoever is killed between the two next leaves a removal that the next start finishes
            self._store.apply_now(self._table.put(replace(volume, removing=True)))
            try:
                self._discard(volume)
            except OSError as e:
                self._store.apply_now(self._table.put(volume))
                raise Internal(f"remove {name}: {_words(e)}") from e
            await self._store.apply(self._table.delete(name))
        self._events.publish("volume", "destroy", name, {"driver": volume.driver})

    def _discard(self, volume: Volume) -> None:
        """Rename the directory into the trash, where it is deleted in the background; a missing one is already so."""
        moved = os.path.join(self._trash, f"volume-{secrets.token_hex(8)}")
        try:
            os.rename(os.path.dirname(volume.mountpoint), moved)
        except FileNotFoundError:
            return
        self._reap(moved)

    def _reap(self, path: str) -> None:
        """Delete a tree in the background."""
        task = asyncio.get_running_loop().run_in_executor(None, lambda: shutil.rmtree(path, ignore_errors=True))
        self._reaping.add(task)
        task.add_done_callback(self._reaping.discard)

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
        sizes = await asyncio.to_thread(lambda: [size_bytes(v.mountpoint) for v in candidates])
        removed, reclaimed = [], 0
        for volume, size in zip(candidates, sizes, strict=True):
            try:
                await self.remove(volume.name, force=True)
            except Conflict:
                continue  # somebody took it meanwhile
            removed.append(volume.name)
            reclaimed += size
        self._events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return removed, reclaimed

    # --- using -------------------------------------------------------------------------------------------------------

    async def mount(self, name: str, container_id: str, *, subpath: str = "", recursive: bool = True) -> Mounted:
        """Make a volume ready for a container that starts; return it as a detached mount, to be attached there.

        subpath: a directory or file inside the volume, resolved so that no symlink leads out of it. recursive: with what
        is mounted below. The caller publishes the event. Raises NotFound, InvalidArgument (subpath), Internal when the
        filesystem cannot be mounted.
        """
        volume = self.lookup(name)
        options = volume.options or {}
        if local.needs_host_mount(options):
            await asyncio.to_thread(local.mount, volume.mountpoint, dict(options))
        source = local.bind_source(options) or volume.mountpoint
        try:
            if options or subpath:  # a file system that is not ours may not answer
                fd = await asyncio.to_thread(_clone, source, subpath, recursive)
            else:
                fd = _clone(source, "", recursive)
        except OSError as e:
            if not options:
                raise Internal(f"error while mounting volume '{volume.mountpoint}': {_words(e)}") from e
            raise local.failed(volume.mountpoint, options, e) from e
        self._users.setdefault(name, set()).add(container_id)
        return Mounted(path=os.path.join(source, subpath) if subpath else source, fd=fd)

    async def unmount(self, name: str, container_id: str) -> None:
        """A container has stopped using a volume; the last one takes its host mount away. Idempotent."""
        volume = self._table.get(name)
        users = self._users.get(name, set())
        if volume is None or container_id not in users:
            return
        users.discard(container_id)
        if not users:
            del self._users[name]
            if local.needs_host_mount(volume.options):
                try:
                    await asyncio.to_thread(local.unmount, volume.mountpoint)
                except OSError as e:
                    log.warning("cannot unmount volume %s: %s", name, _words(e))

    def adopt(self, name: str, container_id: str) -> None:
        """Remember, after a restart of the daemon, that a running container uses a volume."""
        self._users.setdefault(name, set()).add(container_id)

    async def copy_up(self, name: str, root_fd: int, path: str) -> None:
        """Fill an empty volume with what the image has at `path` below an open root. Raises NotFound, Internal."""
        volume = self.lookup(name)
        if volume.options:
            return
        try:
            await asyncio.to_thread(copyup.copy_up, root_fd, path, volume.mountpoint)
        except OSError as e:
            raise Internal(f"error while copying {path} into volume {name}: {_words(e)}") from e


def _clone(source: str, subpath: str, recursive: bool) -> int:
    """Clone the mount of a directory, or of what is at a subpath inside it: what was found is what will be mounted.

    Nothing of it is ever looked up again, so a container that exchanges names in a volume meanwhile changes nothing.
    Raises: InvalidArgument for the subpath, OSError.
    """
    if os.path.isabs(subpath) or ".." in subpath.split("/"):
        raise InvalidArgument(f"subpath must be a relative path within the volume: {subpath}")
    root = os.open(source, os.O_PATH | os.O_CLOEXEC | (os.O_DIRECTORY if subpath else 0))
    try:
        if not subpath:
            return _clone_at(root, recursive)
        try:
            fd = saferoot.open_in_root(root, subpath)
        except OSError as e:
            raise InvalidArgument(f"cannot access path {subpath}: {_words(e)}") from e
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
    known = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
    for value in values:
        if value.lower() not in known:
            raise InvalidArgument(f"invalid filter '{name}': strconv.ParseBool: parsing \"{value}\": invalid syntax")
    return any(known[v.lower()] for v in values)


def _words(error: OSError) -> str:
    words = error.strerror or str(error)
    return words[:1].lower() + words[1:]
