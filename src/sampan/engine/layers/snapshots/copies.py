"""Storage drivers that give each container a tree of its own: vfs copies files, btrfs makes a snapshot of a subvolume.

    <root>/<n>/fs          a layer's difference to the one below, as in every driver; a container's whole tree
    <root>/<n>/merged/fs   the whole tree of an image whose top layer is <n>: made when its first container is

With btrfs `merged` and a container's <n> are subvolumes, and the files of `merged` share their blocks with the layers.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sampan.engine.layers.snapshots import trees
from sampan.engine.layers.snapshots.directories import INIT, Directories
from sampan.errors import Internal, words
from sampan.linux import btrfs, mounts, syscalls
from sampan.spec.oci_runtime import Mount

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Vfs(Directories):
    """Plain copies: slow and large, and right on every file system that has extended attributes."""

    name = "vfs"
    instant = False
    overlaid = False

    def __init__(self, data_root: str, root: str, options: Sequence[str] = ()) -> None:
        refuse_options(self.name, options)
        super().__init__(data_root, root, self._destroy)
        self._merging = threading.Lock()

    def probe(self) -> None:
        number = self.new_layer(None)
        try:
            fd = os.open(f"{self.path(number)}/fs", _DIRECTORY)
            try:
                os.setxattr(fd, trees.OPAQUE, b"y")
                os.mknod("whiteout", 0o020000, 0, dir_fd=fd)
            finally:
                os.close(fd)
        except OSError as e:
            raise Internal(
                f"{self.name} does not work on {self.root}: {words(e)}; the file system needs extended attributes "
                f"and device nodes: choose another --data-root"
            ) from e
        finally:
            self.remove(number)

    def settle(self, number: int) -> None:
        return None

    def status(self) -> list[list[str]]:
        return []

    def new_container(self, lowers: Sequence[int]) -> int:
        source = self._merged(lowers)
        number = self.allocate()
        try:
            self._clone(source, f"{self.root}/{number}")
        except BaseException:
            self.remove(number)
            raise
        return number

    def mounts(self, number: int, lowers: Sequence[int]) -> tuple[Mount, ...]:
        return (Mount("bind", f"{self.path(number)}/fs", "/", ("bind", "rw")),)

    def data(self, number: int, lowers: Sequence[int], *, container: bool) -> Mapping[str, str] | None:
        return None

    def open_root(self, number: int, lowers: Sequence[int], *, writable: bool) -> int:
        return _detached(f"{self.path(number)}/fs", read_only=not writable)

    def open_work(self, number: int, lowers: Sequence[int]) -> int:
        return self.open_root(number, lowers, writable=True)

    def work_mounts(self, number: int, lowers: Sequence[int], *, container: bool) -> tuple[Mount, ...]:
        return self.mounts(number, lowers)

    def open_lower(self, lowers: Sequence[int]) -> int:
        return _detached(f"{self._merged(lowers)}/fs", read_only=True)

    @contextmanager
    def changed(self, number: int, lowers: Sequence[int]) -> Iterator[int]:
        own, below = f"{self.path(number)}/fs", f"{self._merged(lowers)}/fs"
        place = f"{self.path(number)}/changed-{os.urandom(4).hex()}"
        os.mkdir(place, 0o700)
        try:
            new, old, into = (os.open(path, _DIRECTORY) for path in (own, below, place))
            try:
                trees.difference(new, old, into)
                yield into
            finally:
                for fd in (new, old, into):
                    os.close(fd)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    # --- trees -------------------------------------------------------------------------------------------------------

    def _merged(self, lowers: Sequence[int]) -> str:
        """The directory that holds the whole tree of these layers, made if it is missing."""
        if not lowers:
            return f"{self.root}/{INIT}"
        final = f"{self.path(lowers[0])}/merged"
        with self._merging:
            if os.path.isdir(final):
                return final
            building = f"{final}.new"
            if os.path.isdir(building):  # of a making that was interrupted
                self.trash.take(building, "merged")
            base = next((n for n, number in enumerate(lowers) if os.path.isdir(f"{self.path(number)}/merged")), None)
            if base is None:
                self._begin(building)
                todo = [f"{self.root}/{INIT}/fs", *(f"{self.path(n)}/fs" for n in reversed(lowers))]
            else:
                self._clone(f"{self.path(lowers[base])}/merged", building)
                todo = [f"{self.path(n)}/fs" for n in reversed(lowers[:base])]
            try:
                for path in todo:
                    _apply(path, f"{building}/fs")
                os.rename(building, final)
            except BaseException:
                self.trash.take(building, "merged")
                raise
        return final

    def _begin(self, path: str) -> None:
        """An empty tree."""
        os.mkdir(path, 0o700)
        os.mkdir(f"{path}/fs", 0o755)

    def _clone(self, source: str, path: str) -> None:
        """A copy of a tree; `path` may be there, empty."""
        os.makedirs(path, 0o700, exist_ok=True)
        os.mkdir(f"{path}/fs", 0o755)
        _apply(f"{source}/fs", f"{path}/fs")

    def _destroy(self, parent_fd: int, name: str) -> bool:
        return False


class Btrfs(Vfs):
    """Subvolumes: a container's tree is a snapshot, made and removed at once."""

    name = "btrfs"
    subvolumes = True

    def probe(self) -> None:
        fd = os.open(self.root, _DIRECTORY)
        try:
            if syscalls.fstatfs_type(fd) != btrfs.SUPER_MAGIC:
                raise Internal(
                    f"btrfs does not work on {self.root}: it is no btrfs; "
                    "choose another --data-root or --storage-driver"
                )
            number = self.allocate()
            try:
                self._clone(f"{self.root}/{INIT}", self.path(number))
            finally:
                self.remove(number)
        except OSError as e:
            raise Internal(f"btrfs does not work on {self.root}: {words(e)}") from e
        finally:
            os.close(fd)
        super().probe()

    def status(self) -> list[list[str]]:
        return [["Btrfs", ""]]

    def _begin(self, path: str) -> None:
        _in_parent(path, btrfs.subvol_create)
        os.mkdir(f"{path}/fs", 0o755)

    def _clone(self, source: str, path: str) -> None:
        if os.path.isdir(path):
            os.rmdir(path)
        fd = os.open(source, _DIRECTORY)
        try:
            if btrfs.is_subvolume(os.fstat(fd)):
                _in_parent(path, lambda parent, name: btrfs.snap_create(parent, name, fd))
                return
        finally:
            os.close(fd)
        self._begin(path)  # the stubs are a plain directory
        _apply(f"{source}/fs", f"{path}/fs")

    def _destroy(self, parent_fd: int, name: str) -> bool:
        """Remove a subvolume in one step. False: it is none, or holds others."""
        try:
            if not btrfs.is_subvolume(os.stat(name, dir_fd=parent_fd, follow_symlinks=False)):
                return False
            btrfs.snap_destroy(parent_fd, name)
        except OSError:
            return False
        return True


def refuse_options(driver: str, options: Sequence[str]) -> None:
    """Raises: Internal for storage-opts that mean nothing to this driver; those of other drivers are theirs."""
    for option in options:
        key = option.partition("=")[0].lower()
        if key.startswith(f"{driver}.") or "." not in key:
            raise Internal(f"{driver}: unknown option {key}")


def _apply(difference: str, tree: str) -> None:
    source = os.open(difference, _DIRECTORY)
    try:
        target = os.open(tree, _DIRECTORY)
        try:
            trees.apply(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _in_parent(path: str, make: Any) -> None:
    parent, name = os.path.split(path)
    fd = os.open(parent, _DIRECTORY)
    try:
        make(fd, name)
    finally:
        os.close(fd)


def _detached(path: str, *, read_only: bool) -> int:
    """A detached bind mount of a directory."""
    fd = mounts.open_tree(syscalls.AT_FDCWD, path, mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC)
    if read_only:
        try:
            mounts.mount_setattr(fd, "", syscalls.AT_EMPTY_PATH, attr_set=mounts.MOUNT_ATTR_RDONLY)
        except BaseException:
            os.close(fd)
            raise
    return fd
