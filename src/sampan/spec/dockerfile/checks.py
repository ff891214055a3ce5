"""Build checks: what works but probably should not be written so. Pure.

`check` reads a Dockerfile as a build would and returns warnings; `# check=skip=…;error=true` at its top says which count.
The rules, their texts and the order of findings are BuildKit's. Two need more than the text: CopyIgnoredFile the ignore
patterns, InvalidBaseImagePlatform the images (`warning` makes one for whoever has them).

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
from sampan.spec.dockerfile.errors import DockerfileError, Range
from sampan.spec.dockerfile.flags import suggestion
from sampan.spec.dockerfile.ignore import Ignore
from sampan.spec.dockerfile.stages import Dockerfile, Stage
from sampan.spec.dockerfile.words import Variables
from sampan.spec.go_values import boolean, quote

_URL = "https://docs.docker.com/go/dockerfile/rule/"
_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_PUBLIC = re.compile(r"(?:_|^)public(?:_|$)", re.IGNORECASE)
PLATFORM_ARGUMENTS = tuple(
    f"{where}{what}" for where in ("BUILD", "TARGET") for what in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
)


_INTERNAL = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")  # asked for by name without ARG


@dataclass(frozen=True, slots=True)
class Rule:
    description: str
    text: str  # of a finding, with {} for its particulars
    experimental: bool = False


RULES = {
    "StageNameCasing": Rule("Stage names should be lowercase", "Stage name '{}' should be lowercase"),
    "FromAsCasing": Rule(
        "The 'as' keyword should match the case of the 'from' keyword", "'{}' and '{}' keywords' casing do not match"
    ),
    "NoEmptyContinuation": Rule(
        "Empty continuation lines will become errors in a future release", "Empty continuation line"
    ),
    "ConsistentInstructionCasing": Rule(
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
        "Command '{}' should match the case of the command majority ({})",
    ),
    "DuplicateStageName": Rule("Stage names should be unique", "Duplicate stage name {}, stage names should be unique"),
    "ReservedStageName": Rule(
        "Reserved words should not be used as stage names",
        "Stage name should not use the same name as reserved stage {}",
    ),
    "JSONArgsRecommended": Rule(
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
    ),
    "MaintainerDeprecated": Rule(
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        "Maintainer instruction is deprecated in favor of using label",
    ),
    "UndefinedArgInFrom": Rule("FROM command must use declared ARGs", "FROM argument '{}' is not declared{}"),
    "WorkdirRelativePath": Rule(
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base"
        " image changes",
        "Relative workdir {} can have unexpected results if the base image changes",
    ),
    "UndefinedVar": Rule("Variables should be defined before their use", "Usage of undefined variable '${}'{}"),
    "MultipleInstructionsDisallowed": Rule(
        "Multiple instructions of the same type should not be used in the same stage",
        "Multiple {} instructions should not be used in the same stage because only the last one will be used",
    ),
    "LegacyKeyValueFormat": Rule(
        "Legacy key/value format with whitespace separator should not be used",
        '"{0} key=value" should be used instead of legacy "{0} key value" format',
    ),
    "InvalidBaseImagePlatform": Rule(
        "Base image platform does not match expected target platform",
        'Base image {} was pulled with platform "{}", expected "{}" for current build',
    ),
    "RedundantTargetPlatform": Rule(
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
    ),
    "SecretsUsedInArgOrEnv": Rule(
        "Sensitive data should not be used in the ARG or ENV commands",
        "Do not use ARG or ENV instructions for sensitive data ({} {})",
    ),
    "InvalidDefaultArgInFrom": Rule(
        "Default value for global ARG results in an empty or invalid base image name",
        "Default value for ARG {} results in empty or invalid base image name",
    ),
    "FromPlatformFlagConstDisallowed": Rule(
        "FROM --platform flag should not use a constant value",
        "FROM --platform flag should not use constant value {}",
    ),
    "CopyIgnoredFile": Rule(
        "Attempting to Copy file that is excluded by .dockerignore",
        "Attempting to {} file {} that is excluded by .dockerignore",
        experimental=True,
    ),
    "InvalidDefinitionDescription": Rule(
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is"
        " not intended to be a description comment, add an empty line or comment between the instruction and the"
        " comment.",
        "Comment for {} should follow the format: `# {} <description>`",
        experimental=True,
    ),
    "ExposeProtoCasing": Rule(
        "Protocol in EXPOSE instruction should be lowercase",
        "Defined protocol '{}' in EXPOSE instruction should be lowercase",
    ),
    "ExposeInvalidFormat": Rule(
        "IP address and host-port mapping should not be used in EXPOSE instruction."
        " This will become an error in a future release",
        "EXPOSE instruction should not define an IP address or host-port mapping, found '{}'",
    ),
}


@dataclass(frozen=True, slots=True)
class CheckWarning:
    """A finding. `detail` is about this place, `description` about the rule; `ranges` are lines."""

    rule: str
    description: str
    url: str
    detail: str
    ranges: tuple[Range, ...]

    def short(self) -> str:
        """`Rule: detail (line n)`, as a build's progress shows it."""
        line = f" (line {self.ranges[0].start})" if self.ranges else ""
        return f"{self.rule}: {self.detail}{line}"


