"""The Dockerfile instructions that `import --change` and `commit --change` accept, applied to a config. Pure.

They are read by the builder's own language and change a config as its classic dialect does.
Source: Engine API 1.51; what is accepted, and error texts, as Docker Engine 28.5 answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sampan.errors import InvalidArgument
from sampan.spec import oci_image

_ACCEPTED = frozenset(
    ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR")
)
Config = dict[str, Any]


def apply(config: Mapping[str, Any] | None, changes: Iterable[str]) -> Config:
    """The config after these instructions, one or more a string. Raises: InvalidArgument in Docker's words."""
    result = oci_image.run_config(dict(config or {}))
    texts = list(changes)
    if not texts:
        return result
    # here, because importing the language takes 15 ms of the start of an engine that may never need it
    from sampan.spec.dockerfile import config as configuration
    from sampan.spec.dockerfile import lines, reading
    from sampan.spec.dockerfile.errors import DockerfileError
    from sampan.spec.dockerfile.instructions import Cmd
    from sampan.spec.dockerfile.words import Variables

    try:
        found = lines.read("\n".join(texts))
        for node in found.nodes:
            if node.keyword.upper() not in _ACCEPTED:
                raise InvalidArgument(f"{node.keyword} is not a valid change command")
        cmd_set = False
        for instruction in [reading.instruction(node) for node in found.nodes]:
            scope = Variables(dict(entry.partition("=")[::2] for entry in result.get("Env") or []), found.escape)
            expanded = instruction.expanded(scope)
            result = configuration.apply(result, expanded, dialect="classic", cmd_set=cmd_set)
            cmd_set = cmd_set or isinstance(instruction, Cmd)
    except DockerfileError as e:
        raise InvalidArgument(e.classic) from e
    return oci_image.run_config(result)
