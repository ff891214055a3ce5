"""Removing names and images: decided first, then done in one transaction.

The rules are Docker's: a name goes alone while others remain; the last name takes the image with it; an image that a
container uses or that has children stays, unless force may override. What prevents a removal is a value (`Conflict`),
its words those of the reference.

Source: moby 28.5 image removal as observed on the reference engine.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

from sampan.engine.images.catalog import Catalog
from sampan.engine.images.content import ContentStore
from sampan.engine.images.views import Filters, boolean_filter, labels_match, until_filter
from sampan.engine.layers.layers import Layers
from sampan.engine.layers.records import LayerRecord
from sampan.engine.store import Op, Ref, Store
from sampan.errors import Conflict, NotFound
from sampan.spec import reference, times
from sampan.spec.reference import Reference

log = logging.getLogger("sampan.images")


Doomed = tuple[str, list[LayerRecord]]  # an image without a record any more, and the layers that only it needed


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an image may not be deleted. `hard`: force does not help. `used`: by a container."""

    words: str
    hard: bool = False
    used: bool = False


class Remover:
    """Removal on the services of one engine. `running`: ids of the containers that run now."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        layers: Layers,
        content: ContentStore,
        publish: Callable[[str, str, str], None],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._layers = layers
        self._content = content
        self._publish = publish

    async def remove(
        self, name: str, *, force: bool, prune: bool, running: Collection[str] = ()
    ) -> list[dict[str, str]]:
        """Remove a name or an image. Returns Docker's records, `Untagged` and `Deleted`.

        prune: also the parents that have no name and no other child. Raises: NotFound, Conflict.
        """
        image_id = self._catalog.members(name)[0]  # it need not be readable
        names = self._catalog.references(image_id)
        together = self._catalog.together(image_id)
        records: list[dict[str, str]] = []
        by_name = not _is_id_prefix(image_id, name)
        left = False  # other names
        if by_name:
            for member in together:
                if not force and _single(names) and (user := self._user(member)):
                    raise Conflict(
                        f'conflict: unable to remove repository reference "{name}" (must force) - '
                        f"container {user[:12]} is using its referenced image {_short(member)}"
                    )
            left = self._untag_one(image_id, reference.parse(name), names, records)
        doomed: list[Doomed] = []
        try:
            if not left:
                self._delete(
                    image_id,
                    records,
                    doomed,
                    force=force,
                    prune=prune,
                    quiet=by_name,
                    spare_names=by_name or not _single(names),
                    running=running,
                )
            self._release(together[1:], records, doomed, prune=prune, running=running)
        finally:  # what is gone before an obstacle came up is gone
            try:
                await self._store.flushed()
            finally:
                self._discard(doomed)
        return records

    async def remove_platforms(
        self, name: str, gone: Collection[str], *, force: bool, prune: bool, running: Collection[str] = ()
    ) -> list[dict[str, str]]:
        """Take some of the images that a name holds away from it and from the repository's other names; others remain.

        Raises: Conflict while a container uses one.
        """
        given = reference.parse(name)
        for image_id in gone:
            obstacle = self._obstacle(image_id, running, soft=not force, names=False)
            if obstacle is not None:
                raise Conflict(_words(image_id, obstacle))
        records: list[dict[str, str]] = []
        doomed: list[Doomed] = []
        for tag in self._catalog.tags.all():
            if reference.parse(tag.id).name == given.name:
                for image_id in set(tag.members) & set(gone):
                    known = self._catalog.tags.get(tag.id)
                    if known is not None:
                        self._store.apply_now(self._catalog.without(known, image_id))
        self._catalog.changed(*gone)
        try:
            self._release(list(gone), records, doomed, prune=prune, running=running)
            await self._store.flushed()
        finally:
            self._discard(doomed)
        return records

    def _release(
        self,
        image_ids: list[str],
        records: list[dict[str, str]],
        doomed: list[Doomed],
        *,
        prune: bool,
        running: Collection[str],
    ) -> None:
        """Delete the images that a name held for other platforms, unless another name or a container has them."""
        for image_id in image_ids:
            named = self._catalog.references(image_id) or self._catalog.beside(image_id)
            if image_id in self._catalog.images and not named and not self._users(image_id):
                self._delete(
                    image_id, records, doomed, force=False, prune=prune, quiet=True, spare_names=True, running=running
                )

    def _untag_one(
        self, image_id: str, given: Reference, names: list[Reference], records: list[dict[str, str]]
    ) -> bool:
        """Take away one name, and digests of a repository without tags. True: other names remain."""
        tag = self._catalog.find_tag(given)
        if tag is None:
            raise NotFound(f"No such image: {given.tagged().familiar()}")
        gone = reference.parse(tag.id)
        left = [name for name in names if name != gone]
        doomed = [gone]
        if gone.tag and not any(name.tag and name.name == gone.name for name in left):
            doomed += [name for name in left if name.name == gone.name]
            left = [name for name in left if name.name != gone.name]
        self._untag(image_id, doomed, records)
        return bool(left)

    def _untag(self, image_id: str, names: list[Reference], records: list[dict[str, str]]) -> None:
        self._store.apply_now(*(self._catalog.tags.delete(str(name)) for name in names))
        self._catalog.changed(image_id)
        for name in names:
            records.append({"Untagged": name.familiar()})
            self._publish("untag", image_id, image_id)

    def _delete(
        self,
        image_id: str,
        records: list[dict[str, str]],
        doomed: list[Doomed],
        *,
        force: bool,
        prune: bool,
        quiet: bool,
        spare_names: bool,
        running: Collection[str],
    ) -> None:
        """Delete the image with its names and what only it needed, then its nameless parents.

        quiet: an obstacle ends it without a word, unless a dangling and unused image would be left behind.
        spare_names: other names are an obstacle that takes force. Raises: Conflict.
        """
        while True:
            names = self._catalog.references(image_id)
            obstacle = self._obstacle(image_id, running, soft=not force, names=spare_names)
            if obstacle is not None:
                if quiet and (names or obstacle.used or self._catalog.children(image_id)):
                    return
                raise Conflict(_words(image_id, obstacle))
            record = self._catalog.images.get(image_id)
            parent = record.parent if record is not None else ""
            if names:
                self._untag(image_id, names, records)
            self._drop(image_id, records, doomed)
            if not prune or parent not in self._catalog.images:
                return
            image_id, force, quiet, spare_names = parent, False, True, True

    def _drop(self, image_id: str, records: list[dict[str, str]], doomed: list[Doomed]) -> None:
        """Records first, in one transaction; files go when the disk has that: no crash leaves a record without them."""
        holder = Ref("image", image_id)
        held = [target.id for target in self._store.targets(holder) if target.id in self._layers]
        unused = self._layers.unused_after(held[0], holder) if held else []
        ops: list[Op] = [self._catalog.images.delete(image_id), self._store.release(holder)]
        for name in self._catalog.beside(image_id):
            if (tag := self._catalog.tags.get(str(name))) is not None:
                ops.append(self._catalog.without(tag, image_id))
        self._store.apply_now(*ops, *self._layers.forget(unused))
        self._catalog.changed(image_id)
        self._content.fresh.add(image_id)  # nobody else's to sweep in the meantime
        doomed.append((image_id, unused))
        self._publish("delete", image_id, image_id)
        records.append({"Deleted": image_id})
        records += [{"Deleted": layer.id} for layer in unused]

    def _discard(self, doomed: list[Doomed]) -> None:
        """Throw away the files of images without a record.

        One that was made again meanwhile keeps its configuration.
        """
        for image_id, layers in doomed:
            self._layers.discard(layers)
            if image_id not in self._catalog.images:
                self._content.remove(image_id)

    def _obstacle(self, image_id: str, running: Collection[str], *, soft: bool, names: bool) -> Obstacle | None:
        """What stands in the way. soft: also what force would override; names: other names count among that."""
        if self._catalog.children(image_id):
            return Obstacle("image has dependent child images", hard=True)
        users = self._users(image_id)
        for user in users:
            if user in running:
                return Obstacle(f"image is being used by running container {user[:12]}", hard=True, used=True)
        if soft and names and self._catalog.references(image_id):
            return Obstacle("image is referenced in multiple repositories")
        if soft and users:
            return Obstacle(f"image is being used by stopped container {users[0][:12]}", used=True)
        return None

    def _users(self, image_id: str) -> list[str]:
        holders = self._store.holders(Ref("image", image_id))
        return sorted(h.id for h in holders if h.noun == "container")

    def _user(self, image_id: str) -> str:
        return next(iter(self._users(image_id)), "")

    async def prune(
        self, filters: Filters, *, now_ns: int, remove: Callable[[str], Awaitable[list[dict[str, str]]]]
    ) -> dict[str, Any]:
        """Remove unused images: dangling ones, or with dangling=false all that no container uses.

        `remove` removes one by name or id; what it refuses stays. Returns ImagesDeleted and SpaceReclaimed.
        """
        dangling = boolean_filter(filters, "dangling", True)
        until = until_filter(filters, now_ns)
        sizes = {layer.id: layer.size_bytes for layer in self._layers.all()}
        deleted: list[dict[str, str]] = []
        for image in self._catalog.readable():
            if image.id not in self._catalog.images:
                continue
            names = self._catalog.references(image.id)
            if self._catalog.children(image.id) and (dangling or not names):
                continue
            if not names and self._catalog.beside(image.id):
                continue  # goes with its name
            if until is not None and (not image.created or times.parse(image.created) > until):
                continue
            if not labels_match(filters, (image.config.get("config") or {}).get("Labels") or {}):
                continue
            if names and dangling and any(name.tag for name in names):
                continue
            for target in [str(name) for name in names] or [image.id.removeprefix("sha256:")]:
                if names and ((tag := self._catalog.tags.get(target)) is None or tag.image != image.id):
                    continue  # removed while an earlier one was, or another image's now
                try:
                    deleted += await remove(target)
                except (Conflict, NotFound) as e:
                    log.debug("prune leaves %s: %s", target, e)
        reclaimed = sum(sizes.get(record.get("Deleted", ""), 0) for record in deleted)
        return {"ImagesDeleted": deleted or None, "SpaceReclaimed": reclaimed}


def _is_id_prefix(image_id: str, given: str) -> bool:
    return image_id.startswith(given) or image_id.removeprefix("sha256:").startswith(given)


def _single(names: list[Reference]) -> bool:
    """At most one tag, and no digest of another repository."""
    tags = [name for name in names if name.tag]
    if len(names) <= 1:
        return True
    if len(tags) > 1:
        return False
    only = (tags or names)[0]
    return all(name.name == only.name for name in names)


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]


def _words(image_id: str, obstacle: Obstacle) -> str:
    how = "cannot be forced" if obstacle.hard else "must be forced"
    return f"conflict: unable to delete {_short(image_id)} ({how}) - {obstacle.words}"
