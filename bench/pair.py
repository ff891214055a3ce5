"""The engines that a bench measures in turns: one of ours, started for it, and a Docker Engine when there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.engine import Engine


@contextmanager
def engines(vs: str) -> Iterator[dict[str, Engine]]:
    """Yield them by name, ours first, with busybox in it. vs: the socket of the Docker Engine; empty: none."""
    own = Engine().start()
    found = {"sampan": own}
    if vs:
        found["docker"] = Engine()
        found["docker"].socket = Path(vs)
    try:
        own.import_busybox()
        yield found
    finally:
        own.close()
