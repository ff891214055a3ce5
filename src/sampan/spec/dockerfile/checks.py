"""Build checks: what works but probably should not be written so. Pure.

`check` reads a Dockerfile as a build would and returns warnings; `# check=skip=…;error=true` at its top says which
count. The order of findings is BuildKit's, as are the rules (checkrules.py). Two need more than the text:
CopyIgnoredFile the ignore patterns, InvalidBaseImagePlatform the images, which a build has.

Source: docs.docker.com/reference/build-checks; corner cases as BuildKit of Docker Engine 28.5 answers them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sampan.errors import InvalidArgument
from sampan.spec import reference
from sampan.spec.dockerfile import config
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.checkrules import CheckWarning, options, warning
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.flags import suggestion
from sampan.spec.dockerfile.ignore import Ignore
from sampan.spec.dockerfile.stages import Dockerfile, Stage
from sampan.spec.dockerfile.words import Variables
from sampan.spec.go_values import quote

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_PUBLIC = re.compile(r"(?:_|^)public(?:_|$)", re.IGNORECASE)
PLATFORM_ARGUMENTS = tuple(
    f"{where}{what}" for where in ("BUILD", "TARGET") for what in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
)


_INTERNAL = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")  # asked for by name without ARG


def check(
    dockerfile: Dockerfile,
    *,
    build_args: Mapping[str, str | None] | None = None,
    environments: Mapping[int, Mapping[str, str]] | None = None,
    stages: Iterable[int] | None = None,
    ignore: Ignore | None = None,
    override: str = "",
) -> list[CheckWarning]:
    """Return all findings that count. A place where a build would stop ends its stage.

    environments: what the base images of stages (by index) set; where none is given, PATH is taken as set.
    stages: only these, by index, for what is found inside stages; None: all. Raises: DockerfileError for bad options.
    """
    wanted = options(dockerfile, override)
    findings = [
        *_in_text(dockerfile),
        *_in_from(dockerfile, dict(build_args or {})),
        *_in_stages(dockerfile, dict(build_args or {}), environments or {}, stages, ignore or Ignore()),
    ]
    return [finding for finding in findings if wanted.counts(finding.rule)]


def _in_text(dockerfile: Dockerfile) -> Iterator[CheckWarning]:
    """What can be seen without knowing any value."""
    for empty in dockerfile.warnings:
        yield warning("NoEmptyContinuation", [empty.range])
    names: set[str] = set()
    for stage in dockerfile.stages:
        start = stage.start
        if start.stage_written != start.stage:
            yield warning("StageNameCasing", [start.range], start.stage_written)
        if start.as_written and not _same_case(start.written, start.as_written):
            yield warning("FromAsCasing", [start.range], start.as_written, start.written)
        if start.stage in ("scratch", "context"):
            yield warning("ReservedStageName", [start.range], quote(start.stage))
        if start.stage in names:
            yield warning("DuplicateStageName", [start.range], quote(start.stage))
        names.update({start.stage} - {""})
    for instruction in _everything(dockerfile):
        if isinstance(instruction, i.Maintainer):
            yield warning("MaintainerDeprecated", [instruction.range])
        if isinstance(instruction, i.From | i.Arg) and instruction.misdescribed:
            keyword, name = instruction.keyword, instruction.misdescribed
            yield warning("InvalidDefinitionDescription", [instruction.range], keyword, name)
    yield from _keyword_casing(dockerfile)


def _everything(dockerfile: Dockerfile) -> Iterator[i.Instruction]:
    yield from dockerfile.meta_args
    for stage in dockerfile.stages:
        yield stage.start
        yield from stage.instructions


def _same_case(from_: str, as_: str) -> bool:
    if from_ == from_.lower():
        return as_ == as_.lower()
    return as_ == as_.upper() if from_ == from_.upper() else True


def _keyword_casing(dockerfile: Dockerfile) -> Iterator[CheckWarning]:
    commands = [c for stage in dockerfile.stages for c in (stage.start, *stage.instructions)]
    lower = sum(command.written == command.written.lower() for command in commands)
    upper = sum(command.written == command.written.upper() for command in commands)
    majority = "lowercase" if lower > upper else "uppercase"
    for command in commands:
        right = command.written.lower() if majority == "lowercase" else command.written.upper()
        if command.written != right:
            yield warning("ConsistentInstructionCasing", [command.range], command.written, majority)


# ── FROM ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _in_from(dockerfile: Dockerfile, build_args: Mapping[str, str | None]) -> Iterator[CheckWarning]:
    predefined = dict.fromkeys(PLATFORM_ARGUMENTS, "x") | {"TARGETSTAGE": "x"}
    given = _global_scope(dockerfile, build_args, predefined)
    defaults = _global_scope(dockerfile, {}, predefined)
    for stage in dockerfile.stages:
        try:
            if not _is_reference(Variables(defaults, dockerfile.escape).word(stage.base)):
                yield warning("InvalidDefaultArgInFrom", [stage.range], stage.base)
        except DockerfileError:
            return
    for stage in dockerfile.stages:
        base, platform = Variables(given, dockerfile.escape), Variables(given, dockerfile.escape)
        try:
            base.word(stage.base)
            constant = platform.word(stage.platform)
        except DockerfileError:
            return
        for name in (*sorted(base.unset), *sorted(platform.unset)):
            yield warning("UndefinedArgInFrom", [stage.range], name, suggestion(name, given))
        if stage.platform and not platform.unset:
            if platform.used == {"TARGETPLATFORM"}:
                yield warning("RedundantTargetPlatform", [stage.range], stage.platform.strip("'\""))
            if not platform.used and not _names_platform(stage.name, constant):
                yield warning("FromPlatformFlagConstDisallowed", [stage.range], quote(constant))


def _global_scope(
    dockerfile: Dockerfile, build_args: Mapping[str, str | None], predefined: Mapping[str, str]
) -> dict[str, str]:
    scope = dict(predefined)
    for line in dockerfile.meta_args:
        for argument in line.arguments:
            value = build_args.get(argument.key)
            if value is None and argument.value is not None:
                try:
                    value = Variables(scope, dockerfile.escape).word(argument.value)
                except DockerfileError:
                    continue
            scope[argument.key] = value or ""
    return scope


def _is_reference(text: str) -> bool:
    try:
        reference.parse(text)
    except InvalidArgument:
        return False
    return True


def _names_platform(stage: str, platform: str) -> bool:
    """A stage may be for one platform when its name says so: `FROM --platform=linux/arm64 … AS build-arm64`."""
    os, _, rest = platform.partition("/") if "/" in platform else ("linux", "", platform)
    architecture = rest.split("/")[0]
    return bool(stage) and (os in stage or (bool(architecture) and architecture in stage))


# ── inside stages ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Scope:
    """What holds at a place in a stage; a stage on top of another one begins with a copy of its end."""

    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    workdir_set: bool = False
    shell_set: bool = False

    def begun_on(self) -> _Scope:
        return _Scope(dict(self.env), dict(self.args), self.workdir_set, self.shell_set)


def _in_stages(
    dockerfile: Dockerfile,
    build_args: Mapping[str, str | None],
    environments: Mapping[int, Mapping[str, str]],
    wanted: Iterable[int] | None,
    ignore: Ignore,
) -> Iterator[CheckWarning]:
    meta = _global_scope(dockerfile, build_args, {})
    ends: dict[str, _Scope] = {}
    indices = None if wanted is None else frozenset(wanted)
    for stage in dockerfile.stages:
        base = ends.get(stage.base.lower())
        scope = base.begun_on() if base else _Scope(dict(environments.get(stage.index, {"PATH": ""})))
        if stage.name:
            ends[stage.name] = scope
        findings = _StageChecks(dockerfile, stage, scope, meta, build_args, ignore).run()
        if indices is None or stage.index in indices:
            yield from findings
        else:
            list(findings)  # later stages may stand on this one


class _StageChecks:
    """One walk through a stage's instructions."""

    def __init__(
        self,
        dockerfile: Dockerfile,
        stage: Stage,
        scope: _Scope,
        meta: Mapping[str, str],
        build_args: Mapping[str, str | None],
        ignore: Ignore,
    ) -> None:
        self.dockerfile, self.stage, self.scope = dockerfile, stage, scope
        self.meta, self.build_args, self.ignore = meta, build_args, ignore

    def run(self) -> Iterator[CheckWarning]:
        last: dict[type[i.Instruction], i.Instruction] = {}
        for instruction in self.stage.instructions:
            kind = type(instruction)
            if kind in (i.Cmd, i.Entrypoint, i.Healthcheck):
                if kind in last:
                    yield warning("MultipleInstructionsDisallowed", [last[kind].range], instruction.keyword)
                last[kind] = instruction
            known = {**self.scope.args, **self.scope.env}
            tracer = _Tracer(known, self.dockerfile.escape)
            try:
                instruction, stopped = self.replaced(instruction, tracer), False
                config.apply({}, instruction)
            except DockerfileError:
                stopped = True
            for name in tracer.missing:
                if name in _INTERNAL:
                    continue
                hint = suggestion(name, known)
                yield warning("UndefinedVar", [instruction.range], name, hint.replace("mean ", "mean $"))
            if stopped:
                return
            yield from self.findings(instruction)

    def replaced(self, instruction: i.Instruction, tracer: _Tracer) -> i.Instruction:
        """Expanded; of ARG's arguments each sees those before it. Raises: DockerfileError."""
        if not isinstance(instruction, i.Arg):
            return instruction.expanded(tracer)
        for argument in instruction.arguments:
            key = tracer.word(argument.key)
            default = None if argument.value is None else tracer.word(argument.value)
            value = self.build_args.get(key)
            value = value if value is not None else default if default is not None else self.meta.get(key, "")
            self.scope.args[key] = value
            tracer.env = {**tracer.env, key: value}
        return instruction

    def findings(self, instruction: i.Instruction) -> Iterator[CheckWarning]:
        """Yield what is to say about an expanded instruction, which then takes effect."""
        at = [instruction.range]
        match instruction:
            case i.Env():
                if instruction.legacy:
                    yield warning("LegacyKeyValueFormat", at, "ENV")
                for pair in instruction.pairs:
                    self.scope.env[pair.key] = pair.value
                yield from _secrets(instruction, [pair.key for pair in instruction.pairs])
            case i.Arg():
                yield from _secrets(instruction, [argument.key for argument in instruction.arguments])
            case i.Label() if instruction.legacy:
                yield warning("LegacyKeyValueFormat", at, "LABEL")
            case i.Cmd() | i.Entrypoint() if instruction.command.shell and not self.scope.shell_set:
                yield warning("JSONArgsRecommended", at, instruction.keyword)
            case i.Shell():
                self.scope.shell_set = True
            case i.Workdir():
                if not instruction.path.startswith("/") and not self.scope.workdir_set:
                    yield warning("WorkdirRelativePath", at, quote(instruction.path))
                self.scope.workdir_set = True
            case i.Expose():
                yield from _ports(instruction)
            case i.Add() | i.CopyInstruction():
                yield from self.ignored(instruction)
            case _:
                pass

    def ignored(self, instruction: i.Add | i.CopyInstruction) -> Iterator[CheckWarning]:
        if isinstance(instruction, i.CopyInstruction) and instruction.from_:
            return
        for source in instruction.sources:
            path = source.strip("/")
            if path not in ("", ".") and "://" not in source and self.ignore.excludes(path):
                yield warning("CopyIgnoredFile", [instruction.range], instruction.keyword, quote(source))


class _Tracer(Variables):
    """Notes what was missing word by word: two words that miss the same variable are two findings."""

    def __init__(self, env: Mapping[str, str], escape: str) -> None:
        super().__init__(env, escape)
        self.missing: list[str] = []

    def word(self, text: str) -> str:
        self.unset = set()
        try:
            return super().word(text)
        finally:
            self.missing += sorted(self.unset)

    def document(self, text: str) -> str:
        self.unset = set()
        try:
            return super().document(text)
        finally:
            self.missing += sorted(self.unset)


def _secrets(instruction: i.Instruction, keys: Iterable[str]) -> Iterator[CheckWarning]:
    for key in keys:
        if _SECRET.search(key) and not _PUBLIC.search(key):
            yield warning("SecretsUsedInArgOrEnv", [instruction.range], instruction.keyword, quote(key))


def _ports(instruction: i.Expose) -> Iterator[CheckWarning]:
    for port in instruction.ports:
        if ":" in port:
            yield warning("ExposeInvalidFormat", [instruction.range], port)
        protocol = port.rpartition("/")[2] if "/" in port else ""
        if protocol != protocol.lower():
            yield warning("ExposeProtoCasing", [instruction.range], port)
