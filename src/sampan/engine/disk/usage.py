"""How much disk a data root takes, everything exactly once: what `du` would say, by whom it is used.

Bytes are blocks that the file system has allocated, not file lengths: only they come back. Directories count, a file
with several names counts once, and what another file system holds below a volume's directory does not count.

Source: stat(2) st_blocks, in units of 512 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Allocated bytes of one data root."""

    layers: Mapping[str, int]  # by chain id
    shared: int  # configurations, the stubs of all containers, layers being unpacked, images of other storage drivers
    containers: Mapping[str, int]  # by container: the writable layer and the container's own directory
    logs: Mapping[str, int]  # by container; part of `containers`
    volumes: Mapping[str, int]  # by name
    builder: int  # cache mounts and what is kept of clients' files; layers of build steps are among the layers
    trash: int  # removed, and on its way off the disk
    engine: int  # the database, ids, whatever else lies in the data root

    @property
    def images(self) -> int:
        """What images take: their layers and all that exists because of images."""
        return sum(self.layers.values()) + self.shared

    @property
    def total(self) -> int:
        """All of it."""
        return (
            self.images
            + sum(self.containers.values())
            + sum(self.volumes.values())
            + self.builder
            + self.trash
            + self.engine
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRootPlaces:
    """Where the objects of a data root lie; decided on the event loop, measured in a thread."""

    data_root: str
    layers: Mapping[str, str]  # chain id → directory
    containers: Mapping[str, Iterable[str]]  # container → its directories
    logs: Mapping[str, str]  # container → its own directory, where its log files are
    volumes: Mapping[str, str]  # name → directory
    one_device: bool  # what is mounted in a container's or layer's directory is no part of it
    known: Mapping[str, int]  # layers that were measured before: they never change


def measure(places: DataRootPlaces) -> Usage:
    """Walk the data root. Blocking. What vanishes meanwhile does not count."""
    root = places.data_root
    one = places.one_device
    of_images = [f"{root}/{name}" for name in ("content", "snapshots", "drivers")]
    layers = {id: places.known.get(id) or allocated(path, one_device=one) for id, path in places.layers.items()}
    containers = {id: sum(allocated(path, one_device=one) for path in paths) for id, paths in places.containers.items()}
    volumes = {name: allocated(path, one_device=True) for name, path in places.volumes.items()}
    claimed = {*places.layers.values(), *places.volumes.values()}
    claimed |= {path for paths in places.containers.values() for path in paths}
    return Usage(
        layers=layers,
        shared=sum(allocated(path, but=claimed, one_device=one) for path in of_images),
        containers=containers,
        logs={id: _log_bytes(path, id) for id, path in places.logs.items()},
        volumes=volumes,
        builder=allocated(f"{root}/builder"),
        trash=allocated(f"{root}/trash"),
        engine=allocated(root, but={*claimed, *of_images, f"{root}/builder", f"{root}/trash"}),
    )


def allocated(path: str, *, but: Iterable[str] = (), one_device: bool = False) -> int:
    """Add up the bytes that the file or tree at `path` occupies, without the directories in `but`.

    one_device: what is mounted there or below does not count.
    """
    spared = frozenset(but)
    try:
        top = os.lstat(path)
        home = os.lstat(os.path.dirname(path)).st_dev if one_device else -1
    except OSError:
        return 0
    if path in spared or (one_device and top.st_dev != home):
        return 0
    blocks = top.st_blocks
    pending = [path] if os.path.isdir(path) and not os.path.islink(path) else []
    seen: set[tuple[int, int]] = set()
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if entry.path in spared or (one_device and status.st_dev != home):
                        continue
                    pending.append(entry.path)
                elif status.st_nlink > 1:
                    if (status.st_dev, status.st_ino) in seen:
                        continue
                    seen.add((status.st_dev, status.st_ino))
                blocks += status.st_blocks
    return blocks * BLOCK_BYTES


def _log_bytes(directory: str, container: str) -> int:
    """The container's log files, rotated ones included."""
    try:
        names = os.listdir(directory)
    except OSError:
        return 0
    return sum(allocated(f"{directory}/{name}") for name in names if name.startswith(container) or name == "local-logs")
