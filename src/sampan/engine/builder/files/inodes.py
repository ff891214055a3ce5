"""A file of the host as a tree's entry. Nothing is followed."""

from __future__ import annotations

import errno
import os
import stat

from sampan.engine.builder.trees import TreeEntry

_KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
}
_KEPT = ("user.", "security.capability")  # what an image keeps of extended attributes


def entry(path: str, status: os.stat_result, directory_fd: int, name: str, hardlink: str = "") -> TreeEntry | None:
    """Return the entry of `name` in a directory; None for what no tree has: sockets."""
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return TreeEntry(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size if kind == "f" else 0,
        mtime_ns=status.st_mtime_ns,
        link=os.readlink(name, dir_fd=directory_fd) if kind == "l" else "",
        hardlink=hardlink,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in "cb" else (0, 0),
        xattrs={} if kind == "l" else xattrs(f"/proc/self/fd/{directory_fd}/{name}"),
    )


def xattrs(path: str) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as e:
        if e.errno in (errno.EOPNOTSUPP, errno.ENOENT, errno.EPERM):
            return {}
        raise
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names if name.startswith(_KEPT)}
