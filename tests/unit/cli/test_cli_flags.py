"""Flags: pflag's rules, and that every command has every flag of the reference (names, shorthands and types)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.cli import flags, main, table, values

REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("reference_flags.json").read_text())
DECLARED = """
  -d, --detach            In the background
  -e, --env list          Set variables
  -i, --interactive       Keep it open
      --memory bytes      Limit
  -n, --last int          How many (default -1)
  -p, --publish list      Ports
      --proxy             Hand on (default true)
      --pull string       When to pull (default "missing")
      --subnet strings    Subnets
      --help              Print usage
    ! --net list          = env
"""


def parse(*argv: str, interspersed: bool = True) -> tuple[flags.FlagValues, list[str]]:
    return flags.parse(flags.declared(DECLARED), list(argv), interspersed=interspersed)


BEYOND = {"container update": {("", "publish", "list"), ("", "unpublish", "list")}}
"""Flags that only our commands have; docs/compatibility.md says what they do."""


@pytest.mark.parametrize("path", sorted(REFERENCE))
def test_every_flag_of_the_reference_is_there(path: str) -> None:
    canonical = table.SHORTCUTS.get(path, path)
    module = main.load(canonical)
    ours = {(f.short, f.name, f.kind) for f in flags.declared(module.FLAGS) if not f.hidden}
    assert ours == {tuple(f) for f in REFERENCE[path]["flags"]} | BEYOND.get(canonical, set())


@pytest.mark.parametrize("path", sorted(REFERENCE))
def test_usage_and_aliases_are_the_references(path: str) -> None:
    canonical = table.SHORTCUTS.get(path, path)
    module = main.load(canonical)
    assert f"{path} {module.USAGE.splitlines()[0] if module.USAGE else ''}".strip() == REFERENCE[path]["usage"]
    names = table.names_of(canonical)
    assert (names if len(names) > 1 else []) == REFERENCE[path]["aliases"]


@pytest.mark.parametrize("path", sorted(table.COMMANDS))
def test_every_command_can_be_loaded_and_run(path: str) -> None:
    module = main.load(path)
    assert callable(module.run) and isinstance(module.FLAGS, str) and isinstance(module.ARGS, tuple)


def test_clusters_and_attached_values() -> None:
    options, rest = parse("-di", "-p80", "-p=81", "--publish=82", "x", "-e", "A=1", "y")
    assert options.flag("detach") and options.flag("interactive")
    assert options.many("publish") == ["80", "81", "82"] and options.many("env") == ["A=1"]
    assert rest == ["x", "y"]


def test_flags_stop_at_the_first_argument_when_not_interspersed() -> None:
    options, rest = parse("-d", "image", "-e", "x", interspersed=False)
    assert options.flag("detach") and rest == ["image", "-e", "x"] and not options.many("env")


def test_double_dash_ends_the_flags() -> None:
    assert parse("a", "--", "-d", "--nope")[1] == ["a", "-d", "--nope"]


def test_a_lone_dash_is_an_argument() -> None:
    assert parse("-", "x")[1] == ["-", "x"]


def test_defaults_come_from_the_help() -> None:
    options, _ = parse()
    assert options.number("last") == -1 and options.text("pull") == "missing" and options.flag("proxy")
    assert options.number("memory") == 0 and not options.given


def test_booleans_take_a_value_only_with_an_equals_sign() -> None:
    options, rest = parse("--proxy=false", "--detach", "false")
    assert not options.flag("proxy") and options.flag("detach") and rest == ["false"]


def test_strings_are_split_at_commas_and_lists_are_not() -> None:
    options, _ = parse("--subnet", "a,b", "--subnet", "c", "-e", "A=1,2")
    assert options.many("subnet") == ["a", "b", "c"] and options.many("env") == ["A=1,2"]


def test_a_hidden_name_sets_the_flag_it_stands_for() -> None:
    options, _ = parse("--net", "A=1")
    assert options.many("env") == ["A=1"] and options.changed("env")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-dz"], "unknown shorthand flag: 'z' in -dz"),
        (["--pull"], "flag needs an argument: --pull"),
        (["-p"], "flag needs an argument: 'p' in -p"),
        (["-dp"], "flag needs an argument: 'p' in -dp"),
        (["--=x"], "bad flag syntax: --=x"),
        (["---x"], "bad flag syntax: ---x"),
        (["--memory", "abc"], "invalid argument \"abc\" for \"--memory\" flag: invalid size: 'abc'"),
        (["-n", "x"], 'invalid argument "x" for "-n, --last" flag: strconv.ParseInt: parsing "x": invalid syntax'),
        (["--detach=foo"], 'invalid argument "foo" for "-d, --detach" flag: strconv.ParseBool: parsing "foo": invalid '
                           'syntax'),
    ],
)  # fmt: skip
def test_errors_are_in_pflags_words(argv: list[str], message: str) -> None:
    with pytest.raises(flags.FlagError) as caught:
        parse(*argv)
    assert str(caught.value) == message


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["x", "--help"], ["-dh"]])
def test_help_is_asked_for(argv: list[str]) -> None:
    with pytest.raises(flags.HelpRequested):
        parse(*argv)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("64m", 64 << 20), ("1.5GiB", 3 << 29), ("10 kb", 10240), ("2T", 2 << 40), ("7b", 7), ("0.5k", 512)],
)
def test_sizes(text: str, size: int) -> None:
    assert values.size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "abc", "-1", "1x", "1kbb", "1.2.3", "k"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid|strconv"):
        values.size_bytes(text)


def test_cpus() -> None:
    assert values.nano_cpus("1.5") == 1_500_000_000 and values.nano_cpus("1/2") == 500_000_000
    with pytest.raises(ValueError, match="value is too precise"):
        values.nano_cpus("0.1234567891")
    with pytest.raises(ValueError, match="failed to parse x as a rational number"):
        values.nano_cpus("x")


def test_flags_that_take_several_values_at_once() -> None:
    declared = flags.declared("--alias strings  Names")
    options, _ = flags.parse(declared, ["--alias", 'a,"b,c"', "--alias=", "--alias=d"])
    assert options.many("alias") == ["a", "b,c", "d"]
    with pytest.raises(flags.FlagError) as caught:
        flags.parse(declared, ["--alias", '"a'])
    expected = (
        r'invalid argument "\"a" for "--alias" flag: parse error on line 1, column 3: extraneous or missing " in '
        r"quoted-field"
    )
    assert str(caught.value) == expected


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("F", False)])
def test_booleans_with_a_value(text: str, value: bool) -> None:
    options, _ = flags.parse(flags.declared("--all  All of them"), [f"--all={text}"])
    assert options.flag("all") is value


def test_durations_and_truths_are_refused_in_gos_words() -> None:
    declared = flags.declared("--all  All of them\n--wait duration  How long")
    with pytest.raises(flags.FlagError) as caught:
        flags.parse(declared, ["--all=yes"])
    assert (
        str(caught.value) == 'invalid argument "yes" for "--all" flag: strconv.ParseBool: parsing "yes": invalid syntax'
    )
    with pytest.raises(flags.FlagError) as caught:
        flags.parse(declared, ["--wait", "5"])
    assert str(caught.value) == 'invalid argument "5" for "--wait" flag: time: missing unit in duration "5"'
    assert flags.parse(declared, ["--wait", "1h30m"])[0].number("wait") == 5400 * 10**9
