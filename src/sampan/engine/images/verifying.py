"""The step between a manifest and an image: whether what a name is about to mean may be used here.

Asked before any layer is fetched or unpacked, so that a refusal leaves nothing behind.
"""

from __future__ import annotations

from typing import Protocol

from sampan.registry.manifests import Descriptor
from sampan.spec.reference import Reference


class Verifier(Protocol):
    """Decides whether a name may mean what a registry or an archive offers for it."""

    async def verify(self, name: Reference, descriptor: Descriptor, manifest: bytes) -> None:
        """Return when the name may mean this manifest. Raises: SampanError when not, in words for the user.

        descriptor: of `manifest`, as bytes: an image's manifest, the index of several, or, for an archive that has no
        manifests, the image's configuration. Its digest is that of the bytes.
        """


class AnyManifest:
    """Accepts everything: a digest says that content is whole, not that somebody vouches for it."""

    async def verify(self, name: Reference, descriptor: Descriptor, manifest: bytes) -> None:
        return None
