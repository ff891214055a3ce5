"""Variables of a build: what ARG, ENV, --build-arg and the platform give, and what a RUN gets to see of it. Pure.

    dialect    which wins where both are set    platform arguments      an ARG in the history
    buildkit   what comes later in the stage    declared by ARG         with the value it got
    classic    ENV                              in FROM only            as written

A later stage that continues an earlier one (FROM stage) sees its arguments in the buildkit dialect only.
Source: Dockerfile reference, "ARG"; both builders of Docker Engine 28.5 as observed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sampan.engine.platforms import HOST, Platform
from sampan.spec.dockerfile.instructions import Arg
from sampan.spec.dockerfile.words import Variables

PROXIES = ("ALL_PROXY", "FTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
PREDEFINED = frozenset([*PROXIES, *(name.lower() for name in PROXIES)])
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BuildArgs = Mapping[str, str | None]


def platform_args(build: Platform, target: Platform, stage: str) -> dict[str, str]:
    """BUILDPLATFORM, TARGETARCH and their relatives; stage: the name of the target."""
    values = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        values[f"{prefix}PLATFORM"] = str(platform)
        values[f"{prefix}OS"] = platform.os
        values[f"{prefix}OSVERSION"] = ""
        values[f"{prefix}ARCH"] = platform.architecture
        values[f"{prefix}VARIANT"] = platform.variant
    return {**values, "TARGETSTAGE": stage}


def global_scope(
    meta: Sequence[Arg], given: BuildArgs, target: Platform, stage: str, *, escape: str, build: Platform = HOST
) -> tuple[dict[str, str], dict[str, str]]:
    """Return (what FROM may use, what the ARG lines before it set). Raises: DockerfileError."""
    scope = platform_args(build, target, stage)
    scope |= {name: value for name, value in given.items() if name in scope and value is not None}
    own: dict[str, str] = {}
    for line in meta:
        for argument in line.arguments:
            value = given.get(argument.key)
            if value is None and argument.value is not None:
                value = Variables(scope, escape).word(argument.value)
            if value is not None:
                scope[argument.key] = own[argument.key] = value
    return scope, own


def proxy_env(given: BuildArgs) -> tuple[str, ...]:
    """Proxy variables for RUN, in both spellings: they are in no key and no history."""
    values = {name.upper(): value for name, value in given.items() if name.upper() in PROXIES and value is not None}
    return tuple(f"{spelling}={values[name]}" for name in sorted(values) for spelling in (name, name.lower()))


class Scope:
    """The variables of one stage as it goes on. `used` collects the build arguments that it consumed."""

    def __init__(self, env: Sequence[str], given: BuildArgs, outer: Mapping[str, str], *, classic: bool) -> None:
        self.env = _split(env)
        self.args: dict[str, str | None] = {}
        self.used: set[str] = set()
        self._given = given
        self._outer = outer
        self._classic = classic

    def continued(self, env: Sequence[str]) -> Scope:
        """Return the scope of a stage that begins where this one ended."""
        scope = Scope(env, self._given, self._outer, classic=self._classic)
        if not self._classic:
            scope.args = dict(self.args)
            scope.env = {**scope.env, **self.env}
        return scope

    def variables(self) -> dict[str, str]:
        """Return what `$NAME` means now."""
        if not self._classic:
            return self.env
        given = {name: value for name, value in self._given.items() if name in PREDEFINED and value is not None}
        declared = {name: value for name, value in self.args.items() if value is not None}
        return {**given, **declared, **self.env}

    def set(self, name: str, value: str) -> None:
        """Set a variable: ENV."""
        self.env[name] = value

    def declare(self, line: Arg) -> str:
        """Declare the arguments of an expanded ARG. Returns its text for the history."""
        shown = []
        for argument in line.arguments:
            name, written = argument.key, argument.value
            value = self._given.get(name)
            if value is None:
                value = written if written is not None else self._outer.get(name)
            self.used.add(name)
            self.args[name] = value
            if value is not None and not self._classic:
                self.env[name] = value
            text = written if self._classic else value
            shown.append(name if text is None else f"{name}={text}")
        return "ARG " + " ".join(shown)

    def run_env(self) -> list[str]:
        """Return what a RUN's process gets."""
        env = self.env if not self._classic else {**self.env, **self._visible()}
        return [f"{name}={value}" for name, value in env.items()]

    def run_prefix(self) -> list[str]:
        """Return `|2 A=1 B=2`, which stands before a RUN's command in the history, as words; [] for none."""
        if self._classic:
            predefined = any(name in PREDEFINED and value is not None for name, value in self._given.items())
            pairs = sorted(f"{name}={value}" for name, value in self._visible().items())
            return [f"|{len(pairs)}", *pairs] if pairs or predefined else []
        pairs = [f"{name}={self.env.get(name, value or '')}" for name, value in self.args.items()]
        return [f"|{len(pairs)}", *pairs] if pairs else []

    def _visible(self) -> dict[str, str]:
        return {name: value for name, value in self.args.items() if value is not None and name not in self.env}


def _split(env: Sequence[str]) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in env)
    return {name: value for name, _, value in pairs}
