"""A Dockerfile's text as stages of instructions: `parse` and, for the text that ONBUILD keeps, `parse_trigger`. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sampan.spec.dockerfile.errors import Range
from sampan.spec.dockerfile.instructions import Arg, From, Instruction


@dataclass(frozen=True, slots=True)
class Directive:
    """`# syntax=…`, `# escape=…` or `# check=…` at the top."""

    name: str
    value: str
    range: Range


@dataclass(frozen=True, slots=True)
class Warning:
    """What the reader noticed on the way (an empty continuation line); `checks.py` makes BuildKit's warning of it."""

    message: str
    range: Range


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
        if name.isascii() and name.isdigit() and int(name) < len(self.stages):
            return self.stages[int(name)]
        return None


def parse(text: bytes | str) -> Dockerfile:
    """Read a Dockerfile. Raises: DockerfileError with message and lines."""
    raise NotImplementedError


def parse_trigger(expression: str) -> Instruction:
    """Read one instruction out of an image's OnBuild. Raises: DockerfileError."""
    raise NotImplementedError