@dataclass(frozen=True, slots=True)
class Options:
    """`# check=`: rules that do not count, experimental ones that do, and whether a finding fails the build."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False
    error: bool = False

    def counts(self, rule: str) -> bool:
        if self.skip_all or rule in self.skip:
            return False
        return not RULES[rule].experimental or self.experimental_all or rule in self.experimental


def options(dockerfile: Dockerfile, override: str = "") -> Options:
    """What `# check=` says, or `override` (the build argument BUILDKIT_DOCKERFILE_CHECK). Raises: DockerfileError."""
    directive = dockerfile.directive("check")
    text = override or (directive.value.split(" ", 1)[0] if directive else "")
    found: dict[str, str] = {}
    for part in text.split(";") if text else ():
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in ("skip", "experimental", "error"):
            shown = key.strip() if equals else part
            raise DockerfileError(f"failed to parse check options: invalid check option {quote(shown)}")
        found[key.strip()] = value.strip()
    return Options(
        skip=_names(found.get("skip", "")),
        skip_all=found.get("skip") == "all",
        experimental=_names(found.get("experimental", "")),
        experimental_all=found.get("experimental") == "all",
        error=_error(found.get("error", "false")),
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _error(value: str) -> bool:
    try:
        return boolean(value)
    except ValueError as e:
        raise DockerfileError(
            f"failed to parse check options: failed to parse check option {quote('error=' + value)}: {e}"
        ) from None


def warning(rule: str, ranges: Iterable[Range], *particulars: str) -> CheckWarning:
    """A finding of `rule` with its text filled in."""
    url = _URL + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", rule).lower() + "/"
    if rule == "InvalidBaseImagePlatform":
        url = ""
    return CheckWarning(rule, RULES[rule].description, url, RULES[rule].text.format(*particulars), tuple(ranges))


def check(
    dockerfile: Dockerfile,
    *,
    build_args: Mapping[str, str | None] | None = None,
    environments: Mapping[int, Mapping[str, str]] | None = None,
    stages: Iterable[int] | None = None,
    ignore: Ignore | None = None,
    override: str = "",
) -> list[CheckWarning]:
    """All findings that count. A place where a build would stop ends its stage.

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


def failure(findings: Iterable[CheckWarning]) -> DockerfileError:
    """The error of a build whose Dockerfile says `error=true` and has findings."""
    rules = ", ".join(sorted({finding.rule for finding in findings}))
    return DockerfileError(f"lint violation found for rules: {rules}")


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
        findings = _Stage(dockerfile, stage, scope, meta, build_args, ignore).run()
        if indices is None or stage.index in indices:
            yield from findings
        else:
            list(findings)  # later stages may stand on this one


class _Stage:
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
        """What is to say about an expanded instruction, which then takes effect."""
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
            case i.Add() | i.Copy():
                yield from self.ignored(instruction)
            case _:
                pass

    def ignored(self, instruction: i.Add | i.Copy) -> Iterator[CheckWarning]:
        if isinstance(instruction, i.Copy) and instruction.from_:
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
