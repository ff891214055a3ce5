"""The storage driver in use with all that belongs to it: records, directories, layers, roots, threads.

Wiring only. What another driver of this data root made is hidden while this one is chosen (snapshots/choice.py).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from sampan.engine.config import EngineConfig
from sampan.engine.layers import unpack
from sampan.engine.layers.layers import Layers
from sampan.engine.layers.roots import Roots
from sampan.engine.layers.snapshots import choice
from sampan.engine.layers.snapshots.table import DEFAULT
from sampan.engine.paced import PacedThreads
from sampan.engine.store import Store

WORKERS = 4  # for work that waits for the disk only
STREAMS = 64  # for layers on their way in and out
UPLOADS = 64  # for archives that clients send: who stops sending holds up nobody but those who send


class Storage:
    """One per engine. `close` when nothing uses its parts any more."""

    def __init__(self, config: EngineConfig, store: Store) -> None:
        """Raises: Internal for an unknown driver or bad options."""
        adopt = unpack.adopt_thread
        self.pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="images", initializer=adopt)
        self.streaming = ThreadPoolExecutor(STREAMS, thread_name_prefix="images", initializer=adopt)
        self.uploads = PacedThreads(UPLOADS, "images-uploads", adopt)
        self.driver = choice.open_driver(config.storage_driver, config.data_root, config.storage_opts)
        self.store = store if self.driver.name == DEFAULT else store.scope(self.driver.name)
        self.home = choice.home(config.data_root, self.driver.name)  # has `snapshots` and `content`
        self.layers = Layers(self.store, self.driver, self.streaming)
        self.roots = Roots(self.store, self.driver, self.layers, self.pool, self.streaming)

    async def close(self) -> None:
        """Wait for work under way, then stop the threads."""
        self.uploads.shutdown()
        for pool in (self.streaming, self.pool):
            await asyncio.get_running_loop().run_in_executor(None, pool.shutdown)
        self.driver.close()
