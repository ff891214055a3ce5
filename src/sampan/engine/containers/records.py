"""What the engine remembers of a container, and how it tells the time.

`Container` is the durable record (JSON in the store); it holds the wire structs as Docker stores them. It is
treated as frozen: change it with `replace` and put it. What lives only as long as the daemon (locks, waiters,
exec instances) is in `live.Live` and its owners.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.engine.containers.states import ACTIVE, State
from sampan.engine.store import Record
from sampan.spec import times
from sampan.spec.engine_api.container import ContainerConfig, HostConfig
from sampan.spec.engine_api.network import EndpointSettings


class MountPoint(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One mount of a container, resolved at create. `source` is a host path; empty for tmpfs."""

    type: str  # bind, volume, tmpfs, image
    destination: str
    source: str = ""
    name: str = ""  # volume's or image's name
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    # what only the spec needs
    copy: bool = False  # an empty new volume receives what the image has at `destination`
    recursive: bool = True
    read_only_recursive: bool = True
    read_only_force_recursive: bool = False
    create_source: bool = False  # `-v` makes a missing directory on the host
    subpath: str = ""
    tmpfs_options: tuple[str, ...] = ()
    anonymous: bool = False


class LinkedContainer(msgspec.Struct, kw_only=True, frozen=True):
    """Another container that one is linked to: its id, and its name when that was done."""

    id: str
    name: str


class Status(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What `State` shows. Times are nanoseconds since the epoch, 0 is never."""

    state: State = State.CREATED
    pid: int = 0
    exit_status: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0


class Container(Record, kw_only=True):
    """One container. `path` and `args` are what is executed: entrypoint and command, merged with the image's.

    links: what it is linked to on the default bridge, by alias (links.py).
    """

    name: str
    created_ns: int
    driver: str = "overlay2"  # the storage driver that holds its files
    image_id: str = ""
    path: str = ""
    args: list[str] = []
    config: ContainerConfig = msgspec.field(default_factory=ContainerConfig)
    host_config: HostConfig = msgspec.field(default_factory=HostConfig)
    endpoints: dict[str, EndpointSettings] = {}
    mounts: list[MountPoint] = []
    links: dict[str, LinkedContainer] = {}
    status: Status = msgspec.field(default_factory=Status)
    restart_count: int = 0
    manually_stopped: bool = False
    has_been_started: bool = False
    platform: str = "linux"
    shm_path: str = ""
    removal: dict[str, bool] = {}  # how a removal that is under way was asked for: {"volumes": True}

    @property
    def active(self) -> bool:
        """Tell whether the API says that it runs: paused and restarting count too."""
        return self.status.state in ACTIVE


def with_status(container: Container, **changes: Any) -> Container:
    """Return the container with some fields of its status replaced."""
    return msgspec.structs.replace(container, status=msgspec.structs.replace(container.status, **changes))


def rfc3339(ns: int) -> str:
    """Write nanoseconds since the epoch as Go's RFC3339Nano in UTC; 0 is Go's zero time."""
    return times.rfc3339_nano(ns) if ns else times.ZERO
