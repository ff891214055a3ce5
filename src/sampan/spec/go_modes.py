"""A file's type and permissions as Go's fs.FileMode, in which Docker and BuildKit send them. Pure.

Source: Go's io/fs, FileMode.
"""

from __future__ import annotations

import stat

DIRECTORY, SYMLINK = 1 << 31, 1 << 27
DEVICE, _PIPE, _SOCKET, _CHARACTER, IRREGULAR = 1 << 26, 1 << 25, 1 << 24, 1 << 21, 1 << 19
SPECIAL = DEVICE | _PIPE | _SOCKET | _CHARACTER | IRREGULAR
"""What is neither a file, a directory nor a symbolic link."""
TYPE_MASK = DIRECTORY | SYMLINK | SPECIAL
_TYPES = {
    stat.S_IFREG: 0,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFBLK: DEVICE,
    stat.S_IFCHR: DEVICE | _CHARACTER,
    stat.S_IFIFO: _PIPE,
    stat.S_IFSOCK: _SOCKET,
}
_KINDS = {bits: kind for kind, bits in _TYPES.items()}
_BITS = ((1 << 23, stat.S_ISUID), (1 << 22, stat.S_ISGID), (1 << 20, stat.S_ISVTX))


def from_unix(mode: int) -> int:
    """Turn an st_mode into a FileMode."""
    found = mode & 0o777 | _TYPES.get(stat.S_IFMT(mode), IRREGULAR)
    for go, bit in _BITS:
        if mode & bit:
            found |= go
    return found


def kind(mode: int) -> int | None:
    """Return the type of a FileMode as st_mode has it (stat.S_IFREG, …); None for one that has no counterpart."""
    return _KINDS.get(mode & TYPE_MASK)


def permissions(mode: int) -> int:
    """Return the permissions of a FileMode as st_mode has them, setuid, setgid and sticky bit included."""
    return mode & 0o777 | sum(bit for go, bit in _BITS if mode & go)
