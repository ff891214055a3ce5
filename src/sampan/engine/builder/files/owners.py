"""--chown: names are looked up in the destination's own passwd and group, by a parser of our own and never outside it.

A user that is a number is its own group; a name that nobody has is root, as in BuildKit.

Source: passwd(5), group(5); CVE-2019-14271.
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.engine.builder.ops import Owner
from sampan.errors import InvalidArgument
from sampan.linux import saferoot

FILE_LIMIT_BYTES = 16 << 20
ID_LIMIT = 2**32 - 2  # the last one means "leave as it is" to chown(2)


def resolve(root_fd: int, owner: Owner) -> tuple[int, int]:
    """(uid, gid) in the root. Raises: InvalidArgument for a number out of range, OSError."""
    uid, gid = 0, 0
    if owner.user:
        number = _number(owner.user)
        if number is not None:
            uid = gid = number
        elif owner.user != "root":
            fields = _entry(_read(root_fd, "etc/passwd"), owner.user, 4)
            if fields is not None:
                uid, gid = _id(fields[2]), _id(fields[3])
    if owner.group:
        number = _number(owner.group)
        if number is not None:
            gid = number
        elif owner.group == "root":
            gid = 0
        else:
            fields = _entry(_read(root_fd, "etc/group"), owner.group, 3)
            if fields is not None:
                gid = _id(fields[2])
    return uid, gid


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    value = int(text[:20])
    if value > ID_LIMIT:
        raise InvalidArgument(f"invalid owner {text}: ids must be between 0 and {ID_LIMIT}")
    return value


def _entry(text: str, name: str, least: int) -> list[str] | None:
    for line in text.split("\n"):
        fields = line.strip().split(":")
        if fields[0] == name:
            return fields + [""] * (least - len(fields))
    return None


def _id(text: str) -> int:
    return min(int(text[:20]), ID_LIMIT) if text.isascii() and text.isdigit() else 0


def _read(root_fd: int, path: str) -> str:
    """A regular file's text from inside the root, "" when there is none."""
    try:
        fd = saferoot.open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            return ""
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return ""
        if status.st_size > FILE_LIMIT_BYTES:
            raise InvalidArgument(f"/{path}: file too large")
        return os.read(fd, FILE_LIMIT_BYTES).decode("latin-1")
    finally:
        os.close(fd)
