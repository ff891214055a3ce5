"""Bodies about volumes.

Source: Engine API 1.51, definition VolumeCreateOptions.
"""

from __future__ import annotations

from typing import ClassVar

from sampan.spec.engine_api.wire import StringMap, Wire


class ClusterVolumeSpec(Wire):
    GO: ClassVar[str] = "volume.ClusterVolumeSpec"
    group: str = ""


class VolumeCreate(Wire):
    """Body of POST /volumes/create."""

    GO: ClassVar[str] = "volume.CreateOptions"
    ROOT: ClassVar[str] = "CreateOptions"
    cluster_volume_spec: ClusterVolumeSpec | None = None
    driver: str = ""
    driver_opts: StringMap = None
    labels: StringMap = None
    name: str = ""
