"""What travels to an OCI runtime as data: mounts.

Source: OCI runtime-spec 1.2 config.md "Mounts"; containerd core/mount/mount.go for the value's shape.
"""

from __future__ import annotations

from typing import NamedTuple, TypedDict


class OciMount(TypedDict):
    """An entry of `mounts` in config.json."""

    destination: str
    type: str
    source: str
    options: list[str]


class Mount(NamedTuple):
    """One mount to be made: mount(8)'s four words. target: below the root that it belongs to."""

    type: str
    source: str
    target: str
    options: tuple[str, ...] = ()

    def oci(self) -> OciMount:
        """Return the mount in the OCI's words."""
        return {"destination": self.target, "type": self.type, "source": self.source, "options": [*self.options]}
