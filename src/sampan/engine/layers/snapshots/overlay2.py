"""overlay2: the layers of a container, mounted over one another by the kernel. The default storage driver.

    snapshots/<n>/fs      one layer's files, or a container's writable layer
    snapshots/<n>/work    overlayfs' work directory (containers only)

Nothing is mounted on the host: `mounts` describes, the runtime mounts inside the container's namespace, and
`open_root` returns a detached mount that vanishes with its descriptor.

Source: kernel Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sampan.engine.layers.snapshots.directories import INIT, STEP, Directories
from sampan.errors import Internal, words
from sampan.linux import mounts, syscalls
from sampan.linux.apart import in_mount_namespace
from sampan.spec.oci_runtime import Mount

# the upper directory holds everything a diff needs: no redirects, no metadata-only copies, no index of file handles
OPTIONS = ("index=off", "metacopy=off", "redirect_dir=off")
VOLATILE = "volatile"  # the mount's end does not wait until the disk has everything


class Overlay2(Directories):
    """The `snapshots` directory of a data root, mounted by overlayfs."""

    name = "overlay2"
    overlaid = True

    def __init__(self, data_root: str, root: str = "", options: Sequence[str] = ()) -> None:
        check_options(data_root, options)
        super().__init__(data_root, root)

    def new_container(self, lowers: Sequence[int]) -> int:
        number = self.allocate()
        os.mkdir(f"{self.root}/{number}/fs", 0o700)
        os.mkdir(f"{self.root}/{number}/work", 0o700)
        self.adopt(number, lowers[0] if lowers else None)
        return number

    def settle(self, number: int) -> None:
        shutil.rmtree(f"{self.root}/{number}/work", ignore_errors=True)

    def status(self) -> list[list[str]]:
        return [
            ["Supports d_type", "true"],
            ["Using metacopy", "false"],
            ["Native Overlay Diff", "true"],
            ["userxattr", "false"],
        ]

    def mounts(self, number: int, lowers: Sequence[int]) -> tuple[Mount, ...]:
        """The OCI mounts of a container's root. `lowers`: its layers, top first."""
        lower = [f"{self.root}/{n}/fs" for n in lowers] + [f"{self.root}/{INIT}/fs"]
        upper = f"{self.root}/{number}/fs"
        options = ["lowerdir=" + ":".join(escape(path) for path in lower), *OPTIONS]
        options += [f"upperdir={upper}", f"workdir={self.root}/{number}/work"]
        return (Mount("overlay", "overlay", "/", tuple(options)),)

    def data(self, number: int, lowers: Sequence[int], *, container: bool) -> dict[str, str]:
        """GraphDriver.Data as inspect shows it."""
        base = f"{self.root}/{number}"
        data = {"MergedDir": f"{base}/merged", "UpperDir": f"{base}/fs", "WorkDir": f"{base}/work"}
        lower = [f"{self.root}/{n}/fs" for n in lowers] + ([f"{self.root}/{INIT}/fs"] if container else [])
        if lower:
            data["LowerDir"] = ":".join(lower)
        return dict(sorted(data.items()))

    def open_root(self, number: int, lowers: Sequence[int], *, writable: bool) -> int:
        """A detached mount of a snapshot over its layers: an O_PATH descriptor of its root, owned by the caller.

        writable: only while no container has it mounted. Raises: OSError.
        """
        lower = self._lower(lowers)
        if writable:
            return self._mount(lower, number)
        return self._mount([f"{self.root}/{number}/fs", *lower], None)

    def open_work(self, number: int, lowers: Sequence[int]) -> int:
        if not lowers:
            flags = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC
            return mounts.open_tree(syscalls.AT_FDCWD, f"{self.root}/{number}/fs", flags)
        self.forget_volatile(number)
        return self._mount([f"{self.root}/{n}/fs" for n in lowers], number, volatile=True)

    def work_mounts(self, number: int, lowers: Sequence[int], *, container: bool) -> tuple[Mount, ...]:
        self.forget_volatile(number)
        (mount,) = self.mounts(number, lowers)
        options = [*mount.options, VOLATILE]
        if not container:
            lower = [f"{self.root}/{n}/fs" for n in (*lowers, STEP)]
            options[0] = "lowerdir=" + ":".join(escape(path) for path in lower)
        return (mount._replace(options=tuple(options)),)

    def forget_volatile(self, number: int) -> None:
        """Let a work directory be mounted again after a volatile mount, which overlayfs marks and then refuses.

        The mark warns of data lost in a crash. There was none: the same kernel runs.
        """
        shutil.rmtree(f"{self.root}/{number}/work/work/incompat", ignore_errors=True)

    def open_lower(self, lowers: Sequence[int]) -> int:
        """A detached, read-only mount of what lies below a container: its layers and the stubs."""
        return self._mount(self._lower(lowers), None)

    @contextmanager
    def changed(self, number: int, lowers: Sequence[int]) -> Iterator[int]:
        fd = os.open(f"{self.root}/{number}/fs", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def _lower(self, lowers: Sequence[int]) -> list[str]:
        return [f"{self.root}/{n}/fs" for n in lowers] + [f"{self.root}/{INIT}/fs"]

    def _mount(self, lower: list[str], upper: int | None, *, volatile: bool = False) -> int:
        if len(lower) == 1 and upper is None:  # overlayfs wants two; one directory is its own root
            flags = mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC
            return mounts.open_tree(syscalls.AT_FDCWD, lower[0], flags)
        if mounts.overlay_takes_layers():
            return self._mount_layer_by_layer(lower, upper, volatile)
        return self._mount_at_once(lower, upper, volatile)

    def _mount_layer_by_layer(self, lower: list[str], upper: int | None, volatile: bool) -> int:
        fs = mounts.fsopen("overlay")
        try:
            mounts.fsconfig(fs, mounts.FSCONFIG_SET_STRING, "source", "overlay")
            for option in OPTIONS:
                key, _, value = option.partition("=")
                mounts.fsconfig(fs, mounts.FSCONFIG_SET_STRING, key, value)
            for path in lower:
                _set_directory(fs, "lowerdir+", path)
            if upper is not None:
                _set_directory(fs, "upperdir", f"{self.root}/{upper}/fs")
                _set_directory(fs, "workdir", f"{self.root}/{upper}/work")
            if volatile:
                mounts.fsconfig(fs, mounts.FSCONFIG_SET_FLAG, VOLATILE)
            mounts.fsconfig(fs, mounts.FSCONFIG_CMD_CREATE)
            return mounts.fsmount(fs, attributes=0 if upper is not None else mounts.MOUNT_ATTR_RDONLY)
        finally:
            os.close(fs)

    def _mount_at_once(self, lower: list[str], upper: int | None, volatile: bool) -> int:
        """Make the mount by mount(2), whose one page of options holds several hundred relative paths.

        In a thread with a mount namespace and a working directory of its own; both end with it.
        """
        options = ["lowerdir=" + ":".join(path[len(self.root) + 1 :] for path in lower), *OPTIONS]
        if upper is not None:
            options += [f"upperdir={upper}/fs", f"workdir={upper}/work"]
        options += [VOLATILE] if volatile else []

        def work() -> int:
            os.chdir(self.root)
            mounts.mount("overlay", INIT, "overlay", 0 if upper is not None else mounts.MS_RDONLY, ",".join(options))
            return mounts.open_tree(syscalls.AT_FDCWD, INIT, mounts.OPEN_TREE_CLONE | mounts.OPEN_TREE_CLOEXEC)

        return in_mount_namespace(work, "images-mount")

    def probe(self) -> None:
        """Mount and forget one snapshot. Raises: Internal, naming the data root and the reason, when that cannot be."""
        number = self.new_container(())
        try:
            fd = self.open_root(number, (), writable=True)
            try:
                os.rmdir("proc", dir_fd=fd)  # a whiteout,
                os.mkdir("proc", 0o755, dir_fd=fd)  # and an opaque directory, which takes an extended attribute
            finally:
                os.close(fd)
        except OSError as e:
            raise Internal(
                f"overlay2 does not work on {self.root}: {words(e)}; the kernel needs overlayfs, and the file "
                "system extended attributes and d_type (ext4, xfs, btrfs; not another overlay): "
                "choose another --data-root"
            ) from e
        finally:
            self.remove(number)


def check_options(data_root: str, options: Sequence[str]) -> None:
    """storage-opts of overlay2. Raises: Internal in Docker's words. Options of other drivers are theirs."""
    for option in options:
        key = option.partition("=")[0].lower()
        if key == "overlay2.override_kernel_check":
            continue  # no kernel that we run on is too old
        if key == "overlay2.size":
            raise Internal("Storage option overlay2.size is only supported for backingFS XFS with project quotas")
        if key.startswith("overlay2.") or "." not in key:
            raise Internal(f"overlay2: unknown option {key}")


def escape(path: str) -> str:
    """A path inside a colon-separated lowerdir list."""
    return path.replace("\\", "\\\\").replace(":", "\\:")


def _set_directory(fs: int, key: str, path: str) -> None:
    """Give overlayfs a directory of any length: fsconfig's values end at 255 bytes, so long ones go by descriptor."""
    if len(os.fsencode(path)) <= mounts.FSCONFIG_STRING_LIMIT:
        mounts.fsconfig(fs, mounts.FSCONFIG_SET_STRING, key, path)
        return
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mounts.fsconfig(fs, mounts.FSCONFIG_SET_STRING, key, f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
