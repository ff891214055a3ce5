"""What is written with every log line of a container, beside the line: chosen labels and variables, and the tag.

Which options a driver takes, and their values, is `sampan.supervisor.logs.options`.

Source: docs.docker.com, "Customize log driver output".
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sampan.errors import InvalidArgument
from sampan.spec import go_patterns


def _matcher(options: dict[str, str], name: str) -> Callable[[str], bool]:
    """Return the test of an option that is a pattern. Raises: InvalidArgument."""
    pattern = options.get(name)
    if not pattern:
        return lambda key: False
    try:
        return go_patterns.searcher(pattern)
    except go_patterns.BadPattern as e:
        raise InvalidArgument(str(e)) from None


def attributes(
    options: dict[str, str], *, labels: dict[str, str], env: list[str], id: str, name: str, image: str, image_id: str
) -> dict[str, str]:
    """Compute what is written with every line: chosen labels and variables, and the tag."""
    if not options:
        return {}
    chosen: dict[str, str] = {}
    wanted = [w for w in options.get("labels", "").split(",") if w]
    matches = _matcher(options, "labels-regex")
    for key, value in labels.items():
        if key in wanted or matches(key):
            chosen[key] = value
    wanted = [w for w in options.get("env", "").split(",") if w]
    matches = _matcher(options, "env-regex")
    for item in env:
        key, _, value = item.partition("=")
        if key in wanted or matches(key):
            chosen[key] = value
    if tag := options.get("tag"):
        chosen["tag"] = _render(
            tag,
            {
                "ID": id[:12],
                "FullID": id,
                "Name": name,
                "ImageName": image,
                "ImageID": image_id.removeprefix("sha256:")[:12],
                "ImageFullID": image_id,
                "DaemonName": "docker",
            },
        )
    return chosen


def _render(tag: str, fields: dict[str, str]) -> str:
    """Fill `{{.Name}}` in a tag. Raises: InvalidArgument naming the field, in Go's words."""

    def value(m: re.Match[str]) -> str:
        if m[1] not in fields:
            raise InvalidArgument(
                f'template: log-tag:1:{m.start() + 2}: executing "log-tag" at <.{m[1]}>:'
                f" can't evaluate field {m[1]} in type *logger.Info"
            )
        return fields[m[1]]

    return re.sub(r"\{\{\s*\.(\w+)\s*\}\}", value, tag)
