"""Start-up is the product: what the hot commands may not import, and the thin script that skips `site`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sampan
from sampan.cli import launcher

SOURCE = str(Path(sampan.__file__).parents[1])
HEAVY = {
    "re",
    "enum",
    "json",
    "socket",
    "ssl",
    "typing",
    "argparse",
    "logging",
    "subprocess",
    "datetime",
    "signal",
    "asyncio",
    "dataclasses",
    "tarfile",
    "threading",
    "inspect",
}
RARE = {"sampan.spec.go_values", "sampan.spec.times"}  # loaded by the flag or the column that needs them
HOT = [
    "container.ls",
    "container.run",
    "container.exec",
    "container.inspect",
    "container.logs",
    "container.stop",
    "container.rm",
    "image.ls",
    "system.version",
    "network.ls",
]


@pytest.mark.parametrize("module", HOT)
def test_hot_commands_import_nothing_heavy(module: str) -> None:
    code = (
        f"import sys; sys.path.append({SOURCE!r}); import sampan.cli.main, sampan.cli.config, sampan.cli.{module}; "
        f"print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
    assert not RARE & set(done.stdout.split())


def test_one_command_does_not_load_another() -> None:
    code = (
        f"import sys; sys.path.append({SOURCE!r}); import sampan.cli.main; sampan.cli.main.load('container ls'); "
        f"print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith(("sampan.cli.container.", "sampan.cli.image."))}
    assert loaded == {"sampan.cli.container.ls"}


def test_the_thin_script_runs_without_an_environment(tmp_path: Path) -> None:
    script = tmp_path / "sampan"
    script.write_text("something older")
    launcher.install(str(script))
    done = subprocess.run([str(script), "--version"], capture_output=True, text=True, env={}, check=True)
    assert done.stdout.startswith("Sampan version ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sampan"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_trap(tmp_path: Path, closed: str) -> None:
    script = tmp_path / "sampan"
    launcher.install(str(script))
    done = subprocess.run(
        ["sh", "-c", f"{script} -H unix://{tmp_path}/none ps {closed}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
