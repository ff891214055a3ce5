"""The image configuration as Go's image.Image reads it: the types of its fields, checked once, where it comes in.

    read(raw) ─▶ the document, each field that we know of its type, or a refusal that names the field

Not here: what the fields mean. Invariant: what `read` returns can be listed, inspected, saved and run without another
look at the type of a field.

Source: moby 28.5 image.Image, image-spec v1.History, container.Config; words as the reference's `load` answers.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from sampan.errors import InvalidArgument
from sampan.spec import codec, times
from sampan.spec.engine_api.container import ContainerConfig
from sampan.spec.engine_api.wire import GoType, Int64, Strings, Wire

_Time = Annotated[str, GoType("time.Time")]
_ImageID = Annotated[str, GoType("image.ID")]
_DiffID = Annotated[str, GoType("layer.DiffID")]


class ImageHistory(Wire, rename=None):
    """One step by which the image was made."""

    GO: ClassVar[str] = "v1.History"
    created: _Time | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class RootFS(Wire, rename=None):
    """The layers, base first."""

    GO: ClassVar[str] = "image.RootFS"
    type: str = ""
    diff_ids: list[_DiffID] | None = None


class ImageDocument(Wire, rename=None):
    """What we know of an image configuration."""

    GO: ClassVar[str] = "image.Image"
    ROOT: ClassVar[str] = "Image"
    id: str = ""
    parent: _ImageID = ""
    comment: str = ""
    created: _Time | None = None
    container: str = ""
    container_config: ContainerConfig | None = None
    docker_version: str = ""
    author: str = ""
    config: ContainerConfig | None = None
    architecture: str = ""
    variant: str = ""
    os: str = ""
    size: Int64 = msgspec.field(default=0, name="Size")
    rootfs: RootFS | None = None
    history: list[ImageHistory] | None = None
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: Strings = msgspec.field(default=None, name="os.features")


def read(raw: bytes) -> dict[str, Any]:
    """Decode a configuration; keys that are not known stay as they are. Raises: InvalidArgument in Go's words."""
    try:
        value = codec.parse(raw)
        document = codec.convert(ImageDocument, value)
        for moment in (document.created, *(entry.created for entry in document.history or ())):
            if moment is not None:
                times.parse(moment)
    except ValueError as e:
        raise InvalidArgument(str(e)) from None
    if document.rootfs is None:
        raise InvalidArgument("invalid image JSON, no RootFS key")
    return _merged(value, document)


def _merged(value: dict[str, Any], typed: Wire) -> dict[str, Any]:
    """The keys that an object has, spelled as Go writes them, with the values that Go would see."""
    fields = {f.encode_name.lower(): f for f in msgspec.structs.fields(type(typed))}
    found = {}
    for key, given in value.items():
        field = fields.get(key.lower())
        if field is None:
            found[key] = given
            continue
        seen = getattr(typed, field.name)
        if isinstance(seen, Wire) and isinstance(given, dict):
            seen = _merged(given, seen)
        elif isinstance(seen, list) and seen and isinstance(seen[0], Wire):
            seen = [_merged(one or {}, entry) for one, entry in zip(given, seen)]
        found[field.encode_name] = seen
    return found
