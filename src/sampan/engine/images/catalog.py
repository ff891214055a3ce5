"""The catalogue: images and their names, looked up as users name them. Memory only, no file system beyond configs.

Not here: layers, snapshots, the network. Invariant: an `Image` that is handed out is complete: its config blob was
read and verified.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from sampan.engine import platforms
from sampan.engine.images.content import ContentStore
from sampan.engine.images.records import Image, ImageRecord, TagRecord
from sampan.engine.layers.layers import Layers
from sampan.engine.platforms import Platform
from sampan.engine.store import Op, Store
from sampan.errors import Internal, InvalidArgument, NotFound
from sampan.spec import oci_image, reference
from sampan.spec.reference import Reference

log = logging.getLogger("sampan.images")


class NoSuchImage(NotFound):
    """Docker's words; a name without a tag is shown with `latest`."""

    def __init__(self, name: Reference | str) -> None:
        shown = name.tagged().familiar() if isinstance(name, Reference) else name
        super().__init__(f"No such image: {shown}")


def parse_target(repo: str, tag: str) -> Reference:
    """The reference that `repo` and `tag` parameters name; a digest is refused. Raises: InvalidArgument."""
    name = reference.parse(repo)
    if name.digest:
        raise InvalidArgument("cannot import digest reference")
    if tag:
        name = reference.with_tag(name, tag)
    return name.tagged()


