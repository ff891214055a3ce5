"""What can be said of a Dockerfile without building it: the build checks, a target's outline, the list of targets.

Pure.

Source: BuildKit's `requests` (outline, targets) as Docker Engine 28.5 answers them; rules in spec/dockerfile/checks.py.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sampan.engine.builder.definition import Definition
from sampan.engine.builder.failures import BuildFailure
from sampan.engine.builder.graph import contexts, reach
from sampan.engine.builder.graph.values import Target
from sampan.engine.builder.progress import BuildWarning
from sampan.engine.builder.request import BuildRequest
from sampan.spec.dockerfile import checkrules, checks
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.errors import DockerfileError, Range
from sampan.spec.dockerfile.ignore import Ignore
from sampan.spec.dockerfile.stages import Stage
from sampan.spec.dockerfile.words import Variables


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What `--check` answers. error: why it cannot be built, and where."""

    warnings: Sequence[BuildWarning] = ()
    error: BuildFailure | None = None


OVERRIDE = "BUILDKIT_DOCKERFILE_CHECK"
_NEEDS_IMAGES = ("UndefinedVar",)


def findings(
    found: Definition,
    request: BuildRequest,
    targets: Iterable[Target] | None,
    ignores: Mapping[str, tuple[str, ...]] | None = None,
    *,
    everywhere: bool = False,
) -> list[checkrules.CheckWarning]:
    """Return the findings of the build checks; targets None: the graph could not be made, so less is known.

    everywhere: in all stages, as `--check` has it; a build speaks of the stages that it needs.
    """
    foreign: dict[checkrules.CheckWarning, None] = {}
    environments: dict[int, Mapping[str, str]] = {}
    stages: set[int] | None = None
    for target in targets or ():
        environments |= target.environments
        stages = (stages or set()) | set(target.stages)
        foreign |= dict.fromkeys(_foreign(target))
    main = contexts.parse(request.contexts.get(contexts.MAIN, "local:context"))
    all_ = checks.check(
        found.dockerfile,
        build_args=request.build_args,
        environments=environments,
        stages=None if everywhere else stages,
        ignore=Ignore((ignores or {}).get(main.value, ())),
        override=request.build_args.get(OVERRIDE) or "",
    )
    wanted = checkrules.options(found.dockerfile, request.build_args.get(OVERRIDE) or "")
    all_ += [one for one in foreign if wanted.counts(one.rule)]
    return [one for one in all_ if targets is not None or one.rule not in _NEEDS_IMAGES]


def _foreign(target: Target) -> list[checkrules.CheckWarning]:
    return [
        checkrules.warning("InvalidBaseImagePlatform", [Range(*one.range)], one.ref, str(one.found), str(one.wanted))
        for one in target.foreign
    ]


def warnings(found: Definition, seen: Iterable[checkrules.CheckWarning]) -> list[BuildWarning]:
    """Return findings as a client is told of them."""
    return [
        BuildWarning(
            key="",
            rule=one.rule,
            message=one.detail,
            description=one.description,
            url=one.url,
            ranges=tuple((line, line) for range_ in one.ranges for line in range(range_.start, range_.end + 1)),
            filename=found.filename,
            source=found.text,
        )
        for one in seen
    ]


def insist(found: Definition, request: BuildRequest, seen: list[checkrules.CheckWarning]) -> None:
    """End the build when there are findings and the Dockerfile wants them to be errors. Raises: DockerfileError."""
    if seen and checkrules.options(found.dockerfile, request.build_args.get(OVERRIDE) or "").error:
        raise checkrules.failure(seen)


