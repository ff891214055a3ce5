"""What a volume driver does: it makes volumes and brings them to a directory of the host while containers use them.

A driver decides where the data is. It keeps no records and knows no containers beside the names of its users. The
service calls it with the volume's lock held, gives it a limit of time for each answer, and counts the users. An answer
that comes too late, or never, must leave the driver as usable as before.

Drivers raise SampanError kinds in Docker's words, or OSError, which the service translates.

Source: Docker's volume plugin protocol (VolumeDriver.Create, Mount, Path, …); moby 28.5 volume/volume.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sampan.engine.volumes.records import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """`scope`: "local", or "global" for volumes that every machine of a cluster sees.

    `measured`: the data is in a directory of this machine that nobody but the engine makes and removes, and its size
    may be added up.
    """

    scope: str = "local"
    measured: bool = False


class VolumeDriver(Protocol):
    """Implementations stand in choice.py; tests/conformance/test_volume_drivers.py runs on every one of them."""

    @property
    def capabilities(self) -> Capabilities: ...

    def check(self, name: str, options: Mapping[str, str]) -> None:
        """Refuse a name or options that can make no volume. Pure. Raises: InvalidArgument."""

    async def start(self, volumes: Sequence[Volume]) -> None:
        """Make ready, before all other calls; `volumes` are all that are known.

        What has lost its place gets one anew.
        """

    async def close(self) -> None:
        """Finish or drop work that nobody waits for."""

    async def create(self, volume: Volume) -> str:
        """Make a volume that does not exist; what is there already stays.

        Returns its mountpoint, "" if it has one only while it is mounted.
        """

    async def remove(self, volume: Volume) -> None:
        """Remove a volume that nobody uses, with its data; a missing one is already so."""

    async def mount(self, volume: Volume, user: str) -> str:
        """Make the data reachable for one more user; return the directory (or file) that holds it now."""

    async def unmount(self, volume: Volume, user: str, *, last: bool) -> None:
        """Take note that a user has ended. last: nobody uses the volume any more. Already so is fine."""

    def path(self, volume: Volume) -> str:
        """Return where the data is as far as is known without asking, or ""."""

    async def describe(self, volume: Volume) -> Mapping[str, Any]:
        """Return what `docker volume inspect` shows as Status; empty for nothing."""
