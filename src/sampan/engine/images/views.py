"""Images as the API shows them: list, inspect, history. Read-only, no file system.

Filters follow the reference: what is accepted, how patterns match, which words an error has.
Source: Engine API 1.51 ImageSummary, ImageInspect, HistoryResponseItem; answers recorded from Docker Engine 28.5.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sampan.engine.images import indexes
from sampan.engine.images.catalog import Catalog
from sampan.engine.images.records import Image
from sampan.engine.layers.layers import Layers
from sampan.engine.store import Ref, Store
from sampan.errors import Internal, InvalidArgument
from sampan.spec import go_patterns, oci_image, times
from sampan.spec.reference import Reference

LIST_FILTERS = frozenset({"dangling", "label", "before", "since", "reference", "until"})
PRUNE_FILTERS = frozenset({"dangling", "label", "label!", "until"})
# what Docker 28.5 still shows of the config, by API version; older versions saw all of it
_CONFIG_KEYS = ("Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir")
_CONFIG_KEYS_IF_SET = ("ArgsEscaped", "ExposedPorts", "Healthcheck", "Shell", "StopSignal")
Filters = Mapping[str, Collection[str]]
Objects = list[dict[str, Any]]
Strings = list[str]
Names = tuple[Strings, Strings]
Age = tuple[int, ...]


def unix_time(created: str) -> int:
    """Seconds since 1970 of an RFC 3339 time; 0 without one."""
    return _created_ns(created) // 10**9 if created else 0


@lru_cache(maxsize=4096)  # listings ask for the same images' times again and again
def _created_ns(created: str) -> int:
    return times.parse(created)


def boolean_filter(filters: Filters, name: str, default: bool) -> bool:
    """A filter that is true or false. Raises: InvalidArgument `invalid filter 'dangling=[x]'`."""
    values = filters.get(name)
    if not values:
        return default
    true, false = bool({"1", "true"} & set(values)), bool({"0", "false"} & set(values))
    if true == false:
        raise InvalidArgument(f"invalid filter '{name}=[{' '.join(sorted(values))}]'")
    return true


def until_filter(filters: Filters, now_ns: int) -> int | None:
    """The `until` filter as ns since 1970: a Unix time, an RFC 3339 time or a duration before now.

    Raises: InvalidArgument, Internal.
    """
    if len(filters.get("until", ())) > 1:
        raise InvalidArgument("more than one until filter specified")
    return earliest(filters, now_ns)


def earliest(filters: Filters, now_ns: int) -> int | None:
    """The earliest of the times that `until` names: what a list wants, which takes several. Raises: Internal."""
    try:
        return min((times.moment(text, now_ns) for text in filters.get("until", ())), default=None)
    except ValueError as e:
        raise Internal(str(e)) from e


def labels_match(filters: Filters, labels: Mapping[str, str]) -> bool:
    """`label` (all of them) and `label!` (none of them): `key` or `key=value`."""

    def has(wanted: str) -> bool:
        key, equals, value = wanted.partition("=")
        return key in labels and (not equals or labels[key] == value)

    return all(has(x) for x in filters.get("label", ())) and not any(has(x) for x in filters.get("label!", ()))


def path_match(pattern: str, name: str) -> bool:
    """Go's path.Match: `*` and `?` stop at a slash, `[a-z]`, `[^a]`, backslash. Raises: Internal for a bad pattern."""
    out, i = "", 0
    while i < len(pattern):
        c = pattern[i]
        if c == "*":
            out += "[^/]*"
        elif c == "?":
            out += "[^/]"
        elif c == "\\":
            i += 1
            if i == len(pattern):
                raise Internal("syntax error in pattern")
            out += re.escape(pattern[i])
        elif c == "[":
            end = pattern.find("]", i + 2)
            if end < 0:
                raise Internal("syntax error in pattern")
            inside = pattern[i + 1 : end]
            negated = inside.startswith("^")
            body = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[negated:])
            out += f"[{'^' if negated else ''}{body}]"
            i = end
        else:
            out += re.escape(c)
        i += 1
    try:
        return go_patterns.searcher(rf"\A(?:{out})\z")(name)
    except go_patterns.BadPattern:
        raise Internal("syntax error in pattern") from None


def reference_match(patterns: Collection[str], name: Reference) -> bool:
    """Whether one of the patterns names this reference, with or without its tag."""
    return any(path_match(p, name.familiar()) or path_match(p, name.familiar_name()) for p in patterns)


