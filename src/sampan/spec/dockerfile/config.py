"""What an instruction does to an image's `config` object.

Pure; one implementation for build, ONBUILD, commit and import.

Instructions come here expanded. The two doors differ in details (`dialect`): the classic one cleans WORKDIR, refuses an
empty name in ENV and an empty WORKDIR, and leaves `ArgsEscaped` alone.

Source: Dockerfile reference; configurations that Docker Engine 28.5 writes for the same instructions.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.ports import parse_ports

Config = dict[str, Any]
DialectName = Literal["classic", "buildkit"]
SHELL = ("/bin/sh", "-c")
_SIGNAL = re.compile(
    r"(?:SIG)?(?:ABRT|ALRM|BUS|CHLD|CLD|CONT|FPE|HUP|ILL|INT|IO|IOT|KILL|PIPE|POLL|PROF|PWR|QUIT|SEGV|STKFLT|STOP|SYS|TERM"
    r"|TRAP|TSTP|TTIN|TTOU|URG|USR1|USR2|VTALRM|WINCH|XCPU|XFSZ|RTMIN|RTMAX|RTMIN\+(?:[1-9]|1[0-5])|RTMAX-(?:[1-9]|1[0-4]))\Z"
)
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}\Z")


def apply(
    config: Mapping[str, Any], instruction: i.Instruction, *, dialect: DialectName = "buildkit", cmd_set: bool = False
) -> Config:
    """Return the config after an expanded instruction; those that say nothing about it leave it as it is.

    cmd_set: a CMD stood in this stage before; without one, ENTRYPOINT drops the CMD of the base image.
    Raises: DockerfileError at the instruction's lines.
    """
    result = dict(config)
    change = _CHANGES.get(type(instruction))
    if change:
        try:
            change(result, instruction, dialect)
        except DockerfileError as e:
            raise e.at(instruction.range) from None
        if isinstance(instruction, i.Entrypoint) and not cmd_set:
            result["Cmd"] = None
    return result


def command_line(command: i.Command, config: Mapping[str, Any], dialect: DialectName = "buildkit") -> list[str]:
    """Return the arguments of RUN, CMD or ENTRYPOINT: the shell form has the shell in front."""
    words = command.words
    if command.shell and not words and dialect == "buildkit":
        words = ("",)
    return [*(config.get("Shell") or SHELL), *words] if command.shell else list(words)


def with_env(environment: Iterable[str], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Each `key=value` in the place of an older one, or at the end."""
    result = list(environment)
    places = {entry.partition("=")[0]: place for place, entry in reversed(list(enumerate(result)))}
    for key, value in pairs:
        place = places.setdefault(key, len(result))
        result[place : place + 1] = [f"{key}={value}"]
    return result


def check_signal(signal: str) -> None:
    """Refuse a STOPSIGNAL that is no signal. Raises: DockerfileError."""
    known = int(signal) != 0 if _NUMBER.match(signal) else _SIGNAL.match(signal.upper())
    if not known:
        raise DockerfileError(f"invalid signal: {signal}")


def working_directory(current: str, path: str, dialect: DialectName = "buildkit") -> str:
    """WORKDIR `path` after `current`. Raises: DockerfileError."""
    if not path and dialect == "classic":
        raise DockerfileError("cannot normalize nothing")
    joined = posixpath.normpath(posixpath.join("/", current, path))
    joined = "/" + joined.lstrip("/")
    kept = dialect == "buildkit" and path.startswith("/") and path.endswith("/") and joined != "/"
    return joined + "/" if kept else joined


def _env(config: Config, instruction: i.Env, dialect: DialectName) -> None:
    for pair in instruction.pairs:
        if not pair.key and dialect == "classic":
            raise DockerfileError(f"invalid environment variable: ={pair.value}")
    config["Env"] = with_env(config.get("Env") or [], [(pair.key, pair.value) for pair in instruction.pairs])


def _label(config: Config, instruction: i.Label, dialect: DialectName) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **{pair.key: pair.value for pair in instruction.pairs}}


def _cmd(config: Config, instruction: i.Cmd, dialect: DialectName) -> None:
    config["Cmd"] = command_line(instruction.command, config, dialect) or None
    config["ArgsEscaped"] = dialect == "buildkit"


def _entrypoint(config: Config, instruction: i.Entrypoint, dialect: DialectName) -> None:
    command = instruction.command
    bare = command.shell and not command.words and dialect == "classic"  # ENTRYPOINT alone takes it away
    config["Entrypoint"] = None if bare else command_line(command, config, dialect) or None


def _expose(config: Config, instruction: i.Expose, dialect: DialectName) -> None:
    ports: dict[str, Any] = {port: {} for written in instruction.ports for port in parse_ports(written, dialect)}
    config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **ports}


def _volume(config: Config, instruction: i.VolumeInstruction, dialect: DialectName) -> None:
    if not all(instruction.paths):
        raise DockerfileError("VOLUME specified can not be an empty string")
    config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in instruction.paths}}


def _user(config: Config, instruction: i.User, dialect: DialectName) -> None:
    config["User"] = instruction.user


def _workdir(config: Config, instruction: i.Workdir, dialect: DialectName) -> None:
    config["WorkingDir"] = working_directory(config.get("WorkingDir") or "", instruction.path, dialect)


def _onbuild(config: Config, instruction: i.Onbuild, dialect: DialectName) -> None:
    config["OnBuild"] = [*(config.get("OnBuild") or []), instruction.expression]


def _stopsignal(config: Config, instruction: i.Stopsignal, dialect: DialectName) -> None:
    check_signal(instruction.signal)
    config["StopSignal"] = instruction.signal


def _healthcheck(config: Config, instruction: i.Healthcheck, dialect: DialectName) -> None:
    times = {
        "Interval": instruction.interval_ns,
        "Timeout": instruction.timeout_ns,
        "StartPeriod": instruction.start_period_ns,
        "StartInterval": instruction.start_interval_ns,
        "Retries": instruction.retries,
    }
    config["Healthcheck"] = {"Test": list(instruction.test), **{key: value for key, value in times.items() if value}}


def _shell(config: Config, instruction: i.Shell, dialect: DialectName) -> None:
    config["Shell"] = list(instruction.words)


_CHANGES: dict[type[i.Instruction], Callable[[Config, Any, DialectName], None]] = {
    i.Cmd: _cmd,
    i.Entrypoint: _entrypoint,
    i.Env: _env,
    i.Expose: _expose,
    i.Healthcheck: _healthcheck,
    i.Label: _label,
    i.Onbuild: _onbuild,
    i.Shell: _shell,
    i.Stopsignal: _stopsignal,
    i.User: _user,
    i.VolumeInstruction: _volume,
    i.Workdir: _workdir,
}
