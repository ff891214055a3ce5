"""What all storage drivers have in common: numbered directories, the stubs of every container, and the trash.

    <root>/init/fs     the stubs that every container needs (bottom-most, so that only what an image lacks shows)
    <root>/step/fs     those that a step of a build needs
    <root>/<n>/fs      one layer's difference to the one below, or what a container may write to
    <data root>/trash  renamed there to be removed; emptied in the background

Source: Docker's init layer as seen in `docker export` of the reference.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping

from sampan.engine.layers.snapshots.trash import Trash
from sampan.linux import filesystems

INIT = "init"
STEP = "step"  # the same for steps of BuildKit's builds, which are no containers

# path → "dir", "file" or the target of a symlink; modes 0755 as the reference has them
STUBS = {
    ".dockerenv": "file",
    "dev": "dir",
    "dev/console": "file",
    "dev/pts": "dir",
    "dev/shm": "dir",
    "etc": "dir",
    "etc/hostname": "file",
    "etc/hosts": "file",
    "etc/mtab": "/proc/mounts",
    "etc/resolv.conf": "file",
    "proc": "dir",
    "sys": "dir",
}
STEP_STUBS = {name: STUBS[name] for name in ("dev", "etc", "etc/hosts", "etc/resolv.conf", "proc", "sys")}


class Directories:
    """The numbered directories of one driver. Methods are cheap system calls."""

    name: str
    instant = True
    subvolumes = False

    def __init__(self, data_root: str, root: str = "", destroy: Callable[[int, str], bool] | None = None) -> None:
        self.root = root or os.path.join(data_root, "snapshots")
        os.makedirs(os.path.dirname(self.root), mode=0o700, exist_ok=True)
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        _spread(self.root)
        self._next = 1 + max((int(n) for n in os.listdir(self.root) if n.isdecimal()), default=0)
        self.fresh: set[int] = set()  # made by this process: a record may be still to come
        self.trash = Trash(os.path.join(data_root, "trash"), destroy)
        self._make_stubs(INIT, STUBS)
        self._make_stubs(STEP, STEP_STUBS)

    def close(self) -> None:
        self.trash.close()

    def path(self, number: int) -> str:
        return f"{self.root}/{number}"

    def numbers(self) -> set[int]:
        return {int(n) for n in os.listdir(self.root) if n.isdecimal()}

    def new_layer(self, parent: int | None) -> int:
        number = self.allocate()
        os.mkdir(f"{self.root}/{number}/fs", 0o700)
        self.adopt(number, parent)
        return number

    def allocate(self) -> int:
        """An empty numbered directory."""
        while True:
            number = self._next
            self._next += 1
            self.fresh.add(number)
            try:
                os.mkdir(f"{self.root}/{number}", 0o700)
            except FileExistsError:
                continue
            return number

    def adopt(self, number: int, parent: int | None) -> None:
        os.chmod(f"{self.root}/{number}/fs", 0o755)  # root's, whatever layers below say of `/`: as with Docker

    def remove(self, number: int) -> None:
        self.fresh.discard(number)
        self.trash.take(f"{self.root}/{number}", f"snapshot-{number}")

    def _make_stubs(self, name: str, stubs: Mapping[str, str]) -> None:
        """Shared stubs, made once under another name and renamed into place."""
        final = f"{self.root}/{name}"
        building = f"{final}.new"
        shutil.rmtree(building, ignore_errors=True)  # of a start that was interrupted
        if os.path.isdir(f"{final}/fs"):
            return
        for directory in (building, f"{building}/fs"):
            os.mkdir(directory, 0o700)
        os.chmod(f"{building}/fs", 0o755)
        for inner, kind in stubs.items():
            path = f"{building}/fs/{inner}"
            if kind == "dir":
                os.mkdir(path)
            elif kind == "file":
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            else:
                os.symlink(kind, path)
                continue
            os.chmod(path, 0o755)
        os.rename(building, final)


def _spread(path: str) -> None:
    """Ask the file system to put the directories made here far apart, as a top-level directory's (chattr +T).

    Why: ext4 does not reuse an inode within a minute of its removal and walks over each such inode at every creation.
    Unpacking next to a layer that was just removed then costs 0.6 ms a file instead of 0.03 (measured, 6.18).
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = filesystems.get_inode_flags(fd)
        if not flags & filesystems.FS_TOPDIR_FL:
            filesystems.set_inode_flags(fd, flags | filesystems.FS_TOPDIR_FL)
    except OSError:
        pass  # a hint that other file systems do not know
    finally:
        os.close(fd)
