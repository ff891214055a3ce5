"""What a container changed: its writable layer compared with the layers below. Blocking, on descriptors.

Not here: the archive of a diff (tar_writer.py). Semantics are those of `docker diff`: added (1), modified (0),
deleted (2), sorted by path with a directory before what is in it; a directory counts as modified when its own
attributes changed or something directly or deeper in it did; what was copied up without a change does not count.

Source: kernel Documentation/filesystems/overlayfs.rst; `docker diff` of the reference engine.
"""

from __future__ import annotations

import os
import stat

from sampan.engine.layers.snapshots import trees

MODIFIED, ADDED, DELETED = 0, 1, 2
Change = tuple[int, str]
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def changes(upper_fd: int, lower_fd: int) -> list[Change]:
    """Compare the upper directory with the merged lower one. Neither descriptor is consumed."""
    upper = os.open(".", _READ, dir_fd=upper_fd)
    try:
        lower = os.open(".", _READ, dir_fd=lower_fd)
        try:
            return _compare(upper, lower, "")
        finally:
            os.close(lower)
    finally:
        os.close(upper)


def _compare(upper: int, lower: int, path: str) -> list[Change]:
    trees.check_depth(path)
    found: list[Change] = []
    for name in sorted(os.listdir(upper)):
        new, old = trees.status_of(upper, name), trees.status_of(lower, name)
        if new is None:
            continue  # the container runs, and has removed it meanwhile
        here = f"{path}/{name}"
        if trees.is_whiteout(new):
            if old is not None:
                found.append((DELETED, here))
        elif old is None:
            found.append((ADDED, here))
            if stat.S_ISDIR(new.st_mode):
                found += _added(upper, name, here)
        elif stat.S_ISDIR(new.st_mode) and stat.S_ISDIR(old.st_mode):
            inside = _inside(upper, lower, name, here)
            if inside or not trees.same(upper, lower, name, new, old):
                found.append((MODIFIED, here))
            found += inside
        else:
            if not trees.same(upper, lower, name, new, old):
                found.append((MODIFIED, here))
            if stat.S_ISDIR(new.st_mode):
                found += _added(upper, name, here)
    return found


def _inside(upper: int, lower: int, name: str, path: str) -> list[Change]:
    """Changes within a directory that both sides have."""
    try:
        new = os.open(name, _READ, dir_fd=upper)
    except FileNotFoundError:
        return []
    try:
        old = os.open(name, _READ, dir_fd=lower)
        try:
            found = _compare(new, old, path)
            if trees.opaque(new):
                kept = set(os.listdir(new))
                found += [(DELETED, f"{path}/{gone}") for gone in os.listdir(old) if gone not in kept]
                found.sort(key=lambda change: change[1].split("/"))
            return found
        finally:
            os.close(old)
    finally:
        os.close(new)


def _added(parent: int, name: str, path: str) -> list[Change]:
    """Everything below a new directory."""
    trees.check_depth(path)
    found: list[Change] = []
    try:
        fd = os.open(name, _READ, dir_fd=parent)
    except FileNotFoundError:
        return []
    try:
        for child in sorted(os.listdir(fd)):
            status = trees.status_of(fd, child)
            if status is None or trees.is_whiteout(status):
                continue
            found.append((ADDED, f"{path}/{child}"))
            if stat.S_ISDIR(status.st_mode):
                found += _added(fd, child, f"{path}/{child}")
    finally:
        os.close(fd)
    return found