class Views:
    """Answers made from the catalogue and the layers."""

    def __init__(self, catalog: Catalog, layers: Layers, store: Store) -> None:
        self._catalog = catalog
        self._layers = layers
        self._store = store

    def list(self, filters: Filters, *, all: bool, shared_size: bool, now_ns: int) -> Objects:
        """ImageSummary objects, newest first. Raises: InvalidArgument, NotFound, Internal for bad filters."""
        dangling = boolean_filter(filters, "dangling", False)
        ages = self._ages()
        until = earliest(filters, now_ns)
        limits: list[Age] = [(until,)] if until is not None else []
        limits += self._named(filters, "before", ages)
        before, since = min(limits, default=None), max(self._named(filters, "since", ages), default=None)
        shared = self._shared_bytes() if shared_size else {}
        found = []
        for image in self._catalog.readable():
            age = ages[image.id]
            if (before is not None and age >= before) or (since is not None and age <= since):
                continue
            if not labels_match(filters, (image.config.get("config") or {}).get("Labels") or {}):
                continue
            names = self._names(image, filters, all=all, dangling=dangling)
            if names is None:
                continue
            summary = self.summary(image, *names)
            if shared_size:
                summary["SharedSize"] = shared.get(image.id, 0)
            found.append((age, summary))
        found.sort(key=lambda item: item[0], reverse=True)
        return [summary for _, summary in found]

    def _ages(self) -> dict[str, Age]:
        """A key by image id that is greater the newer the image is, and never the same for two.

        When it was made, ns; then, as reproducible builds give many images one time, which came here later. An image
        counts as later than the one it was made from, so who removes in the order of the list meets no parent first.
        """
        images = {image.id: image for image in self._catalog.readable()}
        positions = {image_id: position for position, image_id in enumerate(images)}
        arrived: dict[str, Age] = {}
        for image_id in images:
            line = [image_id]
            while (parent := images[line[-1]].parent) in images and parent not in arrived and parent not in line:
                line.append(parent)
            for one in reversed(line):
                above = arrived.get(images[one].parent, ())
                arrived[one] = max((positions[one],), (*above, positions[one]))
        return {
            image_id: (_created_ns(image.created) if image.created else 0, *arrived[image_id])
            for image_id, image in images.items()
        }

    def _named(self, filters: Filters, name: str, ages: Mapping[str, Age]) -> Sequence[Age]:
        """`before` and `since` name an image: its age, if there is such a filter. Raises: NotFound, InvalidArgument."""
        values = filters.get(name)
        return [ages[self._catalog.resolve(next(iter(values))).id]] if values else []

    def _names(self, image: Image, filters: Filters, *, all: bool, dangling: bool) -> Names | None:
        """(RepoTags, RepoDigests) to show, or None when the image is not listed."""
        if dangling and self._catalog.children(image.id):
            return None
        references = self._catalog.references(image.id)
        patterns = filters.get("reference")
        if patterns is not None:
            references = [name for name in references if reference_match(patterns, name)]
        if not references and self._catalog.beside(image.id):
            return None  # its name is listed with the image that it means by itself
        tags = [name.familiar() for name in references if name.tag]
        digests = [name.familiar() for name in references if name.digest]
        if not tags and not digests:
            if not all and self._catalog.children(image.id):
                return None
            if patterns is not None or ("dangling" in filters and not dangling):
                return None
        elif dangling and tags:
            return None
        return tags, digests

    def summary(self, image: Image, tags: Strings, digests: Strings) -> dict[str, Any]:
        """One ImageSummary; names it has none of are null, as Docker's own model has it."""
        return {
            "Containers": sum(1 for h in self._store.holders(Ref("image", image.id)) if h.noun == "container"),
            "Created": unix_time(image.created),
            "Id": image.id,
            "Labels": (image.config.get("config") or {}).get("Labels"),
            "ParentId": image.parent,
            "RepoDigests": digests or None,
            "RepoTags": tags or None,
            "SharedSize": -1,
            "Size": self._size_together(image),
        }

    def _size_together(self, image: Image) -> int:
        """Bytes of an image's layers, and of those that its name holds for other platforms, each once."""
        together = self._catalog.together(image.id)
        if len(together) < 2:
            return image.size
        readable = [one for one in self._catalog.readable() if one.id in together]
        layers = {x.id: x for one in readable for x in self._layers.records(one.chain_id)}
        return sum(layer.size_bytes for layer in layers.values())

    def _shared_bytes(self) -> dict[str, int]:
        """Bytes of each image's layers that another image has too."""
        users: dict[str, int] = {}
        chains = {}
        for image in self._catalog.readable():
            chain = chains[image.id] = self._layers.records(image.chain_id)
            for layer in chain:
                users[layer.id] = users.get(layer.id, 0) + 1
        return {id: sum(x.size_bytes for x in chain if users[x.id] > 1) for id, chain in chains.items()}

    def inspect(self, image: Image, graph_driver: dict[str, Any]) -> dict[str, Any]:
        """ImageInspect, API 1.51, with the complete config; `trim` makes older and newer shapes of it."""
        config = image.config
        document: dict[str, Any] = {
            "Id": image.id,
            "RepoTags": list(image.repo_tags),
            "RepoDigests": list(image.repo_digests),
            "Parent": image.parent,
            "Comment": config.get("comment") or _last_comment(config),
            "Created": image.created,
            "DockerVersion": config.get("docker_version") or "",
            "Author": config.get("author") or "",
            "Architecture": image.architecture,
            "Variant": config.get("variant") or "",
            "Os": image.os,
            "OsVersion": config.get("os.version") or "",
            "Size": image.size,
            "GraphDriver": graph_driver,
            "RootFS": {"Type": "layers", "Layers": list(image.layers)},
            "Metadata": {"LastTagTime": image.tagged_at or times.ZERO},
            "Config": config.get("config") or {},
        }
        for key in ("Variant", "OsVersion"):
            if not document[key]:
                del document[key]
        if not image.layers:
            del document["RootFS"]["Layers"]
        return document

    def platforms(self, image_id: str) -> dict[str, Any]:
        """Descriptor and Manifests of an image whose name holds several platforms; {} of every other."""
        together = [self._catalog.get(member) for member in self._catalog.together(image_id)]
        if len(together) < 2:
            return {}
        members = [
            indexes.IndexedImage(
                image=image,
                config_bytes=self._catalog.config_bytes(image.id),
                layers=self._layers.chain(image.chain_id),
            )
            for image in together
        ]
        raw = indexes.index(members)
        users = [
            sorted(h.id for h in self._store.holders(Ref("image", image.id)) if h.noun == "container")
            for image in together
        ]
        return {
            "Descriptor": {"mediaType": oci_image.MEDIA_INDEX, "digest": oci_image.digest(raw), "size": len(raw)},
            "Manifests": [indexes.summary(member, containers) for member, containers in zip(members, users)],
        }

    def history(self, image: Image) -> Objects:
        """HistoryResponseItem objects, newest first; the ids of ancestors are filled in as far as they are known."""
        sizes = [record.size_bytes for record in reversed(self._layers.records(image.chain_id))]
        items: Objects = []
        for entry in image.config.get("history") or []:
            size = 0 if entry.get("empty_layer") or not sizes else sizes.pop(0)
            items.insert(
                0,
                {
                    "Comment": entry.get("comment") or "",
                    "Created": unix_time(entry.get("created") or ""),
                    "CreatedBy": entry.get("created_by") or "",
                    "Id": "<missing>",
                    "Size": size,
                    "Tags": None,
                },
            )
        ancestor: str = image.id
        for item in items:
            item["Id"] = ancestor
            names = [name.familiar() for name in self._catalog.references(ancestor) if name.tag]
            item["Tags"] = names or None
            record = self._catalog.images.get(ancestor)
            ancestor = record.parent if record is not None else ""
            if not ancestor or ancestor not in self._catalog.images:
                break
        return items


def modern_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The Config of inspect as API 1.50 and later show it."""
    defaults = {"User": "", "WorkingDir": ""}
    shown: dict[str, Any] = {key: config.get(key, defaults.get(key)) for key in _CONFIG_KEYS}
    shown.update({key: config[key] for key in _CONFIG_KEYS_IF_SET if config.get(key)})
    for key in ("Cmd", "Entrypoint", "Env", "OnBuild"):
        shown[key] = shown[key] or None
    return dict(sorted(shown.items()))


def _last_comment(config: Mapping[str, Any]) -> str:
    history = config.get("history") or []
    return (history[-1].get("comment") or "") if history else ""
