"""Steps that another engine has done (`--cache-from`): looked up by key. Layers come when a step needs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sampan.engine.builder.cacheconfig import Blob, CacheConfig, ConfigRecord
from sampan.engine.builder.solver.cache import Cache
from sampan.engine.builder.solver.records import CacheRecord
from sampan.engine.builder.state import LayerChain
from sampan.engine.images.service import Images
from sampan.engine.store import Ref
from sampan.errors import SampanError
from sampan.spec import oci_image

Obtain = Callable[[list[Blob], Ref], Awaitable[None]]
"""Bring these layers (bottom first) here and have the holder keep them."""


class ImportedCache:
    """One source: the cache config that it offers, and a way to get the layers."""

    def __init__(self, images: Images, cache: Cache, config: CacheConfig, obtain: Obtain) -> None:
        self._images, self._cache, self._config, self._obtain = images, cache, config, obtain
        self._records = {kept.key: kept for kept in config.records}

    async def find(self, key: str) -> CacheRecord | None:
        """Return the record of a step, its layers here; None when the source does not have it or cannot give it."""
        kept = self._records.get(key)
        if kept is None:
            return None
        holder = self._images.layers.hold("")
        try:
            return await self._take(kept, holder)
        except SampanError:
            return None  # a source that is damaged or gone is no reason to fail: the step is run
        finally:
            self._images.layers.let_go(holder)

    async def _take(self, kept: ConfigRecord, holder: Ref) -> CacheRecord:
        blobs = self._config.chain(kept.layer)
        diff_ids = tuple(blob.diff_id for blob in blobs)
        chain = oci_image.chain_ids(diff_ids)
        await self._obtain(blobs, holder)
        state = LayerChain(diff_ids=diff_ids, chain_id=chain[-1] if chain else "")
        size = self._images.layers.get(state.chain_id).size_bytes if chain and not kept.empty else 0
        return self._cache.put(
            kept.key,
            state,
            empty=kept.empty,
            time_ns=kept.time_ns,
            description=kept.description,
            size_bytes=size,
            parents=[LayerChain(diff_ids=diff_ids[:-1], chain_id=chain[-2])] if len(chain) > 1 else [],
        )
