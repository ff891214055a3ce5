"""The volume drivers of this engine, by the name that `docker volume create --driver` takes. A new one is a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor

from sampan.engine.config import EngineConfig
from sampan.engine.volumes.drivers.driver import VolumeDriver
from sampan.engine.volumes.drivers.local import LocalDriver

DEFAULT = "local"

DriverFactory = Callable[[EngineConfig, Executor], VolumeDriver]
"""Makes a driver. The threads are for calls that may block for as long as somebody else likes."""

DRIVERS: Mapping[str, DriverFactory] = {
    "local": LocalDriver,
}
