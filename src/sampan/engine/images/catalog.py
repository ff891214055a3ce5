"""The catalogue: images and their names, looked up as users name them. Memory only, no file system beyond configs.

Not here: layers, snapshots, the network. Invariant: an `Image` that is handed out is complete: its config blob was
read and verified.
"""

from __future__ import annotations

from typing import Any

from sampan.engine.images.content import ContentStore
from sampan.engine.images.layers import Layers
from sampan.engine.images.records import Image, ImageRecord, TagRecord
from sampan.engine.store import Op, Store
from sampan.errors import NotFound
from sampan.spec import oci_image, reference
from sampan.spec.reference import Reference


class NoSuchImage(NotFound):
    """Docker's words; a name without a tag is shown with `latest`."""

    def __init__(self, name: Reference | str) -> None:
        shown = name.tagged().familiar() if isinstance(name, Reference) else name
        super().__init__(f"No such image: {shown}")


class Catalog:
    """Records of images and tags, and the decoded images made from them."""

    def __init__(self, store: Store, content: ContentStore, layers: Layers) -> None:
        self._content = content
        self._layers = layers
        self.images = store.table("images", ImageRecord)
        self.tags = store.table("tags", TagRecord)
        self._by_image: dict[str, list[str]] = {}  # image id → references, oldest first
        self._children: dict[str, list[str]] = {}  # image id → images made from it
        self._decoded: dict[str, Image] = {}
        self._configs: dict[str, dict[str, Any]] = {}
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

    def resolve(self, name: str) -> Image:
        """The image of a name, a digest reference, an id or the beginning of one.

        Raises: NoSuchImage; InvalidArgument for what is no reference.
        """
        parsed = reference.parse_any(name)
        if isinstance(parsed, str):
            if parsed in self.images:
                return self.get(parsed)
            raise NoSuchImage(parsed)
        tag = self.find_tag(parsed)
        if tag is not None:
            return self.get(tag.image)
        image_id = self.by_prefix(name)
        if image_id is not None:
            return self.get(image_id)
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

    def children(self, image_id: str) -> list[str]:
        """The images that were made from this one."""
        return self._children.get(image_id, [])

    # -- changes: operations for the store; `changed` after they were applied -----------------------------------

    def put_tag(self, name: Reference, image_id: str) -> Op:
        return self.tags.put(TagRecord(id=str(name), image=image_id))

    def changed(self, *image_ids: str) -> None:
        """Names or records of these images changed: rebuild what is derived."""
        self._by_image.clear()
        for tag in self.tags.all():
            self._by_image.setdefault(tag.image, []).append(tag.id)
        self._children.clear()
        for record in self.images.all():
            if record.parent:
                self._children.setdefault(record.parent, []).append(record.id)
        for image_id in image_ids:
            self._decoded.pop(image_id, None)
            if image_id not in self.images:
                self._configs.pop(image_id, None)

    def _decode(self, record: ImageRecord) -> Image:
        config = self._configs.get(record.id)
        if config is None:
            config = self._configs[record.id] = oci_image.decode(self._content.get(record.id))
        names = self.references(record.id)
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
