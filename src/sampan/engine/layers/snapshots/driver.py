"""What a storage driver is: one seam between images and the file system below them.

Every driver keeps a layer as the *difference* to the layer below, in overlayfs' form (`<n>/fs`: whiteouts are character
devices 0:0, opaque directories have `trusted.overlay.opaque`): layers arrive in any order, and go out byte for byte.
What differs is how a container's root comes out of them.

    overlay2        mounts the layers over one another, inside the container's own mount namespace
    vfs             copies them into one tree, and a container gets a copy of its own; works anywhere
    btrfs           the same with subvolumes: the copy is a snapshot and costs nothing
    fuse-overlayfs  overlay2 by a file system in user space, mounted on the host while the container exists

Invariants, checked by tests/conformance/test_storage_drivers.py on each: a container sees its layers, top first, and
the stubs below them; what it writes is in `changed` in overlayfs' form, nothing else is; removal is one rename.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from sampan.engine.layers.snapshots.trash import Trash
from sampan.spec.oci_runtime import Mount


class SnapshotDriver(Protocol):
    """A storage driver on its directory.

    Blocking; `instant` says whether making a container costs nothing to speak of.
    """

    name: str
    instant: bool
    overlaid: bool  # what a container writes lies in `<n>/fs` in the form of a layer, and may become one as it is
    subvolumes: bool  # its directories may be file systems of their own
    root: str
    trash: Trash
    fresh: set[int]

    def close(self) -> None: ...

    def probe(self) -> None:
        """Raises: Internal, naming the directory and the reason, when the driver cannot work there."""

    def status(self) -> list[list[str]]:
        """DriverStatus of `docker info`."""

    def path(self, number: int) -> str: ...

    def numbers(self) -> set[int]:
        """The snapshots that have a directory."""

    def new_layer(self, parent: int | None) -> int:
        """An empty layer, its root's mode and owner as the parent's (0755 root for a base)."""

    def adopt(self, number: int, parent: int | None) -> None:
        """Give a snapshot's root the mode and owner of the one it stands on."""

    def new_container(self, lowers: Sequence[int]) -> int:
        """A writable snapshot over these layers, top first."""

    def settle(self, number: int) -> None:
        """What a container wrote is to become a layer: drop what else its directory holds. Nobody has it mounted."""

    def remove(self, number: int) -> None:
        """Out of sight at once, off the disk later. A missing one is already so."""

    def mounts(self, number: int, lowers: Sequence[int]) -> tuple[Mount, ...]:
        """The OCI mounts of a container's root."""

    def work_mounts(self, number: int, lowers: Sequence[int], *, container: bool) -> tuple[Mount, ...]:
        """The OCI mounts of the root of a build's step: the end of the mount waits for no disk.

        container: with a container's stubs; else with those that a mere step needs, where the driver can tell them
        apart.
        """

    def data(self, number: int, lowers: Sequence[int], *, container: bool) -> Mapping[str, str] | None:
        """GraphDriver.Data as inspect shows it."""

    def open_root(self, number: int, lowers: Sequence[int], *, writable: bool) -> int:
        """A detached mount of a container's root: an O_PATH descriptor, owned by the caller."""

    def open_work(self, number: int, lowers: Sequence[int]) -> int:
        """A detached mount of a root that a build changes files in: a descriptor, owned by the caller.

        Without the stubs where the driver can do without; its end waits for no disk. May be opened again once the last
        one is closed.
        """

    def open_lower(self, lowers: Sequence[int]) -> int:
        """A detached, read-only mount of what lies below a container, the stubs included: owned by the caller."""

    def changed(self, number: int, lowers: Sequence[int]) -> AbstractContextManager[int]:
        """A descriptor of the directory that holds what a container changed, in overlayfs' form."""
