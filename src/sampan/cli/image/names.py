"""Image names on the client: split into repository and tag, and the checks that docker makes before it asks the engine.

Names that are plainly good are known without the grammar; only a doubtful one loads it (`spec.reference`, 15 ms).
"""

from __future__ import annotations

from sampan.cli.session import CommandError
from sampan.errors import InvalidArgument

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


def split(name: str) -> tuple[str, str]:
    """Split `host:5000/a/b:tag` → ("host:5000/a/b", "tag"); a colon before the last slash is a port's."""
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, ""
    return repository, tag


def problem(name: str) -> str:
    """Say what is wrong with a name, "" when nothing is."""
    if len(name) < 128 and all(word and _PLAIN.issuperset(word) for word in split(name)[0].split("/")):
        tag = split(name)[1]
        if not tag or _PLAIN.issuperset(tag.replace(".", "0").replace("-", "0")):
            return ""
    from sampan.spec import reference

    try:
        reference.parse_any(name)
    except InvalidArgument as e:
        return e.message
    return ""


def check(name: str) -> None:
    """Check a name. Raises: CommandError for one that cannot be."""
    if wrong := problem(name):
        raise CommandError(wrong)
