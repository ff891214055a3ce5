"""`--help`: laid out as docker lays it out, for the program, its groups and its commands."""

from __future__ import annotations

import pytest

from sampan.cli import flags, help, main, table


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
