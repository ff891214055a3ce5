"""`sampan tag`, and how a name is split into repository and tag."""

from __future__ import annotations

from sampan.cli.registry.credentials import full_name
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

USAGE = "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]"
ARGS = (2, 2)
FLAGS = ""


def run(cli: Session, opts: Options, args: list[str]) -> int:
    repository, tag = split(args[1])
    cli.engine.post(f"/images/{quoted(args[0])}/tag", repo=full_name(repository), tag=tag or "latest")
    return 0


def split(name: str) -> tuple[str, str]:
    """`host:5000/a/b:tag` → ("host:5000/a/b", "tag"); a colon before the last slash is a port's."""
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, ""
    return repository, tag
