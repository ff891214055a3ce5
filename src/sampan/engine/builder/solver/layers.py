"""From a state to the next one: a writable snapshot on its layers, and what was written there as one more layer.

    async with Work(images, base) as work:
        … write below work.root_fd, or give work.mounts() to a task …
        done = await work.commit()

With overlay2 the upper directory *becomes* the layer: it is described in place (layers/recording.py), no file is
copied. Other drivers compare and unpack. Nothing is synced here; an image that is published is (Layers.sync).

Invariants: while it is open, a Work keeps the layers below it; what it committed stays as long as the holder it was
given does, or the Work; whatever is not committed is gone after `__aexit__`, and after a crash at the next start.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from sampan.engine.archives import tar_writer
from sampan.engine.background import to_its_end
from sampan.engine.builder.solver import stubs
from sampan.engine.builder.solver.stubs import Stub
from sampan.engine.builder.state import LayerChain
from sampan.engine.images.service import Images
from sampan.engine.layers.layers import Staged
from sampan.engine.layers.unpack import WHITEOUT
from sampan.engine.store import Ref
from sampan.errors import InvalidArgument
from sampan.spec import oci_image
from sampan.spec.oci_runtime import Mount

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a step left. empty: it changed nothing, and `state` is the base's.

    How an empty step counts differs by dialect: the classic builder makes no layer of it, BuildKit an empty one
    (`empty_layer` below).
    """

    state: LayerChain
    empty: bool = False
    size_bytes: int = 0


