"""Bodies about volumes.

Source: Engine API 1.51, definition VolumeCreateOptions.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from sampan.spec.engine_api.wire import GoType, Int64, StringMap, Strings, Wire


class Topology(Wire):
    GO: ClassVar[str] = "volume.Topology"
    segments: StringMap = None


class TopologyRequirement(Wire):
    GO: ClassVar[str] = "volume.TopologyRequirement"
    requisite: list[Topology] | None = None
    preferred: list[Topology] | None = None


class CapacityRange(Wire):
    GO: ClassVar[str] = "volume.CapacityRange"
    required_bytes: Int64 = 0
    limit_bytes: Int64 = 0


class VolumeSecret(Wire):
    GO: ClassVar[str] = "volume.Secret"
    key: str = ""
    secret: str = ""


class TypeMount(Wire):
    GO: ClassVar[str] = "volume.TypeMount"
    fs_type: str = ""
    mount_flags: Strings = None


class TypeBlock(Wire):
    GO: ClassVar[str] = "volume.TypeBlock"


class AccessMode(Wire):
    GO: ClassVar[str] = "volume.AccessMode"
    scope: Annotated[str, GoType("volume.Scope")] = ""
    sharing: Annotated[str, GoType("volume.SharingMode")] = ""
    mount_volume: TypeMount | None = None
    block_volume: TypeBlock | None = None


class ClusterVolumeSpec(Wire):
    """What a cluster would need to know of a volume; read so that a fault in it is named, and refused."""

    GO: ClassVar[str] = "volume.ClusterVolumeSpec"
    group: str = ""
    access_mode: AccessMode | None = None
    accessibility_requirements: TopologyRequirement | None = None
    capacity_range: CapacityRange | None = None
    secrets: list[VolumeSecret] | None = None
    availability: Annotated[str, GoType("volume.Availability")] = ""


class VolumeCreate(Wire):
    """Body of POST /volumes/create."""

    GO: ClassVar[str] = "volume.CreateOptions"
    ROOT: ClassVar[str] = "CreateOptions"
    cluster_volume_spec: ClusterVolumeSpec | None = None
    driver: str = ""
    driver_opts: StringMap = None
    labels: StringMap = None
    name: str = ""
