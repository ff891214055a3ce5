"""Fixtures of the runtime's kernel tests: a bench, and the proof that each test left nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.runtime.harness import Bench, Snapshot, cgroup_tops, unpack_root


@pytest.fixture(scope="session")
def lower(root: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A busybox root, read by all tests and changed by none."""
    directory = tmp_path_factory.mktemp("lower")
    directory.chmod(0o755)
    unpack_root(directory)
    return directory


@pytest.fixture
def bench(lower: Path, tmp_path: Path) -> Iterator[Bench]:
    mask = os.umask(0o022)
    before = Snapshot(tmp_path)
    bench = Bench(tmp_path, lower)
    try:
        yield bench
    finally:
        os.umask(mask)
        bench.close()
    after = Snapshot(tmp_path)
    assert after.cgroups == before.cgroups
    assert after.children == before.children
    assert after.descriptors == before.descriptors
    assert after.namespaces == before.namespaces
    assert after.mounts == before.mounts


@pytest.fixture(scope="session", autouse=True)
def parent_cgroup() -> Iterator[None]:
    """Remove the directory that all test containers share, in every hierarchy."""
    yield
    for top in cgroup_tops():
        if top.exists():
            top.rmdir()
