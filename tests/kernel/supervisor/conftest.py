from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.kernel.supervisor.bench_of_tasks import Bench, bench


@pytest_asyncio.fixture(name="bench")
async def _bench(tmp_path: Path) -> AsyncIterator[Bench]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    mask = os.umask(0o022)  # an engine that was opened in this process has left its own
    try:
        async with bench(tmp_path) as b:
            yield b
    finally:
        os.umask(mask)
