"""What the builder may ask of the client that started a build: files, secrets, keys, credentials, and where to put results.

Two doors provide it: a gRPC session (buildkit/) and, with nothing but the archive in the request, the classic door.
What a client cannot give raises NotFound; nothing here is ever written to a layer, a cache key, a log or history.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from sampan.engine.builder.trees import Tree


class Session(Protocol):
    """The client's side of one build."""

    id: str

    async def local(
        self,
        name: str,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        follow: Sequence[str] = (),
        report: Callable[[int, bool], None] | None = None,
    ) -> Tree:
        """A directory of the client: `context`, `dockerfile` or a named context; owned by the caller.

        follow: the paths that are needed, () for all; a hint, more may come. report: told how many bytes have come, and
        whether that is all. Raises: NotFound.
        """

    async def secret(self, id: str) -> bytes:
        """Raises: NotFound."""

    async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One connection to the client's agent. Raises: NotFound."""

    async def credentials(self, host: str) -> tuple[str, str]:
        """(user, password or identity token) for a registry host; ("", "") for none."""

    async def put_tree(self, tree: Tree, *, exporter: int = 0) -> None:
        """Hand a tree to the client (`--output type=local`). exporter: which of its outputs."""

    async def put_file(self, chunks: AsyncIterator[bytes], metadata: Mapping[str, str], *, exporter: int = 0) -> None:
        """Hand one file to the client (`--output type=tar|oci|docker`)."""
