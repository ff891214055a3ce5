"""The mounts of a HostConfig, as `docker run --mount` sends them.

Source: Engine API 1.51, definitions Mount and MountPoint.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from sampan.spec.engine_api.wire import FileMode, GoType, Int64, StringMap, Wire


class BindOptions(Wire, omit_defaults=True):
    GO: ClassVar[str] = "mount.BindOptions"
    propagation: Annotated[str, GoType("mount.Propagation")] = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(Wire, omit_defaults=True):
    GO: ClassVar[str] = "mount.Driver"
    name: str = ""
    options: StringMap = None


class VolumeOptions(Wire, omit_defaults=True):
    GO: ClassVar[str] = "mount.VolumeOptions"
    no_copy: bool = False
    labels: StringMap = None
    subpath: str = ""
    driver_config: DriverConfig | None = None


class ImageOptions(Wire, omit_defaults=True):
    GO: ClassVar[str] = "mount.ImageOptions"
    subpath: str = ""


class TmpfsOptions(Wire, omit_defaults=True):
    GO: ClassVar[str] = "mount.TmpfsOptions"
    size_bytes: Int64 = 0
    mode: FileMode = 0
    options: list[list[str]] | None = None


class ClusterOptions(Wire, omit_defaults=True):
    GO: ClassVar[str] = "mount.ClusterOptions"


class MountSpec(Wire, omit_defaults=True):
    """`type` is bind, volume, tmpfs, npipe, cluster or image; which options may be given depends on it."""

    GO: ClassVar[str] = "mount.Mount"
    type: Annotated[str, GoType("mount.Type")] = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: Annotated[str, GoType("mount.Consistency")] = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    cluster_options: ClusterOptions | None = None
