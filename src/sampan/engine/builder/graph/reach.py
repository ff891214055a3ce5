"""Which stages a build needs, and which images stand below them. Pure.

    classic    every stage of the file up to the target
    buildkit   what the target is made from: FROM, COPY --from, RUN --mount=from

Invariant: a stage refers to earlier stages only; what looks like a later one is the name of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sampan.errors import InvalidArgument
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.errors import DockerfileError, Range
from sampan.spec.dockerfile.gotext import nearest
from sampan.spec.dockerfile.stages import Dockerfile, Stage

SCRATCH = "scratch"


def target_of(dockerfile: Dockerfile, name: str, *, classic: bool) -> Stage:
    """Return the stage to build, by name; the last one for "". Raises: InvalidArgument in Docker's words."""
    if not name:
        return dockerfile.stages[-1]
    stage = earlier(dockerfile, name, len(dockerfile.stages), numbers=False)
    if stage is None:
        near = "" if classic else nearest(name, [stage.name for stage in dockerfile.stages if stage.name])
        hint = f" (did you mean {near}?)" if near else ""
        raise InvalidArgument(f'target stage "{name}" could not be found{hint}')
    return stage


def earlier(dockerfile: Dockerfile, name: str, index: int, *, numbers: bool) -> Stage | None:
    """Return the stage that `name` means inside stage `index`. numbers: `0` is one, too (COPY --from, not FROM)."""
    for stage in reversed(dockerfile.stages[:index]):
        if stage.name and stage.name == name.lower():
            return stage
    if numbers and name.isascii() and name.isdecimal() and int(name) < index:
        return dockerfile.stages[int(name)]
    return None


@dataclass(frozen=True, slots=True)
class FromFlag:
    """One `from` of COPY or RUN --mount. number: a number may mean a stage (COPY only)."""

    name: str
    range: Range
    number: bool


def sources(instructions: Iterable[i.Instruction]) -> list[FromFlag]:
    """Return every `from`, in order."""
    found = []
    for instruction in instructions:
        if isinstance(instruction, i.CopyInstruction) and instruction.from_:
            found.append(FromFlag(instruction.from_, instruction.range, True))
        elif isinstance(instruction, i.Run):
            found += [FromFlag(mount.from_, instruction.range, False) for mount in instruction.mounts if mount.from_]
    return found


def stage_of(dockerfile: Dockerfile, source: FromFlag, index: int, *, classic: bool) -> Stage | None:
    """Return the stage that a `from` inside stage `index` means, None for an image or a context.

    Raises: DockerfileError for a number that no stage has, and for a stage that would need itself.
    """
    found = earlier(dockerfile, source.name, index, numbers=source.number)
    if found is not None:
        return found
    own = dockerfile.stages[index].name
    number = source.number and source.name.isascii() and source.name.isdecimal()
    same = number and int(source.name) == index
    if classic and number:
        reason = "refers to current build stage" if same else "index out of bounds"
        raise DockerfileError(f"invalid from flag value {source.name}: {reason}", [source.range])
    if not classic and (same or (own and own == source.name.lower())):
        raise DockerfileError(f"circular dependency detected on stage: {own or f'stage-{index}'}", [source.range])
    if number:
        raise DockerfileError(f"invalid stage index {source.name}")
    if "$" in source.name:
        raise DockerfileError(
            f"variable expansion is not supported for {'--from' if source.number else 'from'}, define a new stage with "
            "FROM using ARG from global scope as a workaround"
        )
    return None


def needed(
    dockerfile: Dockerfile, target: Stage, bases: Mapping[int, str], triggers: Mapping[int, Sequence[i.Instruction]]
) -> list[int]:
    """Return the stages that the target is made from, itself included, in the order of the file.

    bases: what each FROM says, expanded. triggers: the ONBUILD instructions that each stage begins with, as far as
    known.
    """
    found: set[int] = set()
    waiting = [target.index]
    while waiting:
        index = waiting.pop()
        if index in found:
            continue
        found.add(index)
        stage = dockerfile.stages[index]
        base = earlier(dockerfile, bases[index], index, numbers=False)
        below = [base] if base is not None else []
        for source in sources([*triggers.get(index, ()), *stage.instructions]):
            other = earlier(dockerfile, source.name, index, numbers=source.number)
            below += [other] if other is not None else []
        waiting += [other.index for other in below]
    return sorted(found)
