"""`sampan images`."""

from __future__ import annotations

from sampan.cli import format as format_
from sampan.cli import units
from sampan.cli.listing import FORMAT_HELP, filters, print_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] [REPOSITORY[:TAG]]"
ARGS = (0, 1)
FLAGS = f"""
  -a, --all             Show intermediate images too
      --digests         Show digests
  -f, --filter filter   Show only images that match these conditions
      --format string   {FORMAT_HELP}
      --no-trunc        Do not cut anything short
  -q, --quiet           Only show image IDs
      --tree            Show images of several platforms as a tree (EXPERIMENTAL)
"""
RAW_FORMAT = "repository=Repository tag=Tag image_id=ID created_at=CreatedAt virtual_size=Size"


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    wanted = opts.many("filter") + [f"reference={name}" for name in args]
    if opts.flag("tree"):
        from sampan.cli.image import tree

        tree.refuse(opts)
        found = cli.engine.get("/images/json", all=opts.flag("all"), filters=filters(wanted), manifests=True)
        tree.show(cli, found, all_=opts.flag("all"))
        return 0
    images = cli.engine.get("/images/json", all=opts.flag("all"), filters=filters(wanted))
    template = opts.text("format") or cli.config.text("imagesFormat")
    digests = opts.flag("digests") or "{{.Digest}}" in template
    rows = [row for image in images for row in named(image, opts.flag("no-trunc"), digests)]
    if opts.flag("quiet"):
        rows = list({row["Id"]: row for row in rows}.values())
    columns = "Repository Tag Digest ID CreatedSince Size" if digests else "Repository Tag ID CreatedSince Size"
    print_list(
        cli,
        FIELDS,
        rows,
        template,
        columns,
        quiet=opts.flag("quiet"),
        kind="imageContext",
        raw=RAW_FORMAT,
    )
    return 0


def named(image: dict[str, Any], whole: bool, digests: bool) -> Iterator[dict[str, Any]]:
    """Yield one row per name of an image: each tag, or each digest without a tag, or `<none>`."""
    tags: dict[str, list[str]] = {}
    for reference in image.get("RepoTags") or ():
        repository, _, tag = reference.rpartition(":")
        if reference != "<none>:<none>":
            tags.setdefault(repository, []).append(tag)
    names: dict[str, list[str]] = {}
    for reference in image.get("RepoDigests") or ():
        repository, _, digest = reference.partition("@")
        if reference != "<none>@<none>":
            names.setdefault(repository, []).append(digest)
    row = {**image, "no-trunc": whole}
    none = "<none>"
    for repository, its_tags in tags.items():
        its_digests = names.pop(repository, [])
        for tag in its_tags:
            for digest in (its_digests or [none]) if digests else [none]:
                yield {**row, "Repository": repository, "Tag": tag, "Digest": digest}
    for repository, its_digests in names.items():
        for digest in its_digests if digests else its_digests[:1]:
            yield {**row, "Repository": repository, "Tag": none, "Digest": digest if digests else none}
    if not tags and not image.get("RepoDigests"):
        yield {**row, "Repository": none, "Tag": none, "Digest": none}


def _ago(image: dict[str, Any]) -> str:
    return units.ago(image["Created"]) if image["Created"] > 0 else "N/A"


FIELDS: format_.Fields = {
    "ID": ("IMAGE ID", lambda i: i["Id"] if i["no-trunc"] else units.short_id(i["Id"])),
    "Repository": ("REPOSITORY", lambda i: i["Repository"]),
    "Tag": ("TAG", lambda i: i["Tag"]),
    "Digest": ("DIGEST", lambda i: i["Digest"]),
    "CreatedSince": ("CREATED", _ago),
    "CreatedAt": ("CREATED AT", lambda i: units.local_time(i["Created"])),
    "Size": ("SIZE", lambda i: units.human_size(i["Size"], 3)),
    "Containers": ("CONTAINERS", lambda i: "N/A" if i.get("Containers", -1) < 0 else str(i["Containers"])),
    "VirtualSize": ("SIZE", lambda i: units.human_size(i["Size"])),
    "SharedSize": ("SHARED SIZE", lambda i: _size_or_none(i.get("SharedSize", -1))),
    "UniqueSize": ("UNIQUE SIZE", lambda i: _unique(i)),
}


def _size_or_none(size: int) -> str:
    return "N/A" if size < 0 else units.human_size(size, 3)


def _unique(image: dict[str, Any]) -> str:
    shared = image.get("SharedSize", -1)
    return "N/A" if shared < 0 else units.human_size(image["Size"] - shared, 3)
