"""sampan-runc's command line: Go's flag rules, logrus' lines, the table."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from sampan.runtime.cli.events import numbers
from sampan.runtime.cli.flags import UsageError, duration_s, parse
from sampan.runtime.cli.listing import table
from sampan.runtime.cli.output import CommandFailure, help_text
from sampan.runtime.cli.table import COMMANDS, GLOBAL_FLAGS, Flag
from sampan.runtime.cli.update import from_flags, size
from sampan.runtime.failure import InvalidSpec
from sampan.runtime.validate_resources import validate_resources

FLAGS: tuple[Flag, ...] = (("all a", "bool", ""), ("env e", "list", ""), ("count", "int", ""), ("file f", "str", ""))


@pytest.mark.parametrize(
    ("arguments", "values", "rest"),
    [
        ([], {}, []),
        (["-a", "id"], {"all": True}, ["id"]),
        (["--all=false", "id", "-a"], {"all": False}, ["id", "-a"]),  # flags end at the first argument
        (["-e", "A=b", "--env=C=d"], {"env": ["A=b", "C=d"]}, []),
        (["-f", "-a"], {"file": "-a"}, []),
        (["--count", "0x10", "--", "-a"], {"count": 16}, ["-a"]),
        (["-", "x"], {}, ["-", "x"]),
        (["-h"], {"help": True}, []),
    ],
)
def test_flags(arguments: list[str], values: dict[str, Any], rest: list[str]) -> None:
    assert parse(arguments, FLAGS) == (values, rest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "flag provided but not defined: -nope"),
        (["--file"], "flag needs an argument: -file"),
        (["--count", "x"], 'invalid value "x" for flag -count: parse error'),
        (["--all=x"], 'invalid boolean value "x" for -all: parse error'),
        (["---all"], "bad flag syntax: ---all"),
        (["-=x"], "bad flag syntax: -=x"),
    ],
)
def test_wrong_flags(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(arguments, FLAGS)
    assert str(caught.value) == message


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("1m30s", 90), ("250ms", 0.25), ("1.5h", 5400), ("0", 0)])
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "5s3"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError):
        duration_s(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("10", 10), ("64M", 64 << 20), ("1g", 1 << 30), ("1.5KiB", 1536), ("-1", -1)]
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert size("memory", text) == size_bytes


def test_wrong_sizes() -> None:
    with pytest.raises(CommandFailure) as caught:
        size("memory", "-5M")
    assert caught.value.message == "invalid value for memory: invalid size: '-5M'"


def test_update_flags_become_resources() -> None:
    flags = {"memory": "1k", "memory-swap": "-1", "cpu-share": "5", "cpuset-cpus": "0-1", "pids-limit": 0}
    assert from_flags(flags) == {"cpu": {"shares": 5, "cpus": "0-1"}, "memory": {"limit": 1024, "swap": -1}}


def test_the_table_leads_to_functions_that_exist() -> None:
    for module, function, *_ in COMMANDS.values():
        assert callable(getattr(import_module(f"sampan.runtime.cli.{module}"), function))
    for _, _, _, _, _, flags in [*COMMANDS.values(), ("", "", "", (0, 0), "", GLOBAL_FLAGS)]:
        names = [name for entry in flags for name in entry[0].split()]
        assert len(names) == len(set(names))


def test_help_names_everything() -> None:
    assert all(command in help_text("x") for command in COMMANDS)
    assert "--bundle value, -b value" in help_text("x", "create")


def test_columns_are_go_s_tabwriter_s() -> None:
    rows = [["ID", "PID", "OWNER"], ["a-rather-long-id", "1", "root"]]
    assert table(rows) == "ID                 PID         OWNER\na-rather-long-id   1           root\n"


def test_cpu_lists() -> None:
    assert numbers("0-2,7\n") == [0, 1, 2, 7]
    assert numbers("\n") == []


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": {"limit": "x"}}, "linux.resources.memory.limit: must be an integer, not a string"),
        ({"memory": []}, "linux.resources.memory: must be an object, not an array"),
        ({"cpu": {"shares": -1}}, "linux.resources.cpu.shares: -1 is not in range 0-18446744073709551615"),
        ({"pids": {"limit": True}}, "linux.resources.pids.limit: must be an integer, not a boolean"),
        ({"hugepageLimits": [{"limit": 1}]}, "linux.resources.hugepageLimits[0].pageSize: required"),
        ({"devices": [{"access": "r"}]}, "linux.resources.devices[0].allow: required"),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 1, "minor": 2}]}},
         "linux.resources.blockIO.throttleReadBpsDevice[0].rate: required"),
        ({"unified": {"a/b": "1"}}, "linux.resources.unified.a/b: must be a file name (no slashes)"),
    ],
)  # fmt: skip
def test_a_wrong_limit_is_named(resources: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        validate_resources(resources)
    assert caught.value.message == f"invalid config.json: {message}"


def test_good_limits_pass() -> None:
    validate_resources(
        {"memory": {"limit": -1, "swappiness": 60}, "cpu": {"cpus": "0"}, "unified": {"memory.high": "1"}, "other": 5}
    )


def test_features_needs_no_privilege_and_no_library_of_the_daemon() -> None:
    script = (
        "import sys, json; from sampan.runtime.__main__ import main; main(['features']); "
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["ociVersionMin"] == "1.0.0"
    assert not {"asyncio", "argparse", "logging", "msgspec", "aiohttp", "subprocess"} & set(json.loads(done.stderr))
