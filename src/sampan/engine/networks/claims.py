"""Claims of containers that are about to join networks: a network that is claimed is not removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from sampan.engine.networks.records import NetworkRecord


class Claims:
    """Who is about to join which network of one engine."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def of(self, network_id: str) -> list[str]:
        """Return the names of the containers that are about to join a network."""
        return self._names.get(network_id, [])

    @contextlib.contextmanager
    def made(self, name: str, networks: Iterable[NetworkRecord]) -> Iterator[None]:
        """Keep networks from being removed while a container joins them; begun before the first wait."""
        ids = [network.id for network in networks]
        for id in ids:
            self._names.setdefault(id, []).append(name)
        try:
            yield
        finally:
            for id in ids:
                self._names[id].remove(name)
                if not self._names[id]:
                    del self._names[id]
