"""Make mounts and attach them inside the root.

Each mount is made detached, gets its attributes while nobody can see it, and is attached at a descriptor that saferoot
resolved inside the root. So a mount is never seen writable before it is read-only, and a symlink in the image cannot
lead it elsewhere (CVE-2021-30465).

Source: OCI runtime-spec 1.2 config.md "Mounts"; mount_setattr(2), open_tree(2).
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.linux import mounts as m
from sampan.linux.saferoot import open_in_root, open_or_make
from sampan.linux.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, PROC_SUPER_MAGIC, fstatfs_type
from sampan.runtime.failure import RuntimeFailure, strerror
from sampan.runtime.options import MountOptions
from sampan.runtime.plan import PlannedMount
from sampan.runtime.validate import PROC_FILES


def make(
    mount: PlannedMount, source_fd: int | None = None, idmap_fd: int | None = None, context: int | None = None
) -> int:
    """Make one detached mount with all its attributes but those of a late read-only; return its descriptor.

    `source_fd` is this mount, made already by the parent; `idmap_fd` a user namespace that describes the id mapping;
    `context` a file system context that has been opened already, and is closed here.
    """
    options = mount.options
    if source_fd is not None:
        return source_fd
    if options.bind:
        fd = m.open_tree(AT_FDCWD, mount.source, m.OPEN_TREE_CLONE | (AT_RECURSIVE if options.recursive else 0))
    else:
        fd = _new_filesystem(mount, context)
    return dress(mount, fd, idmap_fd)


_DROPPED_BY_A_BIND = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC


def dress(mount: PlannedMount, fd: int, idmap_fd: int | None) -> int:
    """Give a detached mount its attributes and id mapping; return it."""
    options = mount.options
    if options.bind:
        _set_bind_attributes(fd, options)
    if options.rec_set or options.rec_clear:
        _setattr(fd, options.rec_set, options.rec_clear, recursive=True)
    if idmap_fd is not None:
        flags = AT_EMPTY_PATH | (AT_RECURSIVE if options.idmap == "ridmap" else 0)
        m.mount_setattr(fd, b"", flags, attr_set=m.MOUNT_ATTR_IDMAP, userns_fd=idmap_fd)
    return fd


def detach_propagation(fd: int, root_propagation: tuple[int, bool] | None) -> None:
    """Make a mount that was cloned in the host's mount namespace what a clone in the container's own would be.

    There everything has had `rootfs.cut_propagation`; here it is still a peer of the host's.
    """
    propagation, recursive = root_propagation or (m.MS_SLAVE, True)
    if propagation == m.MS_SHARED:
        return
    if propagation == m.MS_UNBINDABLE:
        propagation = m.MS_PRIVATE
    m.mount_setattr(fd, b"", AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0), propagation=propagation)


def set_attributes(fd: int, options: MountOptions) -> None:
    """Apply the mount's own attributes, when there are any."""
    if options.attr_set or options.attr_clear:
        _setattr(fd, options.attr_set, options.attr_clear, recursive=False)


def _set_bind_attributes(fd: int, options: MountOptions) -> None:
    """Give a bind the attributes that are named; once one is, the source's own that are not named go.

    A user namespace may not take away what its parent has set: there they stay.
    """
    if not (options.attr_set or options.attr_clear):
        return
    unnamed = _DROPPED_BY_A_BIND & ~options.attr_set
    try:
        _setattr(fd, options.attr_set, options.attr_clear | unnamed, recursive=False)
    except PermissionError:
        set_attributes(fd, options)


def _setattr(fd: int, attr_set: int, attr_clear: int, *, recursive: bool) -> None:
    if (attr_set | attr_clear) & m.MOUNT_ATTR__ATIME:
        attr_clear |= m.MOUNT_ATTR__ATIME  # one field of two bits: the kernel wants it cleared as a whole
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    m.mount_setattr(fd, b"", flags, attr_set=attr_set, attr_clr=attr_clear)


def _new_filesystem(mount: PlannedMount, context: int | None) -> int:
    options = mount.options
    if context is None:
        context = m.fsopen(mount.fstype)
    try:
        if mount.source:
            try:
                m.fsconfig(context, m.FSCONFIG_SET_STRING, "source", mount.source)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        for flag in options.superblock:
            m.fsconfig(context, m.FSCONFIG_SET_FLAG, flag)
        for key, value in options.data:
            set_data(context, key, value)
        m.fsconfig(context, m.FSCONFIG_CMD_CREATE)
        late = m.MOUNT_ATTR_RDONLY if is_late_readonly(mount) else 0
        return m.fsmount(context, attributes=options.attr_set & ~late)
    finally:
        os.close(context)


def reconfigure(mount: PlannedMount, place: int) -> None:
    """Change a mount that is there: its attributes, and but for a bind its file system's parameters too."""
    options = mount.options
    if not options.bind and (options.superblock or options.data):
        context = m.fspick(place, b"", m.FSPICK_CLOEXEC | m.FSPICK_EMPTY_PATH)
        try:
            for flag in options.superblock:
                m.fsconfig(context, m.FSCONFIG_SET_FLAG, flag)
            for key, value in options.data:
                set_data(context, key, value)
            m.fsconfig(context, m.FSCONFIG_CMD_RECONFIGURE)
        finally:
            os.close(context)
    set_attributes(place, options)


