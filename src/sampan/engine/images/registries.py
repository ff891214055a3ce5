"""What this engine has for talking to registries: settings, connections, slots, what it has learned. Wiring only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from weakref import WeakValueDictionary

from sampan.engine.config import EngineConfig
from sampan.engine.images.downloads import Downloads, Slots
from sampan.engine.images.known import KnownBlobs
from sampan.engine.layers.layers import Layers
from sampan.engine.store import Store
from sampan.registry import endpoints, repository
from sampan.registry.auth import Credentials
from sampan.registry.endpoints import Endpoint, Settings
from sampan.registry.outgoing import Proxies
from sampan.registry.repository import Repository
from sampan.registry.transport import Transport


class Registries:
    """One per engine; `close` ends what is under way."""

    def __init__(self, config: EngineConfig, store: Store, layers: Layers) -> None:
        self.settings = _settings(config)
        self.proxies = Proxies(http=config.http_proxy, https=config.https_proxy, no=config.no_proxy)
        self.transport = Transport(self.settings.certificates, self.proxies)
        self.known = KnownBlobs(store)
        self.known.sweep({layer.diff_id for layer in layers.all()})
        self.downloads = Downloads(layers, self.known, config.max_concurrent_downloads)
        self.uploads = Slots(config.max_concurrent_uploads)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def reconfigure(self, config: EngineConfig) -> None:
        """Take new values; they count for what begins from now on."""
        self.settings = _settings(config)
        self.downloads.slots.resize(config.max_concurrent_downloads)
        self.uploads.resize(config.max_concurrent_uploads)

    async def connect(self, schemes: Sequence[Endpoint], credentials: Credentials, *, push: bool = False) -> Repository:
        """Return the repository at the first of `schemes` that answers. Raises: Internal of the last one."""
        return await repository.connect(self.transport, schemes, credentials, self.settings, push=push)

    def upload_lock(self, repository: str, diff_id: str) -> asyncio.Lock:
        """Held while a layer goes to a repository: who comes second finds it there."""
        return self._locks.setdefault(f"{repository}@{diff_id}", asyncio.Lock())

    async def close(self) -> None:
        await self.downloads.close()
        await self.transport.close()


def _settings(config: EngineConfig) -> Settings:
    return Settings(
        mirrors=config.registry_mirrors,
        insecure=config.insecure_registries,
        rules=endpoints.rules(config.registries),
        attempts=config.max_download_attempts,
    )
