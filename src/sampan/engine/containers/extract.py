"""Unpack an archive into a directory of a container: `docker cp` towards it.

Works on descriptors below the target only; no member of the archive can name anything outside of it, whatever
symlinks it brings or finds (see archive.py). Devices are made as the archive says: the container's cgroup decides
whether they can be opened.

Source: POSIX.1-2017 pax; Docker Engine 28.5's rules for what may replace what.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from dataclasses import dataclass

from sampan.engine.archives import streams, tar
from sampan.engine.containers.assembly import mount_id
from sampan.engine.layers import unpack
from sampan.errors import Internal, InvalidArgument
from sampan.linux import accounts, saferoot

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
LIMIT_BYTES = 1 << 50
_ATTEMPTS = 5  # to make a name that others make and remove meanwhile
_KINDS = {
    tar.DIRECTORY: stat.S_IFDIR,
    tar.CHARACTER: stat.S_IFCHR,
    tar.BLOCK_DEVICE: stat.S_IFBLK,
    tar.FIFO: stat.S_IFIFO,
}


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    """How an archive is unpacked.

    no_overwrite_dir_non_dir: a directory never replaces something else, nor the reverse.
    target: what the client calls the directory.
    owner: (uid, gid) of all that is made; None: the numbers that the archive says.
    """

    no_overwrite_dir_non_dir: bool = False
    owner: tuple[int, int] | None = None
    target: str = ""


def owner_of(root_fd: int, user: str) -> tuple[int, int]:
    """Return (uid, gid) of `name|uid[:group|gid]` in a container's root. Blocking.

    Raises: InvalidArgument in Docker's words, OSError.
    """
    name, _, group = user.partition(":")
    users = accounts.parse_passwd(accounts.read_file(root_fd, "/etc/passwd"))
    found = next((entry for entry in users if name == entry.name), None) or next(
        (entry for entry in users if name == str(entry.uid)), None
    )
    if found is None and not (name.isascii() and name.isdecimal()):
        raise InvalidArgument(f'failed to look up user "{user}" in container: no matching entries in passwd file')
    uid, gid = (found.uid, found.gid) if found is not None else (int(name), 0)
    if group:
        groups = accounts.parse_group(accounts.read_file(root_fd, "/etc/group"))
        named = next((entry for entry in groups if group == entry.name), None)
        if named is None and not (group.isascii() and group.isdecimal()):
            raise InvalidArgument(f'failed to look up user "{user}" in container: no matching entries in group file')
        gid = named.gid if named is not None else int(group)
    if max(uid, gid) > unpack.ID_MAX:
        raise InvalidArgument(f'failed to look up user "{user}" in container: uids and gids end at {unpack.ID_MAX}')
    return uid, gid


def extract(source: streams.Source, target_fd: int, options: ExtractOptions) -> None:
    """Unpack everything. Blocking. Raises: InvalidArgument for a bad archive, OSError."""
    reader = tar.Reader(tar.Input(streams.decompressed(source, limit_bytes=LIMIT_BYTES)))
    times: list[tuple[str, int]] = []
    while (entry := reader.next()) is not None:
        path = unpack.clean(entry.name)
        above, _, base = path.rpartition("/")
        if not base:  # the directory that is there keeps its mode and owner
            _pass_over(entry, reader)
            continue
        _check(entry)
        parent, _ = saferoot.mkdirs(target_fd, above) if above else (os.dup(target_fd), False)
        try:
            _make(entry, reader, parent, base, target_fd, options)
        finally:
            os.close(parent)
        if entry.type == tar.DIRECTORY:
            times.append((path, entry.mtime_ns))
    reader.input.rest()
    for path, mtime_ns in reversed(times):  # what was put into a directory touched its time
        with contextlib.suppress(OSError):
            fd = saferoot.open_in_root(target_fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)


def _check(entry: tar.Entry) -> None:
    """Refuse what no file can have. Raises: InvalidArgument."""
    if not 0 <= entry.uid <= unpack.ID_MAX or not 0 <= entry.gid <= unpack.ID_MAX:
        raise InvalidArgument(
            f'invalid owner {entry.uid}:{entry.gid} of "{entry.name}": ids must be between 0 and {unpack.ID_MAX}'
        )
    if abs(entry.mtime_ns) > unpack.MTIME_MAX_NS:
        raise tar.InvalidHeader("a time out of range")
    if "\0" in entry.name or "\0" in entry.link:
        raise tar.InvalidHeader("a NUL in a name")


def _pass_over(entry: tar.Entry, reader: tar.Reader) -> None:
    """Consume a payload that goes nowhere."""
    left = entry.stored_bytes
    while left:
        left -= len(reader.input.piece(left))
    reader.skip_padding(entry.stored_bytes)


def _make(
    entry: tar.Entry, reader: tar.Reader, parent: int, base: str, target_fd: int, options: ExtractOptions
) -> None:
    """Make one member in its parent directory. Others may make and remove its name meanwhile: the last one wins."""
    for _ in range(_ATTEMPTS):
        _clear_way(entry, parent, base, options)
        with contextlib.suppress(FileExistsError):
            fd = _begin(entry, parent, base, target_fd, options)
            break
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), base)
    if fd < 0:
        return
    try:
        if entry.type == tar.REGULAR:
            _write(entry, reader, fd)
        _finish(entry, fd, options)
    finally:
        os.close(fd)


def _begin(entry: tar.Entry, parent: int, base: str, target_fd: int, options: ExtractOptions) -> int:
    """Make what has the name; return it open, -1 for what is complete.

    Raises: FileExistsError when somebody was faster, InvalidArgument, OSError.
    """
    if entry.type == tar.REGULAR:
        return os.open(base, _NEW_FILE, 0o600, dir_fd=parent)
    if entry.type == tar.HARDLINK:
        _link(entry, parent, base, target_fd)
        return -1
    if entry.type == tar.DIRECTORY:
        with contextlib.suppress(FileExistsError):  # what is no directory is found below
            os.mkdir(base, entry.mode & 0o777, dir_fd=parent)
    elif entry.type == tar.SYMLINK:
        os.symlink(entry.link, base, dir_fd=parent)
        with contextlib.suppress(FileNotFoundError):  # somebody has taken it away
            os.chown(base, *_owner(entry, options), dir_fd=parent, follow_symlinks=False)
            os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        return -1
    elif entry.type in (tar.CHARACTER, tar.BLOCK_DEVICE, tar.FIFO):
        os.mknod(base, _KINDS[entry.type] | entry.mode, os.makedev(*entry.device), dir_fd=parent)
    else:
        raise InvalidArgument(f'unhandled tar header type {entry.type[0]} of "{entry.name}"')
    try:
        fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return -1  # somebody has taken it away
    if stat.S_IFMT(os.fstat(fd).st_mode) != _KINDS[entry.type]:
        os.close(fd)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), base)
    return fd


def _clear_way(entry: tar.Entry, parent: int, base: str, options: ExtractOptions) -> None:
    """Take away what stands where the member goes, unless Docker refuses that."""
    try:
        there = os.stat(base, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    is_directory = stat.S_ISDIR(there.st_mode)
    wants_directory = entry.type == tar.DIRECTORY
    if is_directory and wants_directory:
        return
    if options.no_overwrite_dir_non_dir:
        if is_directory:
            raise InvalidArgument(f'cannot overwrite directory "{base}" with non-directory "{options.target}"')
        if wants_directory:
            raise InvalidArgument(f'cannot overwrite non-directory "{base}" with directory "{options.target}"')
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):  # it is another's by now
        if _is_mounted(parent, base):  # seen from here, its removal would end the mount for the container
            raise Internal(f"RemoveAll {base}: device or resource busy")
        if is_directory:
            shutil.rmtree(base, dir_fd=parent)
        else:
            os.unlink(base, dir_fd=parent)


def _is_mounted(parent: int, base: str) -> bool:
    """Whether a name is where something is mounted, in whatever mount namespace."""
    fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        return mount_id(fd) != mount_id(parent)
    finally:
        os.close(fd)


def _write(entry: tar.Entry, reader: tar.Reader, fd: int) -> None:
    if entry.regions is not None:
        os.ftruncate(fd, entry.size_bytes)
        for offset, length in entry.regions:
            while length:
                piece = reader.input.take(min(length, streams.CHUNK))
                if not piece:
                    raise streams.Truncated()
                os.pwrite(fd, piece, offset)
                offset += len(piece)
                length -= len(piece)
        reader.skip_padding(entry.stored_bytes)
    elif entry.size_bytes:
        left = entry.size_bytes
        while left:
            view = reader.input.piece(left)
            left -= len(view)
            while view:
                view = view[os.write(fd, view) :]
        reader.skip_padding(entry.size_bytes)


def _link(entry: tar.Entry, parent: int, base: str, target_fd: int) -> None:
    """A second name of a file below the target; its own last part is never followed."""
    above, _, name = unpack.clean(entry.link).rpartition("/")
    if not name:
        raise InvalidArgument(f'invalid hardlink target "{entry.link}"')
    above_fd = saferoot.open_in_root(target_fd, above or "/", _DIRECTORY)
    try:
        os.link(name, base, src_dir_fd=above_fd, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(above_fd)


def _finish(entry: tar.Entry, fd: int, options: ExtractOptions) -> None:
    """Owner, mode, attributes and time of what was just made, by descriptor: its name may be another's by now."""
    own = f"/proc/self/fd/{fd}"
    os.chown(own, *_owner(entry, options))
    os.chmod(own, entry.mode)
    for name, content in entry.xattrs.items():
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            with contextlib.suppress(OSError):
                os.setxattr(own, name, content)
    if entry.type != tar.DIRECTORY:
        os.utime(own, ns=(entry.mtime_ns, entry.mtime_ns))


def _owner(entry: tar.Entry, options: ExtractOptions) -> tuple[int, int]:
    return (entry.uid, entry.gid) if options.owner is None else options.owner