class Work:
    """A writable file system on a state, for one user at a time: a task, or a thread that writes below `root_fd`."""

    def __init__(self, images: Images, base: LayerChain, holder: Ref | None = None) -> None:
        """holder: from `images.layers.hold`; it keeps what is committed. Without one, it is the Work that does."""
        self._images = images
        self.base = base
        self._layers, self._driver = images.layers, images.driver
        self._holder = holder
        self._own_holder: Ref | None = None
        self._number = -1
        self._kept = False
        self._root_fd = -1

    async def __aenter__(self) -> Self:
        self._own_holder = held = self._layers.hold(self.base.chain_id)
        try:
            self._lowers = self._layers.numbers(self.base.chain_id)
            if self._driver.instant:
                self._number = self._driver.new_container(self._lowers)
            else:
                self._number = await self.in_thread(self._driver.new_container, self._lowers)
        except BaseException:
            self._layers.let_go(held)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_root()
        if not self._kept:
            self._driver.remove(self._number)
        if self._own_holder is not None:
            self._layers.let_go(self._own_holder)

    @property
    def root_fd(self) -> int:
        """A detached, writable mount of the root: an O_PATH descriptor, made on first use, closed by the Work."""
        if self._root_fd < 0:
            self._root_fd = self._driver.open_work(self._number, self._lowers)
        return self._root_fd

    def close_root(self) -> None:
        """Give the mount up, before a task gets one of its own. `root_fd` makes another."""
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def mounts(self, *, container: bool) -> tuple[Mount, ...]:
        """Return the OCI mounts that make a task's root, while no `root_fd` is open. container: with its stubs."""
        return self._driver.work_mounts(self._number, self._lowers, container=container)

    def clear_stubs(self, made: Sequence[Stub]) -> None:
        """Take mount points away that were made for a task (stubs.py). Blocking; the task has ended."""
        touched = stubs.remove(self.root_fd, made)
        self.close_root()
        if touched and self._driver.overlaid:
            lower_fd = self._driver.open_lower(self._lowers)
            try:
                stubs.untouched(f"{self._driver.path(self._number)}/fs", lower_fd, touched)
            finally:
                os.close(lower_fd)

    async def commit(self, *, epoch_s: int | None = None) -> Committed:
        """Make a layer of what was written. Called once, after the last write. epoch_s: no file of the layer is
        younger.

        Raises: InvalidArgument for directories nested too deep, OSError (ENOSPC, …); nothing is left behind then.
        """
        self.close_root()
        holder = self._holder or self._own_holder
        assert holder is not None, "commit comes between __aenter__ and __aexit__"
        if self._driver.overlaid:
            path = f"{self._driver.path(self._number)}/fs"
            if await self.in_thread(_prepare, path, epoch_s):
                return Committed(state=self.base, empty=True)
            staged = await self._layers.recorded(self._number, self.base.chain_id)
            self._keep(staged, holder)
            self._kept = self._layers.get(staged.chain_id).snapshot == self._number
        else:
            changed = self._driver.changed(self._number, self._lowers)
            upper_fd = await self.in_thread(changed.__enter__)
            try:
                if await self.in_thread(_prepare, f"/proc/self/fd/{upper_fd}", epoch_s):
                    return Committed(state=self.base, empty=True)
                archive = partial(tar_writer.tree, upper_fd, overlay=True)
                async with self._layers.unpacking(archive, parent=self.base.chain_id) as staged:
                    self._keep(staged, holder)
            finally:
                await self.in_thread(changed.__exit__, None, None, None)
        return Committed(state=on_top(self.base, staged), size_bytes=staged.unpacked.size_bytes)

    def _keep(self, staged: Staged, holder: Ref) -> None:
        self._layers.keep(staged, holder)

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run blocking work to its end, also when the build is cancelled: it uses what `__aexit__` takes away."""
        return await to_its_end(asyncio.get_running_loop().run_in_executor(self._images.pool, work, *arguments))


async def empty_layer(images: Images, base: LayerChain, holder: Ref) -> LayerChain:
    """Return `base` with a layer that holds nothing on top, as BuildKit makes of a step without changes."""
    chain_id = oci_image.chain_id(base.chain_id, oci_image.EMPTY_LAYER_DIFF_ID)
    if chain_id in images.layers:
        images.layers.hold_more(holder, chain_id)
        return LayerChain(diff_ids=(*base.diff_ids, oci_image.EMPTY_LAYER_DIFF_ID), chain_id=chain_id)
    parent = images.layers.get(base.chain_id).snapshot if base.chain_id else None
    number = images.driver.new_layer(parent)
    kept = False
    try:
        staged = await images.layers.recorded(number, base.chain_id)
        images.layers.keep(staged, holder)
        kept = images.layers.get(staged.chain_id).snapshot == number
    finally:
        if not kept:
            images.driver.remove(number)
    return on_top(base, staged)


def on_top(base: LayerChain, staged: Staged) -> LayerChain:
    """Return the state that a new layer gives."""
    return LayerChain(diff_ids=(*base.diff_ids, staged.unpacked.diff_id), chain_id=staged.chain_id)


def _prepare(path: str, epoch_s: int | None) -> bool:
    """Thread: refuse names that no layer can hold, take younger files back to the epoch; True for nothing at all.

    Raises: InvalidArgument.
    """
    with os.scandir(path) as entries:
        if next(entries, None) is None:
            return True
    _check_names(path)
    if epoch_s is not None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _clamp(fd, epoch_s * 10**9)
        finally:
            os.close(fd)
    return False


def _check_names(root: str) -> None:
    """In a layer's archive `.wh.NAME` says that NAME is deleted: a file of that name would come back as nothing."""
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(WHITEOUT):
                    where = os.path.relpath(entry.path, root)
                    raise InvalidArgument(
                        f'invalid file name "/{where}": layers cannot hold names that begin with .wh.'
                    )
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def _clamp(root_fd: int, epoch_ns: int) -> None:
    for _, names, files, directory_fd in os.fwalk(".", dir_fd=root_fd, topdown=False):
        for name in (*files, *names):
            status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
            if status.st_mtime_ns > epoch_ns:
                os.utime(name, ns=(epoch_ns, epoch_ns), dir_fd=directory_fd, follow_symlinks=False)
