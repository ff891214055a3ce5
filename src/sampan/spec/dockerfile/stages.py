"""A Dockerfile's text as stages of instructions: `parse` and, for the text that ONBUILD keeps, `parse_trigger`.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sampan.spec.dockerfile import lines, reading
from sampan.spec.dockerfile.errors import NOWHERE, DockerfileError, Range
from sampan.spec.dockerfile.instructions import Arg, From, Instruction
from sampan.spec.dockerfile.lines import Directive, Warning


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """FROM and what follows. `name` is lower case, '' without AS; `range` is FROM's."""

    index: int
    start: From
    instructions: tuple[Instruction, ...]

    @property
    def name(self) -> str:
        return self.start.stage

    @property
    def base(self) -> str:
        return self.start.base

    @property
    def platform(self) -> str:
        return self.start.platform

    @property
    def range(self) -> Range:
        return self.start.range


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    text: str
    escape: str  # the escape character, for `words.Variables`
    directives: tuple[Directive, ...]
    meta_args: tuple[Arg, ...]  # ARG before the first FROM
    stages: tuple[Stage, ...]
    warnings: tuple[Warning, ...]

    def stage(self, name: str) -> Stage | None:
        """By name, any case (the last of that name), or by number."""
        for stage in reversed(self.stages):
            if stage.name and stage.name == name.lower():
                return stage
        if name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < len(self.stages):
            return self.stages[int(name)]
        return None

    def directive(self, name: str) -> Directive | None:
        return next((d for d in self.directives if d.name == name), None)


def parse(text: bytes | str, *, filename: str = "Dockerfile") -> Dockerfile:
    """Read a Dockerfile; `filename` is for messages. Raises: DockerfileError with message and lines."""
    if not text:
        raise DockerfileError("the Dockerfile cannot be empty", classic=f"the Dockerfile ({filename}) cannot be empty")
    decoded = lines.decoded(text)
    found = _nodes(decoded)
    meta_args: list[Arg] = []
    begun: list[tuple[From, list[Instruction]]] = []
    for node in found.nodes:
        instruction = _instruction(node)
        if isinstance(instruction, From):
            begun.append((instruction, []))
        elif begun:
            begun[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            meta_args.append(instruction)
        else:
            raise DockerfileError("no build stage in current context", [node.range])
    if not begun:
        raise DockerfileError("dockerfile contains no stages to build")
    return Dockerfile(
        text=decoded,
        escape=found.escape,
        directives=tuple(found.directives),
        meta_args=tuple(meta_args),
        stages=tuple(
            Stage(index=index, start=start, instructions=tuple(instructions))
            for index, (start, instructions) in enumerate(begun)
        ),
        warnings=tuple(found.warnings),
    )


def _nodes(text: str) -> lines.Text:
    try:
        return lines.read(text)
    except DockerfileError as e:
        raise DockerfileError(e.message, e.ranges, classic=f"failed to parse Dockerfile: {e.message}") from None


def _instruction(node: lines.Node) -> Instruction:
    try:
        return reading.instruction(node)
    except DockerfileError as e:
        message = f"dockerfile parse error on line {node.range.start}: {e.message}"
        raise DockerfileError(message, e.ranges) from None


def parse_trigger(expression: str, range: Range = NOWHERE) -> Instruction:
    """Read one instruction out of an image's OnBuild; it is shown at `range`, FROM's. Raises: DockerfileError."""
    nodes = lines.read(lines.decoded(expression)).nodes
    if len(nodes) != 1:
        raise DockerfileError("onbuild trigger should be a single expression")
    reading.refuse_trigger(nodes[0].keyword)
    return reading.instruction(replace(nodes[0], range=range))
