"""One function for each instruction: what it does to its stage. Pure.

Instructions of the configuration go through `spec.dockerfile.config`; here stands what a builder adds: history, layers,
and where the dialects differ.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sampan.engine.builder.graph import history
from sampan.engine.builder.graph.copying import copy
from sampan.engine.builder.graph.running import run
from sampan.engine.builder.graph.stage import DispatchState
from sampan.engine.builder.graph.values import HistoryEntry
from sampan.engine.builder.ops import FileOp, Mkdir, Owner
from sampan.errors import InvalidArgument
from sampan.spec.dockerfile import config
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.errors import DockerfileError

_INHERITED = ("Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")


def dispatch(stage: DispatchState, instruction: i.Instruction) -> None:
    """Do one instruction. Raises: DockerfileError with its lines."""
    if isinstance(instruction, i.Expose):
        instruction = replace(instruction, ports=tuple(sorted(instruction.ports)))
    try:
        if isinstance(instruction, i.Arg) and not stage.common.classic:
            _args(stage, instruction)
            return
        variables = stage.variables()
        expanded = instruction.expanded(variables)
        stage.common.consumed |= variables.used
        _DO[type(instruction)](stage, expanded)
    except DockerfileError as e:
        raise e.at(instruction.range) from e
    except InvalidArgument as e:
        raise DockerfileError(e.message, [instruction.range]) from e


def configure(stage: DispatchState, instruction: i.Instruction) -> None:
    """Do ENV, LABEL, CMD or another instruction that touches the configuration only."""
    before = stage.config
    dialect: config.DialectName = "classic" if stage.common.classic else "buildkit"
    after = config.apply(before, instruction, dialect=dialect, cmd_set=stage.cmd_set)
    if isinstance(instruction, i.Cmd):
        stage.cmd_set = True
    elif isinstance(instruction, i.Env):
        for pair in instruction.pairs:
            stage.scope.set(pair.key, pair.value)
    elif isinstance(instruction, i.Healthcheck) and stage.common.classic:
        after["Healthcheck"] = _health(after.get("Healthcheck"), before.get("Healthcheck"))
    elif isinstance(instruction, i.Maintainer):
        stage.author = instruction.name
    stage.config = after
    _note(stage, instruction, history.text(instruction, after, classic=stage.common.classic))


def _health(new: Any, old: Any) -> Any:
    """The classic builder's container takes from the image what a check does not say."""
    merged = {key: (new or {}).get(key) or (old or {}).get(key) for key in _INHERITED}
    return {key: value for key, value in merged.items() if value}


def _note(stage: DispatchState, instruction: i.Instruction, text: str) -> None:
    if stage.common.classic:
        words = [*stage.shell, history.NOP, text]
        stage.did(instruction, HistoryEntry(created_by=" ".join(words)), words)
    else:
        stage.did(instruction, history.buildkit(text))


def _args(stage: DispatchState, instruction: i.Arg) -> None:
    """BuildKit's ARG: each of a line sees those left of it."""
    shown = []
    for argument in instruction.arguments:
        one = replace(instruction, arguments=(argument,)).expanded(stage.variables())
        shown.append(stage.scope.declare(one).removeprefix("ARG "))
    _note(stage, instruction, "ARG " + " ".join(shown))


def _arg(stage: DispatchState, instruction: i.Arg) -> None:
    text = stage.scope.declare(instruction)
    stage.common.consumed |= stage.scope.used
    _note(stage, instruction, text)


def _workdir(stage: DispatchState, instruction: i.Workdir) -> None:
    """A directory, owned by the stage's user in the buildkit dialect; `/` is there already."""
    classic = stage.common.classic
    path = config.working_directory(stage.cwd, instruction.path, "classic" if classic else "buildkit")
    vertex = None
    label = stage.label(instruction) if path != "/" or classic else None
    if label is not None and path != "/":
        user, _, group = (stage.config.get("User") or "").partition(":")
        owner = Owner(user=user, group=group) if user and not classic else None
        action = Mkdir(path=posixpath.normpath(path), owner=owner)
        vertex = FileOp(
            base=stage.state,
            actions=(action,),
            epoch_s=stage.common.request.epoch_s,
            label=label,
            no_cache=stage.no_cache,
        )
        stage.state = vertex
    stage.config = {**stage.config, "WorkingDir": path}
    if classic:
        words = [*stage.shell, f"{history.NOP}WORKDIR {path}"]
        stage.did(instruction, HistoryEntry(created_by=" ".join(words), vertex=vertex), words)
    else:
        stage.did(instruction, history.buildkit(f"WORKDIR {path}", vertex))


_DO: dict[type[i.Instruction], Callable[[DispatchState, Any], None]] = {
    i.Add: copy,
    i.Arg: _arg,
    i.Cmd: configure,
    i.CopyInstruction: copy,
    i.Entrypoint: configure,
    i.Env: configure,
    i.Expose: configure,
    i.Healthcheck: configure,
    i.Label: configure,
    i.Maintainer: configure,
    i.Onbuild: configure,
    i.Run: run,
    i.Shell: configure,
    i.Stopsignal: configure,
    i.User: configure,
    i.VolumeInstruction: configure,
    i.Workdir: _workdir,
}
