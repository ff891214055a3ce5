"""--chown: names are looked up in the destination's own passwd and group (linux/accounts.py), and never outside it.

A user that is a number is its own group. A name that nobody has is root, as in BuildKit; to the classic builder it is
an error.

Source: passwd(5), group(5); CVE-2019-14271.
"""

from __future__ import annotations

from sampan.engine.builder.ops import Owner
from sampan.errors import InvalidArgument
from sampan.linux import accounts

ID_LIMIT = 2**32 - 2  # the last one means "leave as it is" to chown(2)


class UnknownOwner(InvalidArgument):
    """A name that the classic builder does not find."""

    def __init__(self, kind: str, name: str) -> None:
        what = f"can't find {'uid' if kind == 'user' else 'gid'} for {kind} {name}: no such {kind}: {name}"
        super().__init__(f"unable to convert uid/gid chown string to host mapping: {what}")


def resolve(root_fd: int, owner: Owner) -> tuple[int, int]:
    """Return (uid, gid) in the root. Raises: UnknownOwner, InvalidArgument for a number out of range, OSError."""
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
    entries = accounts.parse_passwd(accounts.read_file(root_fd, "/etc/passwd"))
    found = next((entry for entry in entries if entry.name == name), None)
    return None if found is None else (min(found.uid, ID_LIMIT), min(found.gid, ID_LIMIT))


def _group(root_fd: int, name: str) -> int | None:
    entries = accounts.parse_group(accounts.read_file(root_fd, "/etc/group"))
    found = next((entry for entry in entries if entry.name == name), None)
    return None if found is None else min(found.gid, ID_LIMIT)


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal()):
        return None
    value = int(text[:20])
    if value > ID_LIMIT:
        raise InvalidArgument(f"invalid owner {text}: ids must be between 0 and {ID_LIMIT}")
    return value