def outline(found: Definition, request: BuildRequest) -> dict[str, Any]:
    """Return what a target takes: arguments, secrets, agents, cache mounts of all stages that it needs."""
    dockerfile = found.dockerfile
    target = reach.target_of(dockerfile, request.target, classic=False)
    outer = _outer(found, request)
    bases = {stage.index: _expanded(stage.base, outer, dockerfile.escape) for stage in dockerfile.stages}
    stages = [dockerfile.stages[index] for index in reach.needed(dockerfile, target, bases, {})]
    result: dict[str, Any] = {"name": target.name}
    if target.start.comment:
        result["description"] = target.start.comment
    mounts = [
        (mount, one.range)
        for stage in stages
        for one in stage.instructions
        if isinstance(one, i.Run)
        for mount in one.expanded(Variables({}, dockerfile.escape)).mounts
    ]
    for key, kind, default in (("secrets", "secret", ""), ("ssh", "ssh", "default"), ("cache", "cache", "")):
        rows: dict[str, dict[str, Any]] = {}
        for mount, range_ in mounts:
            if mount.type == kind:
                name = mount.id or (mount.target if kind == "cache" else mount.source) or default
                more = {"required": True} if mount.required else {}
                rows.setdefault(name, {("ID" if kind == "cache" else "name"): name, **more, **_location(range_)})
        if rows and kind != "cache":
            result[key] = list(rows.values())
    arguments = _arguments(found, request, stages)
    if arguments:
        result["args"] = arguments
    return {**result, "sources": [_source(found)]}


def _arguments(found: Definition, request: BuildRequest, stages: list[Stage]) -> list[dict[str, Any]]:
    """Every ARG of these stages and of their FROM; one without a value of its own is the global one of its name."""
    outer = {one.key: (one, line) for line in found.dockerfile.meta_args for one in line.arguments}
    values = _outer(found, request)
    scope: dict[str, str] = {}
    rows: dict[str, tuple[int, dict[str, Any]]] = {}
    for name in _used(stages, values, found.dockerfile.escape):
        if name in outer:
            argument, at = outer[name]
            row = {"name": name, **({"description": argument.comment} if argument.comment else {})}
            if name in values:
                row["value"] = values[name]
            rows[name] = (at.range.start, {**row, **_location(at.range)})
    for stage in stages:
        for line in stage.instructions:
            if not isinstance(line, i.Arg):
                continue
            for one in line.arguments:
                known, where = outer.get(one.key, (one, line)) if one.value is None else (one, line)
                value = request.build_args.get(one.key)
                if value is None and known.value is not None:
                    value = _expanded(known.value, scope, found.dockerfile.escape)
                row = {"name": one.key}
                if known.comment or one.comment:
                    row["description"] = known.comment or one.comment
                if value is not None:
                    row["value"] = scope[one.key] = value
                rows.setdefault(one.key, (where.range.start, {**row, **_location(where.range)}))
    return [row for _, row in sorted(rows.values(), key=lambda item: item[0])]


def _outer(found: Definition, request: BuildRequest) -> dict[str, str]:
    """The values of the ARGs before the first FROM."""
    scope: dict[str, str] = {}
    for line in found.dockerfile.meta_args:
        for one in line.arguments:
            value = request.build_args.get(one.key)
            if value is None and one.value is not None:
                value = _expanded(one.value, scope, found.dockerfile.escape)
            if value is not None:
                scope[one.key] = value
    return scope


def _used(stages: Iterable[Stage], scope: Mapping[str, str], escape: str) -> set[str]:
    """The names that the FROM of these stages mention."""
    variables = Variables(scope, escape)
    for stage in stages:
        for text in (stage.base, stage.platform):
            with suppress(DockerfileError):
                variables.word(text)
    return variables.used | variables.unset


def _expanded(text: str, scope: Mapping[str, str], escape: str) -> str:
    try:
        return Variables(scope, escape).word(text)
    except DockerfileError:
        return text


def targets(found: Definition) -> dict[str, Any]:
    """Return the stages that can be built."""
    last = len(found.dockerfile.stages) - 1
    listed = []
    for stage in found.dockerfile.stages:
        row: dict[str, Any] = {"name": stage.name} if stage.name else {}
        if stage.start.comment:
            row["description"] = stage.start.comment
        if stage.index == last:
            row["default"] = True
        listed.append({**row, "base": stage.base, **_location(stage.range)})
    return {"targets": listed, "sources": [_source(found)]}


def _location(range_: Range) -> dict[str, Any]:
    return {"location": {"ranges": [{"start": {"line": range_.start}, "end": {"line": range_.end}}]}}


def _source(found: Definition) -> str:
    return base64.b64encode(found.text).decode()
