"""`--help`: laid out as docker lays it out, for the program, its groups and its commands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sampan.cli import flags, help, main, table
from tests.compat import record_help


def test_a_command() -> None:
    text = help.command("stop", "container stop", main.load("container stop"))
    assert text == (
        "Usage:  sampan stop [OPTIONS] CONTAINER [CONTAINER...]\n\n"
        "Stop one or more running containers\n\n"
        "Aliases:\n  sampan container stop, sampan stop\n\n"
        "Options:\n"
        "  -s, --signal string   Signal to send to the container\n"
        "  -t, --timeout int     Seconds to wait before the container is killed\n"
    )


def test_two_usages() -> None:
    text = help.command("cp", "container cp", main.load("container cp"))
    assert text.startswith(
        "Usage:  sampan cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n"
        "\tsampan cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH\n"
    )


def test_a_group_lists_its_verbs() -> None:
    lines = help.group("system").splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == ["df", "events", "fsck", "info", "prune"]
    assert lines[-1] == "Run 'sampan system COMMAND --help' for more information on a command."


def test_the_program_lists_every_command_once() -> None:
    text = help.top()
    for name in (*table.GROUPS, *table.SHORTCUTS, "inspect", "version", "login", "logout"):
        assert sum(line.split()[:1] == [name] and line.startswith("  ") for line in text.splitlines()) == 1, name
    assert "__complete" not in text and "dial-stdio" not in text


@pytest.mark.parametrize("path", sorted(table.COMMANDS))
@pytest.mark.parametrize("width", [80, 120, 200])
def test_options_stay_within_the_width(path: str, width: int) -> None:
    for line in help.flag_lines(flags.declared(main.load(path).FLAGS), width).splitlines():
        assert len(line) <= width


def test_help_is_wrapped_without_orphans() -> None:
    declared = flags.declared("--flag string   " + "word " * 20 + "end")
    assert help.flag_lines(declared, 60) == (
        "      --flag string   word word word word word word\n"
        "                      word word word word word word\n"
        "                      word word word word word word\n"
        "                      word word end"
    )


SHAPES: dict[str, dict[str, Any]] = json.loads(record_help.ANSWERS.read_text())
MARKED = {  # what has another shape than docker's, with the reason
    "builder build": "has the flags of buildx",
    "builder du": "docker has it in buildx",
    "builder prune": "has the flags of buildx",
    "container cp": "the second usage line names the command as it was typed",
    "container start": "docker hides the flags of checkpoints unless the engine is experimental",
    "volume create": "docker hides the flags of cluster volumes unless there is a swarm",
    "volume ls": "docker hides the flags of cluster volumes unless there is a swarm",
    "volume update": "docker hides the flags of cluster volumes unless there is a swarm",
}


def test_every_command_is_recorded_or_ours_alone() -> None:
    assert set(table.COMMANDS) == SHAPES.keys() | set(record_help.OURS_ALONE)


@pytest.mark.parametrize("path", sorted(SHAPES))
def test_usage_aliases_flags_and_defaults_are_dockers(path: str) -> None:
    text = help.command(path, path, main.load(path))
    ours = record_help.shape(text)
    names = list(ours["flags"])
    assert names == sorted(names), "flags stand in the order of their names"
    if path in MARKED:
        assert ours != SHAPES[path], "nothing to mark"
        assert ours["flags"].keys() >= SHAPES[path]["flags"].keys() or path == "builder du"
    else:
        assert ours == SHAPES[path]
