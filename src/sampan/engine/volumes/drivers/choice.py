"""The volume drivers of this engine, by the name that `docker volume create --driver` takes.

A new driver is one line here, and one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sampan.engine.config import EngineConfig
from sampan.engine.hostpaths import HostPaths
from sampan.engine.volumes.drivers.driver import VolumeDriver
from sampan.engine.volumes.drivers.local import LocalDriver

DEFAULT = "local"

DriverFactory = Callable[[EngineConfig, HostPaths], VolumeDriver]
"""Makes a driver. Looks at file systems that may not answer belong into the threads of HostPaths."""

DRIVERS: Mapping[str, DriverFactory] = {
    "local": LocalDriver,
}