class Catalog:
    """Records of images and tags, and the decoded images made from them."""

    def __init__(self, store: Store, content: ContentStore, layers: Layers) -> None:
        self._store = store
        self._content = content
        self._layers = layers
        self.images = store.table("images", ImageRecord)
        self.tags = store.table("tags", TagRecord)
        self._by_image: dict[str, list[str]] = {}  # image id → references, oldest first
        self._beside: dict[str, list[str]] = {}  # image id → references that hold it for another platform
        self._children: dict[str, list[str]] = {}  # image id → images made from it
        self._decoded: dict[str, Image] = {}
        self._configs: dict[str, dict[str, Any]] = {}
        self._unreadable: set[str] = set()  # those that the log has named
        self.changed()

    def get(self, image_id: str) -> Image:
        """The image of a full id. Raises: NoSuchImage, MissingBlob."""
        image = self._decoded.get(image_id)
        if image is None:
            record = self.images.get(image_id)
            if record is None:
                raise NoSuchImage(image_id)
            image = self._decoded[image_id] = self._decode(record)
        return image

    def readable(self) -> list[Image]:
        """Every image that can be read, oldest record first.

        One that cannot must not hide the others: it is left out, and named in the log, once.
        """
        found = []
        for record in self.images.all():
            try:
                found.append(self.get(record.id))
            except (Internal, InvalidArgument) as e:
                if record.id not in self._unreadable:
                    self._unreadable.add(record.id)
                    log.error("image %s cannot be read and is left out: %s", record.id, e)
        return found

    def reread(self, image_id: str) -> Image:
        """The image of a full id, from the disk whatever is known of it. Raises: NoSuchImage, MissingBlob."""
        image, config = self._decoded.pop(image_id, None), self._configs.pop(image_id, None)
        try:
            return self.get(image_id)
        except BaseException:
            if image is not None and config is not None:
                self._decoded[image_id], self._configs[image_id] = image, config
            raise

    def resolve(self, name: str, platform: Platform | None = None) -> Image:
        """The image of a name, a digest reference, an id or the beginning of one; for a platform, if given.

        Raises: NoSuchImage; NotFound when it has no such platform; InvalidArgument for what is no reference.
        """
        members = self.members(name)
        if platform is None:
            return self.get(members[0])
        offered = [platforms.of(self.get(member).config) for member in members]
        found = platforms.best(platform, offered)
        if found is None:
            raise NotFound(
                f"image with reference {name} was found but its platform ({offered[0]}) does not match the specified "
                f"platform ({platform})"
            )
        return self.get(members[found])

    def members(self, name: str) -> tuple[str, ...]:
        """The ids of the images behind a name, one a platform; the first is what it means by itself.

        Raises: NoSuchImage; InvalidArgument for what is no reference.
        """
        parsed = reference.parse_any(name)
        if isinstance(parsed, str):
            if parsed in self.images:
                return (parsed,)
            raise NoSuchImage(parsed)
        tag = self.find_tag(parsed)
        if tag is not None:
            return tag.members
        image_id = self.by_prefix(name)
        if image_id is not None:
            return (image_id,)
        raise NoSuchImage(parsed)

    def find_tag(self, name: Reference) -> TagRecord | None:
        """The record of a reference; with a digest, the digest alone decides."""
        if name.digest:
            return self.tags.get(f"{name.name}@{name.digest}")
        return self.tags.get(str(name.tagged()))

    def by_prefix(self, text: str) -> str | None:
        """The one image whose id begins so (`sha256:` optional); None when there is none or more than one."""
        prefix = text.removeprefix("sha256:")
        if not prefix or not all(c in "0123456789abcdef" for c in prefix):
            return None
        found = [record.id for record in self.images.all() if record.id.startswith("sha256:" + prefix)]
        return found[0] if len(found) == 1 else None

    def references(self, image_id: str) -> list[Reference]:
        """All names of an image, sorted as Docker lists them."""
        return sorted((reference.parse(r) for r in self._by_image.get(image_id, ())), key=str)

    def beside(self, image_id: str) -> list[Reference]:
        """The names that hold an image for a platform which is not the one they mean by themselves."""
        return sorted((reference.parse(r) for r in self._beside.get(image_id, ())), key=str)

    def together(self, image_id: str) -> list[str]:
        """An image and those that share a name of its own with it, for other platforms."""
        found = dict.fromkeys([image_id])
        for name in self._by_image.get(image_id, ()):
            if (tag := self.tags.get(name)) is not None:
                found.update(dict.fromkeys(tag.others))
        return list(found)

    def lost_members(self, tag: TagRecord) -> tuple[str, ...]:
        """The images of a name that do not exist."""
        return tuple(member for member in tag.members if member not in self.images)

    def wanted_blobs(self) -> set[str]:
        """The digests of all blobs that a record names: configurations."""
        return {record.id for record in self.images.all()}

    def children(self, image_id: str) -> list[str]:
        """The images that were made from this one."""
        return self._children.get(image_id, [])

    # -- changes: operations for the store; `changed` after they were applied -----------------------------------

    def put_tag(self, name: Reference, *members: str) -> Op:
        """Let a name mean these images, one a platform: by itself the one that suits this machine, else the last."""
        return self.tags.put(self.tag_of(str(name), members))

    def tag_of(self, name: str, members: Sequence[str]) -> TagRecord:
        newest_first = list(dict.fromkeys(reversed(members)))
        first = 0
        if len(newest_first) > 1:
            offered = [platforms.of(self.config(member)) for member in newest_first]
            newest_first = [m for i, m in enumerate(newest_first) if offered[i] not in offered[:i]]
            offered = [platforms.of(self.config(member)) for member in newest_first]
            first = platforms.best(platforms.HOST, offered) or 0
        image = newest_first.pop(first)
        return TagRecord(id=name, image=image, others=tuple(newest_first))

    def without(self, tag: TagRecord, *image_ids: str) -> Op:
        """Take images away from a name; the name goes with the last."""
        left = [member for member in tag.members if member not in image_ids]
        return self.tags.put(self.tag_of(tag.id, left)) if left else self.tags.delete(tag.id)

    def changed(self, *image_ids: str) -> None:
        """Names or records of these images changed: rebuild what is derived."""
        self._by_image.clear()
        self._beside.clear()
        for tag in self.tags.all():
            self._by_image.setdefault(tag.image, []).append(tag.id)
            for other in tag.others:
                self._beside.setdefault(other, []).append(tag.id)
                self._decoded.pop(other, None)
        self._children.clear()
        for record in self.images.all():
            if record.parent:
                self._children.setdefault(record.parent, []).append(record.id)
        for image_id in image_ids:
            self._decoded.pop(image_id, None)
            if image_id not in self.images:
                self._configs.pop(image_id, None)

    def config(self, image_id: str) -> dict[str, Any]:
        """The configuration of an image whose blob is here. Raises: MissingBlob."""
        config = self._configs.get(image_id)
        if config is None:
            config = self._configs[image_id] = oci_image.decode(self._content.get(image_id))
        return config

    def config_bytes(self, image_id: str) -> int:
        """The length of an image's configuration."""
        return len(self._content.get(image_id))

    def _decode(self, record: ImageRecord) -> Image:
        config = self.config(record.id)
        names = self.references(record.id) + self.beside(record.id)
        layers = oci_image.diff_ids(config)
        chain = oci_image.chain_ids(layers)
        chain_id = chain[-1] if chain else ""
        return Image(
            id=record.id,
            config=config,
            repo_tags=tuple(n.familiar() for n in names if n.tag),
            repo_digests=tuple(n.familiar() for n in names if n.digest),
            parent=record.parent,
            created=config.get("created") or "",
            size=self._layers.size_bytes(chain_id),
            architecture=config.get("architecture") or "",
            os=config.get("os") or "linux",
            layers=layers,
            chain_id=chain_id,
            tagged_at=record.tagged_at,
        )
