"""Docker's `--user` syntax, resolved against a root's /etc/passwd and /etc/group as linux/accounts.py reads them.

`resolve` is pure; `read_file` is not.

Source: passwd(5), group(5); the rules and words are the reference engine's.
"""

from __future__ import annotations

import errno

from sampan.linux import accounts
from sampan.linux.accounts import GroupEntry, parse_group, parse_passwd
from sampan.runtime.failure import RuntimeFailure

ID_LIMIT = 2**31 - 1


class Identity:
    """Who a process will be. `home` is "" when passwd does not say; `groups` is the exact supplementary list."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


def read_file(root_fd: int, path: str) -> str:
    """Return a regular file's text from inside the root, "" when there is none.

    Raises: RuntimeFailure when it is larger than 16 MiB; OSError when it cannot be read.
    """
    try:
        return accounts.read_file(root_fd, path)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise RuntimeFailure("user", errno.EFBIG, f"{path}: file too large") from error
        raise


def _id(text: str) -> int | None:
    """Return the number that a name is, or None. Raises when it lies beyond 2^31 - 1."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdecimal()):
        return None
    value = int(digits[:20])
    if (text.startswith("-") and value) or value > ID_LIMIT:
        raise RuntimeFailure("user", errno.EINVAL, f"uids and gids must be in range 0-{ID_LIMIT}")
    return value


def resolve(name: str, extra_groups: list[str], passwd: str, group: str) -> Identity:
    """Resolve `name|uid[:group|gid]` and further groups against the texts of passwd and group.

    Raises: RuntimeFailure(step "user") in the reference's words.
    """
    user_part, _, group_part = name.partition(":")
    user_part = user_part or "0"
    groups = parse_group(group)
    identity = Identity(0, 0, [], "")
    matched = ""
    for entry in parse_passwd(passwd):
        if entry.name == user_part or str(entry.uid) == user_part:
            matched = entry.name
            identity.uid, identity.gid, identity.home = entry.uid, entry.gid, entry.home
            break
    else:
        number = _id(user_part)
        if number is None:
            raise RuntimeFailure("user", 0, f"unable to find user {user_part}: no matching entries in passwd file")
        identity.uid = number
    supplementary: list[int] = []
    if group_part:
        identity.gid = _find_group(group_part, groups)
    elif matched:
        supplementary = [entry.gid for entry in groups if matched in entry.members]
    supplementary += [_find_group(extra, groups) for extra in extra_groups]
    identity.groups = [identity.gid, *supplementary]
    for value in (identity.uid, *identity.groups):
        if not 0 <= value <= ID_LIMIT:
            raise RuntimeFailure("user", errno.EINVAL, f"uids and gids must be in range 0-{ID_LIMIT}")
    return identity


def _find_group(name: str, groups: list[GroupEntry]) -> int:
    for entry in groups:
        if entry.name == name or str(entry.gid) == name:
            return entry.gid
    number = _id(name)
    if number is None:
        raise RuntimeFailure("user", 0, f"unable to find group {name}: no matching entries in group file")
    return number


def home_of(uid: int, passwd: str) -> str:
    """Return the home directory of a uid, "" when passwd does not know it."""
    for entry in parse_passwd(passwd):
        if entry.uid == uid:
            return entry.home
    return ""