def set_data(context: int, key: str, value: str | None) -> None:
    """Give one datum to a file system context; devpts' old `newinstance` is the only behaviour since 4.7."""
    if key == "newinstance":
        return
    if value is None:
        m.fsconfig(context, m.FSCONFIG_SET_FLAG, key)
    else:
        m.fsconfig(context, m.FSCONFIG_SET_STRING, key, value)


def is_late_readonly(mount: PlannedMount) -> bool:
    """Say whether a mount becomes read-only only after everything below it has been made."""
    return (
        mount.options.readonly and not mount.options.bind and (mount.fstype == "tmpfs" or mount.destination == "/dev")
    )


def target(root_fd: int, mount: PlannedMount, *, directory: bool) -> int:
    """Open the place to mount at, made when it is missing; an O_PATH descriptor.

    proc and sysfs want a real directory, not a symlink (CVE-2019-19921, CVE-2023-27561). Nothing but a short list may
    be mounted inside /proc (CVE-2019-16884).
    """
    path = mount.destination
    if mount.fstype in ("proc", "sysfs"):
        fd = _plain_directory(root_fd, path)
    else:
        fd, _ = open_or_make(root_fd, path, directory=directory, mode=0o755)
    if path != "/proc" and path not in PROC_FILES and fstatfs_type(fd) == PROC_SUPER_MAGIC:
        os.close(fd)
        raise RuntimeFailure("mounts", errno.EPERM, f'"{path}" cannot be mounted because it is inside /proc')
    return fd


def _plain_directory(root_fd: int, path: str) -> int:
    fd = open_or_make_nofollow(root_fd, path)
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise RuntimeFailure("mounts", errno.ENOTDIR, f"filesystem must be mounted on ordinary directory: {path}")
    return fd


def open_or_make_nofollow(root_fd: int, path: str) -> int:
    """Open a directory whose last component is taken as it is: a symlink comes back as itself."""
    try:
        return open_in_root(root_fd, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    return open_or_make(root_fd, path, directory=True)[0]


def attach(mount: PlannedMount, fd: int, root_fd: int) -> None:
    """Attach a detached mount at its destination and give it its propagation; `fd` stays open.

    Raises: RuntimeFailure in the reference's words.
    """
    directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    try:
        place = target(root_fd, mount, directory=directory)
        try:
            if directory != stat.S_ISDIR(os.fstat(place).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))  # the kernel only says EINVAL
            m.attach(fd, place)
        finally:
            os.close(place)
    except OSError as error:
        raise failed(mount, error) from error
    for propagation, recursive in mount.options.propagation:
        flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
        m.mount_setattr(fd, b"", flags, propagation=propagation)


def failed(mount: PlannedMount, error: OSError, *, step: str = "mounts") -> RuntimeFailure:
    """Word a failed mount as the reference does. step: "rootfs" for the root itself."""
    number = error.errno or 0
    source = mount.source or mount.fstype
    where = f"mount src={source}, dst={mount.destination}"
    if mount.options.bind:
        where += f", flags={'MS_BIND|MS_REC' if mount.options.recursive else 'MS_BIND'}"
    return RuntimeFailure(
        step, number, f'error mounting "{source}" to rootfs at "{mount.destination}": {where}: {strerror(number)}'
    )


def keep_mode(root_fd: int, mount: PlannedMount, fd: int) -> None:
    """Give a tmpfs with no mode of its own the mode of the directory that it covers, as the reference does."""
    if any(key == "mode" for key, _ in mount.options.data):
        return
    try:
        covered = open_in_root(root_fd, mount.destination, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        raise
    try:
        os.chmod(".", stat.S_IMODE(os.fstat(covered).st_mode), dir_fd=fd)
    finally:
        os.close(covered)


def copy_up(root_fd: int, mount: PlannedMount, fd: int) -> None:
    """Copy what the root has at the destination into a new, still detached tmpfs."""
    try:
        source = open_in_root(root_fd, mount.destination, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        raise
    try:
        status = os.fstat(source)
        _copy_tree(source, fd)
        os.chown(".", status.st_uid, status.st_gid, dir_fd=fd)
        os.chmod(".", stat.S_IMODE(status.st_mode), dir_fd=fd)
    finally:
        os.close(source)


def _copy_tree(source: int, destination: int) -> None:
    for name in os.listdir(source):
        status = os.lstat(name, dir_fd=source)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            os.mkdir(name, 0o700, dir_fd=destination)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner, copy = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=destination)
            try:
                _copy_tree(inner, copy)
            finally:
                os.close(inner)
                os.close(copy)
        elif stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=destination)
        elif stat.S_ISREG(mode):
            _copy_file(source, destination, name)
        else:
            os.mknod(name, mode, status.st_rdev, dir_fd=destination)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=destination, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            os.chmod(name, stat.S_IMODE(mode), dir_fd=destination)
            os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=destination, follow_symlinks=False)


def _copy_file(source: int, destination: int, name: str) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    reader = os.open(name, os.O_RDONLY | flags, dir_fd=source)
    writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600, dir_fd=destination)
    try:
        while os.sendfile(writer, reader, None, 1 << 20):
            pass
    finally:
        os.close(reader)
        os.close(writer)
