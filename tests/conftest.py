"""Fixtures that several rooms of the test tree use. What a machine lacks is probed by trying it, and named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.engine import Engine
from tests.support.machine import lacks as lacks


@pytest.fixture(scope="session")
def root() -> None:
    """The test needs root in the host's user namespace."""
    if os.geteuid() != 0:
        lacks("needs root")


@pytest.fixture(scope="session")
def shared_engine(root: None) -> Iterator[Engine]:
    """One engine with busybox:latest for all tests that only add containers of their own and remove them again.

    SAMPAN_TEST_SOCKET names another engine, Docker's own say, to prove the tests on; it needs busybox:latest.
    """
    given = os.environ.get("SAMPAN_TEST_SOCKET")
    if given:
        other = Engine()
        other.socket = Path(given)
        yield other
        shutil.rmtree(other.directory)
        return
    engine = Engine().start()
    try:
        engine.import_busybox()
        yield engine
    finally:
        engine.close()


@pytest.fixture
def engine(root: None) -> Iterator[Engine]:
    """An engine of the test's own, with busybox:latest: for tests that kill, restart or fill it."""
    own = Engine()
    try:
        own.start()
        own.import_busybox()
        yield own
    finally:
        own.close()


@pytest.fixture(scope="session")
def buildx() -> str:
    """Path of docker-buildx."""
    return str(clients.buildx())


@pytest.fixture(scope="session")
def compose() -> str:
    """Path of docker-compose."""
    return str(clients.compose())


@pytest.fixture(scope="session")
def docker() -> str:
    """Path of the real docker client."""
    found = shutil.which("docker")
    if found is None:
        lacks("the docker client is not installed")
    assert found is not None
    return found
