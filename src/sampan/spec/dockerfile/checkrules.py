"""The rules of the build checks and their words, what a finding is, and which rules count. Pure.

Source: docs.docker.com/reference/build-checks; the texts are BuildKit's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sampan.spec.dockerfile.errors import DockerfileError, Range
from sampan.spec.dockerfile.stages import Dockerfile
from sampan.spec.go_values import boolean, quote

_URL = "https://docs.docker.com/go/dockerfile/rule/"


@dataclass(frozen=True, slots=True)
class CheckRule:
    """One rule. text: of a finding, with {} for its particulars. experimental: it counts only where it is asked for."""

    description: str
    text: str
    experimental: bool = False


RULES = {
    "StageNameCasing": CheckRule("Stage names should be lowercase", "Stage name '{}' should be lowercase"),
    "FromAsCasing": CheckRule(
        "The 'as' keyword should match the case of the 'from' keyword", "'{}' and '{}' keywords' casing do not match"
    ),
    "NoEmptyContinuation": CheckRule(
        "Empty continuation lines will become errors in a future release", "Empty continuation line"
    ),
    "ConsistentInstructionCasing": CheckRule(
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
        "Command '{}' should match the case of the command majority ({})",
    ),
    "DuplicateStageName": CheckRule(
        "Stage names should be unique", "Duplicate stage name {}, stage names should be unique"
    ),
    "ReservedStageName": CheckRule(
        "Reserved words should not be used as stage names",
        "Stage name should not use the same name as reserved stage {}",
    ),
    "JSONArgsRecommended": CheckRule(
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
    ),
    "MaintainerDeprecated": CheckRule(
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        "Maintainer instruction is deprecated in favor of using label",
    ),
    "UndefinedArgInFrom": CheckRule("FROM command must use declared ARGs", "FROM argument '{}' is not declared{}"),
    "WorkdirRelativePath": CheckRule(
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base"
        " image changes",
        "Relative workdir {} can have unexpected results if the base image changes",
    ),
    "UndefinedVar": CheckRule("Variables should be defined before their use", "Usage of undefined variable '${}'{}"),
    "MultipleInstructionsDisallowed": CheckRule(
        "Multiple instructions of the same type should not be used in the same stage",
        "Multiple {} instructions should not be used in the same stage because only the last one will be used",
    ),
    "LegacyKeyValueFormat": CheckRule(
        "Legacy key/value format with whitespace separator should not be used",
        '"{0} key=value" should be used instead of legacy "{0} key value" format',
    ),
    "InvalidBaseImagePlatform": CheckRule(
        "Base image platform does not match expected target platform",
        'Base image {} was pulled with platform "{}", expected "{}" for current build',
    ),
    "RedundantTargetPlatform": CheckRule(
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
    ),
    "SecretsUsedInArgOrEnv": CheckRule(
        "Sensitive data should not be used in the ARG or ENV commands",
        "Do not use ARG or ENV instructions for sensitive data ({} {})",
    ),
    "InvalidDefaultArgInFrom": CheckRule(
        "Default value for global ARG results in an empty or invalid base image name",
        "Default value for ARG {} results in empty or invalid base image name",
    ),
    "FromPlatformFlagConstDisallowed": CheckRule(
        "FROM --platform flag should not use a constant value",
        "FROM --platform flag should not use constant value {}",
    ),
    "CopyIgnoredFile": CheckRule(
        "Attempting to Copy file that is excluded by .dockerignore",
        "Attempting to {} file {} that is excluded by .dockerignore",
        experimental=True,
    ),
    "InvalidDefinitionDescription": CheckRule(
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is"
        " not intended to be a description comment, add an empty line or comment between the instruction and the"
        " comment.",
        "Comment for {} should follow the format: `# {} <description>`",
        experimental=True,
    ),
    "ExposeProtoCasing": CheckRule(
        "Protocol in EXPOSE instruction should be lowercase",
        "Defined protocol '{}' in EXPOSE instruction should be lowercase",
    ),
    "ExposeInvalidFormat": CheckRule(
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
        """Return `Rule: detail (line n)`, as a build's progress shows it."""
        line = f" (line {self.ranges[0].start})" if self.ranges else ""
        return f"{self.rule}: {self.detail}{line}"


@dataclass(frozen=True, slots=True)
class CheckOptions:
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


def options(dockerfile: Dockerfile, override: str = "") -> CheckOptions:
    """Return what `# check=` says, or `override` (the build argument BUILDKIT_DOCKERFILE_CHECK).

    Raises: DockerfileError.
    """
    directive = dockerfile.directive("check")
    text = override or (directive.value.split(" ", 1)[0] if directive else "")
    found: dict[str, str] = {}
    for part in text.split(";") if text else ():
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in ("skip", "experimental", "error"):
            shown = key.strip() if equals else part
            raise DockerfileError(f"failed to parse check options: invalid check option {quote(shown)}")
        found[key.strip()] = value.strip()
    return CheckOptions(
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
    """Return a finding of `rule` with its text filled in."""
    url = _URL + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", rule).lower() + "/"
    if rule == "InvalidBaseImagePlatform":
        url = ""
    return CheckWarning(rule, RULES[rule].description, url, RULES[rule].text.format(*particulars), tuple(ranges))


def failure(findings: Iterable[CheckWarning]) -> DockerfileError:
    """Return the error of a build whose Dockerfile says `error=true` and has findings."""
    rules = ", ".join(sorted({finding.rule for finding in findings}))
    return DockerfileError(f"lint violation found for rules: {rules}")
