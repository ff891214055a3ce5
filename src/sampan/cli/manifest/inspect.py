"""`sampan manifest inspect`."""

from __future__ import annotations

from sampan.cli.manifest import lists
from sampan.cli.manifest.lists import Lists
from sampan.cli.session import CommandError
from sampan.client import jsontext
from sampan.client.registry import RegistryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli
    from sampan.spec.reference import Reference

USAGE = "[OPTIONS] [MANIFEST_LIST] MANIFEST"
ARGS = (1, 2)
FLAGS = """
      --insecure   Speak to a registry over plain http or with any certificate
  -v, --verbose    Show layers and platform too
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    verbose = opts.flag("verbose")
    name = lists.named(args[-1], "")
    if len(args) == 2:
        found = Lists(cli).get(lists.named(args[0], ""), name)
        if found is None:
            raise CommandError(f"No such manifest: {name.familiar()}")
        return _show(cli, found if verbose else lists.manifest_of(found))
    mine = Lists(cli).all(name)
    if mine:
        return _list(cli, mine, verbose)
    place, raw, media_type, digest = lists.fetch(cli, name, insecure=opts.flag("insecure"))
    if media_type not in lists.LISTS:
        document = lists.image(place, name, str(name), raw, media_type, digest)
        return _show(cli, document if verbose else lists.manifest_of(document))
    entries = jsontext.loads(raw).get("manifests") or []
    if not verbose:
        described = [{**entry, "platform": entry.get("platform") or {}} for entry in entries]
        cli.line(lists.list_bytes(described).decode())
        return 0
    documents = []
    for entry in entries:
        try:
            manifest, kind, own = place.manifest(name.path, entry["digest"])
        except RegistryError as e:
            raise CommandError(str(e)) from e
        documents.append(_member(place, name, manifest, kind, own, entry))
    return _list(cli, documents, verbose=True)


def _member(place: Any, name: Reference, raw: bytes, kind: str, digest: str, entry: dict[str, Any]) -> dict[str, Any]:
    return lists.image(place, name, f"{name}@{digest}", raw, kind, digest, platform=entry.get("platform") or {})


def _list(cli: Cli, documents: list[dict[str, Any]], verbose: bool) -> int:
    if verbose:
        return _show(cli, documents)
    cli.line(lists.list_bytes([document["Descriptor"] for document in documents]).decode())
    return 0


def _show(cli: Cli, value: Any) -> int:
    cli.line(jsontext.indented(value, "\t"))
    return 0
