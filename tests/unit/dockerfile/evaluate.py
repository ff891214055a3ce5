"""The configuration that a stage's instructions make, by the language alone, without the builder's graph."""

from __future__ import annotations

from typing import Any

from sampan.spec.dockerfile import config
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.config import DialectName
from sampan.spec.dockerfile.stages import Dockerfile
from sampan.spec.dockerfile.words import Variables

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def configuration(dockerfile: Dockerfile, dialect: DialectName, build_args: dict[str, str]) -> dict[str, Any]:
    """The last stage's configuration, on a base that has a PATH and a shell as CMD. Only for a single stage."""
    made: dict[str, Any] = {"Env": [f"PATH={PATH}"], "Cmd": ["/bin/sh"]}
    arguments: dict[str, str] = {}
    cmd_set = False
    (stage,) = dockerfile.stages
    for instruction in stage.instructions:
        environment = dict(entry.partition("=")[::2] for entry in made["Env"])
        scope = Variables({**arguments, **environment}, dockerfile.escape)
        if isinstance(instruction, i.Arg):
            for argument in instruction.arguments:
                value = build_args.get(argument.key, argument.value)
                if value is not None:
                    arguments[argument.key] = scope.word(value)
                if dialect == "buildkit":
                    scope = Variables({**arguments, **environment}, dockerfile.escape)
            continue
        made = config.apply(made, instruction.expanded(scope), dialect=dialect, cmd_set=cmd_set)
        cmd_set = cmd_set or isinstance(instruction, i.Cmd)
    return {key: value for key, value in sorted(made.items()) if value}
