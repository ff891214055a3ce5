"""CLI plugins get the whole command line, and what only Sampan knows of the engine, so they talk to the same one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.engine import BIN

SAMPAN = str(BIN / "sampan")
SHOW = (
    '#!/bin/sh\nprintf "%s\\n" "$@"\necho "host=$DOCKER_HOST program=$DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND"\nexit 7\n'
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    plugins = tmp_path / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    plugin = plugins / "docker-show"
    plugin.write_text(SHOW)
    plugin.chmod(0o755)
    return tmp_path


def sampan(home: Path, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "SAMPAN_"))}
    environment = {**kept, "DOCKER_CONFIG": str(home / "config"), **variables}
    return subprocess.run([SAMPAN, *argv], env=environment, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    "flags",
    [
        ["-H", "unix:///a"],
        ["--host", "tcp://h:1", "--tls"],
        ["--host=tcp://h:1", "--tlsverify", "--tlscacert", "/ca", "--tlscert", "/cert", "--tlskey", "/key"],
        ["-c", "other"],
        ["--context", "other", "-D"],
        ["--debug", "--log-level", "error"],
        ["-l", "fatal"],
    ],
    ids=" ".join,
)
def test_a_plugin_gets_every_global_flag(home: Path, flags: list[str]) -> None:
    done = sampan(home, *flags, "show", "--mine", "-x", "word")
    assert done.returncode == 7 and done.stderr == ""
    assert done.stdout.splitlines()[:-1] == [*flags, "show", "--mine", "-x", "word"]
    assert f"program={SAMPAN}" in done.stdout


def test_the_configuration_directory_of_the_flag_is_searched_and_handed_on(home: Path) -> None:
    done = sampan(home, "--config", str(home / "config"), "show", DOCKER_CONFIG="/nowhere")
    assert done.stdout.splitlines()[:3] == ["--config", str(home / "config"), "show"]


@pytest.mark.parametrize(
    ("flags", "variables", "host"),
    [
        ([], {"SAMPAN_HOST": "unix:///ours"}, "unix:///ours"),
        ([], {"SAMPAN_HOST": "unix:///ours", "DOCKER_HOST": "unix:///theirs"}, "unix:///ours"),
        ([], {"DOCKER_HOST": "tcp://h:1"}, "tcp://h:1"),
        (["-c", "default"], {"SAMPAN_HOST": "unix:///ours"}, "unix:///ours"),
        (["--tls"], {}, "tcp://localhost:2376"),
        (["-H", "unix:///flag"], {"DOCKER_HOST": "unix:///theirs"}, "unix:///theirs"),  # its own -H wins there too
        ([], {"DOCKER_CONTEXT": "other"}, ""),
        (["-c", "other"], {}, ""),
    ],
)
def test_a_plugin_talks_to_the_engine_that_sampan_would(
    home: Path, flags: list[str], variables: dict[str, str], host: str
) -> None:
    assert f"host={host} program=" in sampan(home, *flags, "show", **variables).stdout


def test_help_of_a_plugin_is_the_plugins(home: Path) -> None:
    assert sampan(home, "help", "show").stdout.splitlines()[:2] == ["help", "show"]
    assert sampan(home, "show", "--help").stdout.splitlines()[:2] == ["show", "--help"]


def test_further_directories_come_first(home: Path) -> None:
    more = home / "more"
    more.mkdir()
    (more / "docker-show").write_text("#!/bin/sh\necho more\n")
    (more / "docker-show").chmod(0o755)
    (home / "config" / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(more)]}))
    assert sampan(home, "show").stdout == "more\n"


def test_a_plugin_that_cannot_run_is_named(home: Path) -> None:
    broken = home / "config" / "cli-plugins" / "docker-broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    done = sampan(home, "broken")
    assert (done.returncode, done.stderr) == (1, f"fork/exec {broken}: exec format error\n")


@pytest.mark.parametrize("name", ["../show", "Show", "sh-ow", "nope"])
def test_what_is_no_plugin_is_an_unknown_command(home: Path, name: str) -> None:
    done = sampan(home, name)
    assert done.returncode == 1
    assert done.stderr == f"sampan: unknown command: sampan {name}\n\nRun 'sampan --help' for more information\n"
