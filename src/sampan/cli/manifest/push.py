"""`sampan manifest push`."""

from __future__ import annotations

import base64

from sampan.cli.manifest import lists
from sampan.cli.manifest.lists import Lists
from sampan.cli.session import CommandError
from sampan.client import registry
from sampan.client.registry import RegistryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli
    from sampan.spec.reference import Reference

USAGE = "[OPTIONS] MANIFEST_LIST"
ARGS = (1, 1)
FLAGS = """
      --insecure   Speak to a registry over plain http or with any certificate
  -p, --purge      Forget the local list when it is pushed
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    target = lists.named(args[0], "")
    mine = Lists(cli)
    documents = mine.all(target)
    if not documents:
        raise CommandError(f"No such manifest: {args[0]}")
    for document in documents:
        _check(document, target)
    place = lists.connect(cli, target, insecure=opts.flag("insecure"))
    try:
        for document in documents:
            source = lists.named(document["Ref"], "")
            if source.path != target.path:
                _copy(cli, place, document, source, target)
        raw = lists.list_bytes([document["Descriptor"] for document in documents])
        cli.line(place.put(target.path, target.tag, raw, registry.LIST))
    except RegistryError as e:
        raise CommandError(str(e)) from e
    if opts.flag("purge"):
        mine.remove(target)
    return 0


def _check(document: dict[str, Any], target: Reference) -> None:
    source = lists.named(document["Ref"], "")
    if source.domain != target.domain:
        raise CommandError(
            f"cannot use source images from a different registry than the target image: {source.domain} != "
            f"{target.domain}"
        )
    platform = document["Descriptor"].get("platform") or {}
    if not platform.get("os") or not platform.get("architecture"):
        raise CommandError(f"manifest {document['Ref']} must have an OS and Architecture to be pushed to a registry")


def _copy(cli: Cli, place: registry.Registry, document: dict[str, Any], source: Reference, target: Reference) -> None:
    """Copy an image of another repository: mount its blobs, put its manifest by digest."""
    manifest, descriptor = lists.manifest_of(document), document["Descriptor"]
    for digest in dict.fromkeys(blob["digest"] for blob in (manifest["config"], *manifest["layers"])):
        place.mount(target.path, digest, source.path)
    raw = base64.b64decode(document["Raw"])
    digest = place.put(target.path, descriptor["digest"], raw, descriptor["mediaType"])
    cli.line(f"Pushed ref {target.name}@{descriptor['digest']} with digest: {digest}")
