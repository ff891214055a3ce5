"""`save`: which images an archive gets, under which names. Not here: the archive's format (archive.py)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from concurrent.futures import Executor

from sampan.engine import platforms
from sampan.engine.archives import streams
from sampan.engine.images import archive
from sampan.engine.images.catalog import Catalog
from sampan.engine.images.content import ContentStore
from sampan.engine.images.publishing import ImagePublisher
from sampan.engine.layers.layers import Layers, holding
from sampan.engine.platforms import Platform
from sampan.errors import Internal, NotFound
from sampan.spec import reference
from sampan.spec.reference import Reference


class Saver:
    """Writes archives of images."""

    def __init__(
        self, catalog: Catalog, content: ContentStore, layers: Layers, publisher: ImagePublisher, streaming: Executor
    ) -> None:
        self._catalog, self._content, self._layers = catalog, content, layers
        self._publisher = publisher
        self._streaming = streaming

    async def save(self, refs: Iterable[str], platform: Platform | None) -> AsyncIterator[bytes]:
        """Images as one archive, docker-archive and OCI layout. Raises: NotFound, Internal for a damaged layer."""
        wanted: dict[str, list[Reference]] = {}
        others: dict[str, list[str]] = {}  # for other platforms, by the image that their name means by itself
        for ref in refs:
            for members, names in self._named(ref):
                image_id, *rest = self._of_platform(members, platform)
                known = wanted.setdefault(image_id, [])
                known += [name for name in names if name not in known]
                others.setdefault(image_id, []).extend(rest)
        plan = archive.plan([self._wanted(id, names, wanted, others[id]) for id, names in wanted.items()])
        held = {*wanted, *(member for members in others.values() for member in members)}
        with holding(self._layers, *(self._catalog.get(image_id).chain_id for image_id in held)):
            for image_id in wanted:
                self._publisher.publish_event("save", image_id, image_id)
            async for chunk in streams.drain(archive.write(plan, self._layers, time.time_ns()), self._streaming):
                yield chunk

    def _of_platform(self, members: tuple[str, ...], platform: Platform | None) -> tuple[str, ...]:
        """Those of a name's images that a platform asks for: all without one. Raises: Internal in Docker's words."""
        if platform is None:
            return members
        for member in members:
            if platform.accepts(platforms.of(self._catalog.get(member).config)):
                return (member,)
        raise Internal(f"no suitable export target found for platform {platform}")

    def _named(self, ref: str) -> list[tuple[tuple[str, ...], list[Reference]]]:
        """What one argument means, (images, names): a repository alone means all its tags.

        Raises: NotFound in the reference's words, which differ from those of other commands.
        """
        parsed = reference.parse_any(ref)
        if isinstance(parsed, str):
            return [((self._catalog.resolve(ref).id,), [])]
        if parsed.tag or parsed.digest:
            tag = self._catalog.find_tag(parsed)
            if tag is None and self._catalog.by_prefix(ref) is None:
                raise NotFound("reference does not exist")
            return [(self._catalog.members(ref), [parsed] if parsed.tag else [])]
        tags = [tag for tag in self._catalog.tags.all() if tag.id.startswith(f"{parsed.name}:")]
        if tags:
            return [(tag.members, [reference.parse(tag.id)]) for tag in tags]
        image_id = self._catalog.by_prefix(ref)
        if image_id is None:
            raise NotFound(f"No such image: {ref}")
        return [((image_id,), [])]

    def _wanted(
        self, image_id: str, names: list[Reference], among: Collection[str], others: Sequence[str] = ()
    ) -> archive.SavedImage:
        image = self._catalog.get(image_id)
        parent = image.parent
        while parent and parent not in among:
            record = self._catalog.images.get(parent)
            parent = record.parent if record is not None else ""
        return archive.SavedImage(
            image=image,
            config=self._content.get(image_id),
            names=tuple(names),
            layers=self._layers.chain(image.chain_id),
            parent=parent,
            others=tuple(self._wanted(other, [], among) for other in dict.fromkeys(others)),
        )
