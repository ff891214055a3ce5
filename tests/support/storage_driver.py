"""A storage driver that only tests have: one file, and one line in the table of drivers, is all that a driver takes.

It copies: every container's tree is made anew from the layers, every comparison makes the lower tree once more.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sampan.engine.layers.snapshots import trees
from sampan.engine.layers.snapshots.directories import INIT, Directories
from sampan.linux import mounts, syscalls
from sampan.spec.oci_runtime import Mount

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class TestCopies:
    """Trees on the disk, compared with trees in memory."""

    __test__ = False  # no test, whatever its name
    name = "test-copies"
    instant = overlaid = subvolumes = False

    def __init__(self, data_root: str, root: str, options: Sequence[str] = ()) -> None:
        made = Directories(data_root, root)
        self.root, self.trash, self.fresh, self.close = made.root, made.trash, made.fresh, made.close
        self.path, self.numbers, self.remove = made.path, made.numbers, made.remove
        self.new_layer, self.adopt, self._allocate = made.new_layer, made.adopt, made.allocate

    def probe(self) -> None:
        return None

    def status(self) -> list[list[str]]:
        return [["Made for", "tests"]]

    def settle(self, number: int) -> None:
        return None

    def data(self, number: int, lowers: Sequence[int], *, container: bool) -> None:
        return None

    def new_container(self, lowers: Sequence[int]) -> int:
        number = self._allocate()
        os.mkdir(f"{self.root}/{number}/fs")
        fd = os.open(f"{self.root}/{number}/fs", _DIRECTORY)
        try:
            self._fill(fd, lowers)
        finally:
            os.close(fd)
        return number

    def mounts(self, number: int, lowers: Sequence[int]) -> tuple[Mount, ...]:
        return (Mount("bind", f"{self.root}/{number}/fs", "/", ("bind", "rw")),)

    def work_mounts(self, number: int, lowers: Sequence[int], *, container: bool) -> tuple[Mount, ...]:
        return self.mounts(number, lowers)

    def open_root(self, number: int, lowers: Sequence[int], *, writable: bool) -> int:
        flags = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC
        return mounts.open_tree(syscalls.AT_FDCWD, f"{self.root}/{number}/fs", flags)

    def open_work(self, number: int, lowers: Sequence[int]) -> int:
        return self.open_root(number, lowers, writable=True)

    def open_lower(self, lowers: Sequence[int]) -> int:
        fs = mounts.fsopen("tmpfs")
        try:
            mounts.fsconfig(fs, mounts.FSCONFIG_CMD_CREATE)
            fd = mounts.fsmount(fs)
        finally:
            os.close(fs)
        self._fill(fd, lowers)
        return fd

    @contextmanager
    def changed(self, number: int, lowers: Sequence[int]) -> Iterator[int]:
        place = f"{self.root}/{number}/changed-{os.urandom(4).hex()}"
        os.mkdir(place)
        lower = self.open_lower(lowers)
        new, old, into = (
            os.open(f"{self.root}/{number}/fs", _DIRECTORY),
            os.open(".", _DIRECTORY, dir_fd=lower),
            os.open(place, _DIRECTORY),
        )
        try:
            trees.difference(new, old, into)
            yield into
        finally:
            for fd in (new, old, into, lower):
                os.close(fd)
            shutil.rmtree(place)

    def _fill(self, into: int, lowers: Sequence[int]) -> None:
        """Put the stubs, then the layers, base first, into an empty directory."""
        tree = os.open(".", _DIRECTORY, dir_fd=into)
        try:
            for path in (f"{self.root}/{INIT}/fs", *(f"{self.root}/{n}/fs" for n in reversed(lowers))):
                layer = os.open(path, _DIRECTORY)
                try:
                    trees.apply(layer, tree)
                finally:
                    os.close(layer)
        finally:
            os.close(tree)
