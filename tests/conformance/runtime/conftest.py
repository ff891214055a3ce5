"""The runtimes under test: ours, and runc where it is installed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime.driver import Runtime, make_rootfs
from tests.conftest import lacks

RUNTIMES = ("sampan-runc", "runc")


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("conformance") / "rootfs")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, root: None, rootfs: Path, tmp_path: Path) -> Iterator[Runtime]:
    """A runtime; after the test everything must be gone."""
    command = [sys.executable, "-m", "sampan.runtime"]
    if request.param == "runc":
        found = shutil.which("runc")
        if found is None:
            lacks("runc is not installed: the suite is not proven on the reference")
        command = [str(found)]
    under_test = Runtime(request.param, command, tmp_path, rootfs)
    try:
        yield under_test
    finally:
        under_test.clean()
