"""How large a tree of files is. On a descriptor; blocking."""

from __future__ import annotations

import contextlib
import errno
import os
import stat


def tree_size(root_fd: int) -> int:
    """Add up the sizes in bytes of everything below that is no directory, each inode once. Follows no symlinks.

    What vanishes meanwhile, and what lies deeper than a path can name, does not count. Raises: OSError.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    pending = ["."]
    while pending:
        path = pending.pop()
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root_fd)
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
                continue
            raise
        try:
            for name in os.listdir(fd):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(f"{path}/{name}")
                    elif status.st_nlink == 1 or (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        total += status.st_size
        finally:
            os.close(fd)
    return total
