"""Links that are going away, and the addresses they still hold.

A container's end of a veth dies with its namespace, and the host's end with it: the kernel does that by itself, many
at a time, some 10 to 30 ms after the last process has gone. Deleting it ourselves would cost as long under the
kernel's one lock for all links. So a link is only noted here; the kernel's notification frees its addresses. A link
that is still there after `GRACE_S` (somebody else holds the namespace), or whose address is wanted at once, is
deleted explicitly.

Invariant: an address is released exactly once, and never before its link is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sampan.engine.background import Background
from sampan.engine.networks.ipam import Address

GRACE_S = 0.5


@dataclass(slots=True)
class Leases:
    """`delete` removes links (those gone are fine); `release` gives an address of a network back."""

    delete: Callable[[Sequence[str]], Awaitable[None]]
    release: Callable[[str, Address], None]
    background: Background
    _going: dict[str, list[tuple[str, Address]]] = field(default_factory=dict)
    _timer: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._going)

    def doom(self, link: str, addresses: Iterable[tuple[str, Address]]) -> None:
        """Note a link whose other end's namespace is dying; its (network id, address) pairs are free after that."""
        self._going[link] = list(addresses)
        if self._timer is None or self._timer.done():
            self._timer = self.background.spawn(self._sweep(), "links that are going")

    def gone(self, links: Iterable[str]) -> None:
        """Free what these links held: they do not exist any more; names that are not noted are fine."""
        for link in links:
            for network, address in self._going.pop(link, ()):
                self.release(network, address)

    async def settle(self, links: Sequence[str] | None = None) -> None:
        """Delete these going links, or all, now. Raises: OSError."""
        names = list(self._going) if links is None else [n for n in links if n in self._going]
        if names:
            await self.delete(names)
            self.gone(names)

    async def settle_address(self, network: str, address: Address) -> None:
        """Make sure that no going link holds this address. Raises: OSError."""
        await self.settle([link for link, held in self._going.items() if (network, address) in held])

    async def _sweep(self) -> None:
        while self._going:
            old = list(self._going)
            await asyncio.sleep(GRACE_S)
            await self.settle(old)
