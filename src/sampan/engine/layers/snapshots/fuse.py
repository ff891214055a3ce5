"""fuse-overlayfs: overlayfs in user space, for kernels or file systems that cannot do it themselves.

The layout is overlay2's; the mount is made on the host, at <root>/<n>/merged, by the program `fuse-overlayfs`, which
stays as long as the mount. It outlives the daemon as the container does; a removal unmounts it, and after a reboot the
next use mounts it again.

Source: fuse-overlayfs(1); the driver of that name in Docker.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from sampan.engine.layers.snapshots import trees
from sampan.engine.layers.snapshots.directories import INIT
from sampan.engine.layers.snapshots.overlay2 import Overlay2, escape
from sampan.errors import Internal
from sampan.linux import mounts, syscalls
from sampan.spec.oci_runtime import Mount

PROGRAM = "fuse-overlayfs"
OPAQUE_MARK = ".wh..wh..opq"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
MOUNT_TIMEOUT_S = 30


class FuseOverlayfs(Overlay2):
    """overlay2 with a mount that a process serves."""

    name = "fuse-overlayfs"
    instant = False
    overlaid = False  # its own marks of opaque directories

    def probe(self) -> None:
        if shutil.which(PROGRAM) is None:
            raise Internal(f"the storage driver {self.name} needs the program {PROGRAM}, which is not installed")
        number = self.new_container(())
        try:
            self._serve(number, ())
        finally:
            self.remove(number)

    def status(self) -> list[list[str]]:
        return []

    def new_container(self, lowers: Sequence[int]) -> int:
        number = super().new_container(lowers)
        os.mkdir(f"{self.root}/{number}/merged", 0o700)
        return number

    def remove(self, number: int) -> None:
        with suppress(OSError):  # not mounted, or no container
            mounts.umount2(f"{self.root}/{number}/merged", mounts.MNT_DETACH)
        super().remove(number)

    def mounts(self, number: int, lowers: Sequence[int]) -> tuple[Mount, ...]:
        source = self._serve(number, lowers)
        return (Mount("bind", source, "/", ("bind", "rw")),)

    def open_root(self, number: int, lowers: Sequence[int], *, writable: bool) -> int:
        source = self._serve(number, lowers)
        return mounts.open_tree(syscalls.AT_FDCWD, source, mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC)

    def open_work(self, number: int, lowers: Sequence[int]) -> int:
        return self.open_root(number, lowers, writable=True)

    def work_mounts(self, number: int, lowers: Sequence[int], *, container: bool) -> tuple[Mount, ...]:
        return self.mounts(number, lowers)

    @contextmanager
    def changed(self, number: int, lowers: Sequence[int]) -> Iterator[int]:
        place = f"{self.root}/{number}/changed-{os.urandom(4).hex()}"
        os.mkdir(place, 0o700)
        try:
            upper, into = os.open(f"{self.root}/{number}/fs", _DIRECTORY), os.open(place, _DIRECTORY)
            try:
                trees.cleaned(upper, into, OPAQUE_MARK)
                yield into
            finally:
                os.close(upper)
                os.close(into)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def open_lower(self, lowers: Sequence[int]) -> int:
        """Mounted for as long as the descriptor is open."""
        number = self.new_container(lowers)
        try:
            return self.open_root(number, lowers, writable=False)
        finally:
            self.remove(number)

    def _serve(self, number: int, lowers: Sequence[int]) -> str:
        """The mounted directory of a container, mounted if it is not. Raises: Internal."""
        base = f"{self.root}/{number}"
        merged = f"{base}/merged"
        os.makedirs(merged, 0o700, exist_ok=True)
        if os.stat(merged).st_dev != os.stat(base).st_dev:
            return merged
        lower = ":".join(escape(f"{self.root}/{n}/fs") for n in (*lowers, INIT))
        options = f"lowerdir={lower},upperdir={base}/fs,workdir={base}/work,suid,dev,allow_other"
        try:
            done = subprocess.run(
                [PROGRAM, "-o", options, merged], capture_output=True, text=True, timeout=MOUNT_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise Internal(f"{PROGRAM} cannot be run: {e}") from e
        if done.returncode != 0 or os.stat(merged).st_dev == os.stat(base).st_dev:
            raise Internal(f"{PROGRAM} cannot mount {merged}: {done.stderr.strip() or done.returncode}")
        return merged
