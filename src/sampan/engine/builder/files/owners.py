"""--chown: names are looked up in the destination's own passwd and group, by a parser of our own and never outside it.

A user that is a number is its own group. A name that nobody has is root, as in BuildKit; to the classic builder it is an
error.

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


class UnknownOwner(InvalidArgument):
    """A name that the classic builder does not find."""

    def __init__(self, kind: str, name: str) -> None:
        what = f"can't find {'uid' if kind == 'user' else 'gid'} for {kind} {name}: no such {kind}: {name}"
        super().__init__(f"unable to convert uid/gid chown string to host mapping: {what}")


def resolve(root_fd: int, owner: Owner) -> tuple[int, int]:
    """(uid, gid) in the root. Raises: UnknownOwner, InvalidArgument for a number out of range, OSError."""
    if owner.classic:
        return _classic(root_fd, owner)
    uid, gid = 0, 0
    if owner.user:
        number = _number(owner.user)
        if number is not None:
            uid = gid = number
        elif owner.user != "root":
            uid, gid = _user(root_fd, owner.user) or (0, 0)
    if owner.group:
        number = _number(owner.group)
        if number is not None:
            gid = number
        elif owner.group == "root":
            gid = 0
        else:
            found = _group(root_fd, owner.group)
            gid = gid if found is None else found
    return uid, gid


def _classic(root_fd: int, owner: Owner) -> tuple[int, int]:
    uid = _number(owner.user)
    if uid is None:
        user = _user(root_fd, owner.user)
        if user is None:
            raise UnknownOwner("user", owner.user)
        uid = user[0]
    group = owner.group or owner.user
    gid = _number(group)
    if gid is None:
        gid = _group(root_fd, group)
        if gid is None:
            raise UnknownOwner("group", group)
    return uid, gid


def _user(root_fd: int, name: str) -> tuple[int, int] | None:
    fields = _entry(_read(root_fd, "etc/passwd"), name, 4)
    return None if fields is None else (_id(fields[2]), _id(fields[3]))


def _group(root_fd: int, name: str) -> int | None:
    fields = _entry(_read(root_fd, "etc/group"), name, 3)
    return None if fields is None else _id(fields[2])


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
        if fields[0] == name and name:
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
