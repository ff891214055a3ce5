"""Unpack one layer's archive into its directory: on descriptors only, never outside the root.

    snapshots/<n>/fs        what the layer adds, as overlayfs wants it: whiteouts are 0:0 devices, opaque directories
                            carry trusted.overlay.opaque
    snapshots/<n>/shadow    contents that a later entry of the same archive replaced: needed to replay it
    snapshots/<n>/tar-split the archive without its contents (tarsplit.py)

One pass: the archive is hashed (another thread), recorded and unpacked while it is read. Not here: decompression
(streams.py), the format (tar.py), overlay mounts.

Invariants:
- A parent directory is resolved by openat2 in the layer's root, a last component is never followed: `..`, absolute
  names, symlinks, hard links and whiteouts cannot leave the root (CVE-2014-9356, CVE-2014-6407, zip slip).
- The thread has its own umask of 0 (`adopt_thread`), modes are given at creation.
- overlayfs' own xattrs are never taken from an archive: they would be commands to the kernel.

Source: OCI image-spec 1.1 layer.md; kernel Documentation/filesystems/overlayfs.rst "whiteouts and opaque directories".
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Callable
from dataclasses import dataclass

from sampan.engine.archives import tar
from sampan.engine.archives.streams import Digest, Source, Truncated
from sampan.engine.layers.flush import Flush
from sampan.engine.layers.places import Places
from sampan.engine.layers.sizes import tree_size
from sampan.engine.layers.tarsplit import Recorder
from sampan.errors import InvalidArgument, words
from sampan.linux import namespaces, saferoot

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
METADATA = ".wh..wh."
OPAQUE_XATTR = "trusted.overlay.opaque"
ID_MAX = 2**32 - 2  # the last one means "leave as it is" to chown(2)
MTIME_MAX_NS = 2**62 * 10**9
IMPLIED_MODE = 0o755
MAX_REPLACED_TREES = 4096
CACHED_DIRECTORIES = 128
CLONE_FS = 0x200

_FOREIGN_XATTRS = ("trusted.overlay.", "user.overlay.")
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What one archive was: the digest and length of its plain bytes, and the size of the files it left."""

    diff_id: str
    tar_bytes: int
    size_bytes: int
    on_disk: bool = True  # power loss cannot take it


def adopt_thread() -> None:
    """Give the calling thread a umask of its own, 0, so that a mode is exact at creation. Call once a thread."""
    namespaces.unshare(CLONE_FS)
    os.umask(0)


def unpack(source: Source, layer_fd: int, *, later: bool = False) -> Unpacked:
    """Unpack the plain archive from `source` below `layer_fd` (snapshots/<n>, which has an empty `fs`), onto the disk.

    later: where only a syncfs would put it there, the caller does that (`Unpacked.on_disk`).

    Blocking; in a thread that `adopt_thread` prepared. On failure the caller throws the directory away.
    Raises: InvalidArgument for a bad archive, OSError (ENOSPC, …).
    """
    digest = Digest()
    recorder = Recorder(layer_fd)
    flush = Flush(layer_fd)
    layer = _Layer(layer_fd, recorder, flush)
    try:
        reader = tar.Reader(tar.Input(source, digest.update))
        while (entry := reader.next()) is not None:
            layer.add(entry, reader)
        reader.input.rest()
        tar_bytes = recorder.finish(reader.input.recorded, flush.close)
        layer.finish()
        on_disk = flush.finish(later=later)
        return Unpacked(
            diff_id=digest.finish(),
            tar_bytes=tar_bytes,
            size_bytes=layer.size_bytes(),
            on_disk=on_disk,
        )
    finally:
        digest.finish()
        recorder.abandon()
        flush.abandon()
        layer.close()


def clean(name: str) -> str:
    """The entry's path below the root: relative, without `.`, `..` and empty parts; "" is the root itself.

    Raises: InvalidArgument when `..` leads out.
    """
    if name.endswith("/"):
        name = name.rstrip("/")
    if name.startswith("./"):
        name = name[2:]
    if name and name[0] != "/" and "//" not in name and "/." not in name and name[0] != ".":
        return name
    path = posixpath.normpath(name.lstrip("/") or ".")
    if path == "." or not path:
        return ""
    if path == ".." or path.startswith("../"):
        raise InvalidArgument(f'invalid entry name "{name}"')
    return path


