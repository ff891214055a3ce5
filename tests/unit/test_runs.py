"""`make test` runs every test once, in two runs side by side, and fails when either has failed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tools/run_tests.py"
QUICK = [f"-pno:{name}" for name in ("cacheprovider", "hypothesispytest", "asyncio", "timeout")]
PASSES, FAILS = "def test_it(): pass\n", "def test_it(): assert not 'this one'\n"


def test_every_test_is_in_one_of_the_two() -> None:
    spec = importlib.util.spec_from_file_location("run_tests", PROGRAM)
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    on_host, beside = program.rooms()
    left_out = [option.partition("=")[2] for option in beside if option.startswith("--ignore=")]
    beside = [path for path in beside if not path.startswith("-")]
    for path in (str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")):
        here = [place for place in on_host if path == place or path.startswith(f"{place}/")]
        there = [place for place in beside if path.startswith(f"{place}/") and path not in left_out]
        assert len(here) + len(there) == 1, path


def run(tree: Path, *options: str, **files: str) -> tuple[int, str]:
    """`make test` in a tree that has these tests; its status and what it wrote."""
    (tree / "tools").mkdir()
    shutil.copy(PROGRAM, tree / "tools")
    for room in ("unit", "builder", "conformance", "kernel", "e2e"):
        (tree / "tests" / room).mkdir(parents=True)
        (tree / "tests" / room / f"test_{room}.py").write_text(files.get(room, PASSES))
    (tree / "tests/kernel/images").mkdir()
    for name in ("images/test_power_loss", "test_vm"):
        (tree / f"tests/kernel/{name}.py").write_text(PASSES)
    return again(tree, *options)


def again(tree: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(tree / "tools/run_tests.py"), "-q", *QUICK, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("failing", ["", "unit", "e2e"])
def test_one_result_and_both_reports(tmp_path: Path, failing: str) -> None:
    status, said = run(tmp_path, **({failing: FAILS} if failing else {}))
    assert status == bool(failing), said
    counts = {
        "": ("3 passed", "4 passed"),
        "unit": ("3 passed", "1 failed, 3 passed"),
        "e2e": ("1 failed, 2 passed", "4 passed"),
    }
    assert all(count in said for count in counts[failing]), said
    assert said.splitlines()[-1].startswith(f"All tests {'failed' if failing else 'passed'}: on the host ")


def test_options_are_for_both_and_a_path_is_for_one(tmp_path: Path) -> None:
    status, said = run(tmp_path, "-k", "unit", unit=FAILS)
    assert status == 1 and "1 failed, 3 deselected" in said and "3 deselected" in said
    status, said = again(tmp_path, "tests/e2e")
    assert status == 0 and said.splitlines()[-1].startswith("1 passed")