class _Layer:
    """The layer's directory while it is filled."""

    def __init__(self, layer_fd: int, recorder: Recorder, flush: Flush) -> None:
        self._layer_fd = layer_fd
        self._recorder = recorder
        self._flush = flush
        self._places = Places(layer_fd)
        self._root = os.open("fs", _DIRECTORY | os.O_NOFOLLOW, dir_fd=layer_fd)
        self._parents: dict[str, tuple[int, str]] = {}  # cleaned parent → (descriptor, its real path below fs)
        self._retired: list[int] = []
        self._directories: list[tuple[str, int, int]] = []  # real path, mtime_ns, mode: applied at the end
        self._shadow_fd = -1
        self._shadows = 0
        self._size = 0
        self._replaced = 0
        self._linked = False
        self._make: dict[bytes, Callable[[tar.Entry, int, str, str, tar.Reader], None]] = {
            tar.REGULAR: self._file,
            tar.DIRECTORY: self._directory,
            tar.SYMLINK: self._symlink,
            tar.HARDLINK: self._hardlink,
            tar.CHARACTER: self._device,
            tar.BLOCK_DEVICE: self._device,
            tar.FIFO: self._device,
        }

    def add(self, entry: tar.Entry, reader: tar.Reader) -> None:
        """Carry out one entry and consume its payload."""
        if self._retired:
            self._close_retired()
        if not 0 <= entry.uid <= ID_MAX or not 0 <= entry.gid <= ID_MAX:
            raise InvalidArgument(
                f'invalid owner {entry.uid}:{entry.gid} of "{entry.name}": ids must be between 0 and {ID_MAX}'
            )
        if abs(entry.mtime_ns) > MTIME_MAX_NS:
            raise tar.InvalidHeader("a time out of range")
        if "\0" in entry.name or "\0" in entry.link:
            raise tar.InvalidHeader("a NUL in a name")
        path = clean(entry.name)
        parent, _, base = path.rpartition("/")
        make = self._make.get(entry.type)
        if make is None:
            raise InvalidArgument(f'unhandled tar header type {entry.type[0]} of "{entry.name}"')
        try:
            if not path:
                self._root_entry(entry, reader)
                return
            parent_fd, real = self._parent(parent)
            if base.startswith(WHITEOUT):
                self._whiteout(entry, parent_fd, base, reader)
            else:
                make(entry, parent_fd, base, f"{real}/{base}", reader)
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO):
                raise OSError(e.errno, e.strerror, entry.name) from e
            # Docker's order of words: what was done, to what, why
            where = f"{entry.link} {entry.name}" if entry.link else entry.name
            raise InvalidArgument(f"cannot unpack {where}: {words(e)}") from e

    def finish(self) -> None:
        """Directories get their mode and times last: what is put into them must not touch these."""
        self._places.close()
        for path, mtime_ns, mode in reversed(self._directories):
            try:
                fd = saferoot.open_in_root(
                    self._layer_fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, xdev=False
                )
            except OSError as e:
                if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # a later entry took its place
                raise
            try:
                if mode & 0o7000:
                    os.fchmod(fd, mode)
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)

    def size_bytes(self) -> int:
        """Sum of the sizes of all files (symlinks too), each inode once."""
        return self._size if not self._replaced else tree_size(self._root)

    def close(self) -> None:
        self._places.close()
        self._forget_parents()
        self._close_retired()
        os.close(self._root)
        if self._shadow_fd >= 0:
            os.close(self._shadow_fd)
            self._shadow_fd = -1

    # -- finding the place ------------------------------------------------------------------------------------

    def _parent(self, path: str) -> tuple[int, str]:
        """The directory at a cleaned path, made when missing, and where it really is below snapshots/<n>."""
        if not path:
            return self._root, "fs"
        found = self._parents.get(path)
        if found is not None:
            return found
        try:
            fd = saferoot.open_in_root(self._root, path, _DIRECTORY, xdev=False)
        except FileNotFoundError:
            fd = self._make_parent(path)
        if len(self._parents) >= CACHED_DIRECTORIES:
            self._forget_parents()
        real = os.readlink(f"/proc/self/fd/{fd}")
        root = os.readlink(f"/proc/self/fd/{self._root}")
        found = self._parents[path] = (fd, "fs" + real[len(root) :])
        return found

    def _make_parent(self, path: str) -> int:
        """A directory that no entry described: root's, 0755; a whiteout in its place becomes an opaque directory."""
        above, _, base = path.rpartition("/")
        above_fd, _ = self._parent(above)
        try:
            os.mkdir(base, IMPLIED_MODE, dir_fd=above_fd)
        except FileExistsError:
            # dangling symlink: what it names is made, inside the root
            return saferoot.mkdirs(self._root, path, IMPLIED_MODE)[0]
        return saferoot.open_in_root(self._root, path, _DIRECTORY, xdev=False)

    def _forget_parents(self) -> None:
        """Empty the cache; the descriptors live until the next entry, the current one may hold one of them."""
        self._retired += [fd for fd, _ in self._parents.values()]
        self._parents.clear()

    def _close_retired(self) -> None:
        for fd in self._retired:
            os.close(fd)
        self._retired.clear()

    def _clear_way(self, parent_fd: int, base: str, real: str) -> bool:
        """Take away what an earlier entry put here, keeping contents for the replay. True: it was a whiteout."""
        status = os.stat(base, dir_fd=parent_fd, follow_symlinks=False)
        self._replaced += 1
        whiteout = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
        is_tree = stat.S_ISDIR(status.st_mode)
        if not is_tree and not (stat.S_ISREG(status.st_mode) and status.st_size):
            os.unlink(base, dir_fd=parent_fd)
            if stat.S_ISLNK(status.st_mode):
                self._forget_parents()  # cached ways may lead through it
            return whiteout
        if self._shadow_fd < 0:
            os.mkdir("shadow", 0o700, dir_fd=self._layer_fd)
            self._shadow_fd = os.open("shadow", _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._layer_fd)
        if is_tree:
            self._forget_parents()
            if self._shadows >= MAX_REPLACED_TREES:
                raise InvalidArgument(f"the archive replaces more than {MAX_REPLACED_TREES} directories by files")
        name = str(self._replaced)
        self._shadows += is_tree
        os.rename(base, name, src_dir_fd=parent_fd, dst_dir_fd=self._shadow_fd)
        self._recorder.moved(real, f"shadow/{name}", tree=is_tree)
        return False

    # -- one method a type of entry ---------------------------------------------------------------------------

    def _root_entry(self, entry: tar.Entry, reader: tar.Reader) -> None:
        """The archive's `./`, or an entry without a name: it says nothing, as with Docker.

        The root of every container is root's, 0755: an archive of a directory that mktemp made must not lock users out.
        """
        if entry.type not in (tar.DIRECTORY, tar.REGULAR):
            raise InvalidArgument(f'invalid entry name "{entry.name}"')
        self._pass_over(entry, reader)

    def _file(self, entry: tar.Entry, parent_fd: int, base: str, real: str, reader: tar.Reader) -> None:
        try:
            fd = self._places.create(base, entry.mode, parent_fd)
        except FileExistsError:
            self._clear_way(parent_fd, base, real)
            fd = self._places.create(base, entry.mode, parent_fd)
        try:
            if entry.regions is not None:
                self._sparse(entry, fd, reader)
            elif entry.size_bytes:
                self._recorder.payload(reader.input.recorded, entry.size_bytes, real)
                left = entry.size_bytes
                while left:
                    piece = reader.input.piece(left)
                    left -= len(piece)
                    written = os.write(fd, piece)
                    while written < len(piece):
                        written += os.write(fd, piece[written:])
                reader.skip_padding(entry.size_bytes)
            if entry.uid or entry.gid:
                os.fchown(fd, entry.uid, entry.gid)
                if entry.mode & 0o6000:
                    os.fchmod(fd, entry.mode)
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            self._flush.close(fd)
        self._size += entry.size_bytes

    def _sparse(self, entry: tar.Entry, fd: int, reader: tar.Reader) -> None:
        """Write the regions, leave holes between.

        The stored form is kept in the recording: it differs from the file's.
        """
        os.ftruncate(fd, entry.size_bytes)
        for offset, length in entry.regions or ():
            while length:
                piece = reader.input.take(min(length, 1024 * 1024))
                if not piece:
                    raise Truncated()
                self._recorder.payload(reader.input.recorded, 0, "")
                os.pwrite(fd, piece, offset)
                offset += len(piece)
                length -= len(piece)
        reader.skip_padding(entry.stored_bytes)

    def _directory(self, entry: tar.Entry, parent_fd: int, base: str, real: str, reader: tar.Reader) -> None:
        mode = entry.mode & 0o777
        opaque = False
        try:
            os.mkdir(base, mode, dir_fd=parent_fd)
        except FileExistsError:
            status = os.stat(base, dir_fd=parent_fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.chmod(base, mode, dir_fd=parent_fd)
            else:
                opaque = self._clear_way(parent_fd, base, real)
                os.mkdir(base, mode, dir_fd=parent_fd)
        if entry.uid or entry.gid:
            os.chown(base, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
        if opaque or entry.xattrs:
            fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
            try:
                if opaque:  # the archive removed a lower directory of this name before it made its own
                    os.setxattr(fd, OPAQUE_XATTR, b"y")
                self._set_xattrs(fd, entry)
            finally:
                os.close(fd)
        self._directories.append((real, entry.mtime_ns, entry.mode))

    def _symlink(self, entry: tar.Entry, parent_fd: int, base: str, real: str, reader: tar.Reader) -> None:
        try:
            os.symlink(entry.link, base, dir_fd=parent_fd)
        except FileExistsError:
            self._clear_way(parent_fd, base, real)
            os.symlink(entry.link, base, dir_fd=parent_fd)
        self._size += len(os.fsencode(entry.link))
        self._finish_special(entry, parent_fd, base)

    def _hardlink(self, entry: tar.Entry, parent_fd: int, base: str, real: str, reader: tar.Reader) -> None:
        """A second name of a file of this layer; the target is looked up in the root, its last part never followed."""
        try:
            target = clean(entry.link)
        except InvalidArgument:
            raise InvalidArgument(f'invalid hardlink target "{entry.link}"') from None
        above, _, name = target.rpartition("/")
        if not name:
            raise InvalidArgument(f'invalid hardlink target "{entry.link}"')
        try:
            above_fd = saferoot.open_in_root(self._root, above, _DIRECTORY, xdev=False)
        except FileNotFoundError as e:
            raise InvalidArgument(f"linkat {entry.link} {entry.name}: no such file or directory") from e
        try:
            if os.stat(name, dir_fd=above_fd, follow_symlinks=False).st_ino == self._inode(parent_fd, base):
                return
            try:
                os.link(name, base, src_dir_fd=above_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
            except FileExistsError:
                self._clear_way(parent_fd, base, real)
                os.link(name, base, src_dir_fd=above_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError as e:
            raise InvalidArgument(f"linkat {entry.link} {entry.name}: no such file or directory") from e
        finally:
            os.close(above_fd)

    def _device(self, entry: tar.Entry, parent_fd: int, base: str, real: str, reader: tar.Reader) -> None:
        kind = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}[entry.type]
        device = os.makedev(*entry.device)
        if kind == stat.S_IFCHR and device == 0:
            raise InvalidArgument(f'invalid device 0:0 "{entry.name}": overlayfs would take it for a whiteout')
        try:
            os.mknod(base, kind | entry.mode, device, dir_fd=parent_fd)
        except FileExistsError:
            self._clear_way(parent_fd, base, real)
            os.mknod(base, kind | entry.mode, device, dir_fd=parent_fd)
        self._finish_special(entry, parent_fd, base)

    def _whiteout(self, entry: tar.Entry, parent_fd: int, base: str, reader: tar.Reader) -> None:
        """Write what `.wh.NAME` (hides NAME of the layers below) and `.wh..wh..opq` (hides all of them) mean.

        Other `.wh..wh.` names mean nothing here.
        """
        self._pass_over(entry, reader)
        if base == OPAQUE:
            _hide_below(parent_fd, ".")
            return
        if base.startswith(METADATA):
            return
        name = base[len(WHITEOUT) :]
        if name in ("", ".", ".."):
            raise InvalidArgument(f'invalid whiteout entry "{base}"')
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent_fd)
        except FileExistsError:  # it speaks of lower layers only, never of what this one has
            with contextlib.suppress(NotADirectoryError):
                _hide_below(parent_fd, name)
            return
        if entry.uid or entry.gid:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)

    def _pass_over(self, entry: tar.Entry, reader: tar.Reader) -> None:
        """Consume a payload that goes nowhere; the recording keeps it."""
        left = entry.stored_bytes
        while left:
            piece = reader.input.take(min(left, 1024 * 1024))
            if not piece:
                raise Truncated()
            left -= len(piece)
            self._recorder.payload(reader.input.recorded, 0, "")
        reader.skip_padding(entry.stored_bytes)

    # -- attributes -------------------------------------------------------------------------------------------

    def _finish_special(self, entry: tar.Entry, parent_fd: int, base: str) -> None:
        if entry.uid or entry.gid:
            os.chown(base, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
        if entry.xattrs:
            self._set_xattrs(f"/proc/self/fd/{parent_fd}/{base}", entry)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)

    def _set_xattrs(self, target: int | str, entry: tar.Entry) -> None:
        """Attributes from the archive; what the file system cannot hold is left out, as Docker does."""
        for name, value in entry.xattrs.items():
            if name.startswith(_FOREIGN_XATTRS):
                continue
            try:
                if isinstance(target, int):
                    os.setxattr(target, name, value)
                else:
                    os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as e:
                if e.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                    raise

    @staticmethod
    def _inode(parent_fd: int, base: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(base, dir_fd=parent_fd, follow_symlinks=False).st_ino
        return -1


def _hide_below(parent_fd: int, name: str) -> None:
    """Hide what lower layers have in a directory. Raises: NotADirectoryError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=parent_fd)
    try:
        os.setxattr(fd, OPAQUE_XATTR, b"y")
    finally:
        os.close(fd)
