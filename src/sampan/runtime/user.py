"""Docker's `--user` syntax, resolved against a root's /etc/passwd and /etc/group by a parser of our own.

Nothing of the root is executed or loaded: no NSS module, no `pwd`, no locale. The files are opened below the root's
descriptor, must be regular, and are read up to a limit. `resolve` and the parsers are pure; `read_file` is not.

Source: passwd(5), group(5); the rules and words are the reference engine's.
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.linux.saferoot import open_in_root
from sampan.runtime.failure import RuntimeFailure

ID_LIMIT = 2**31 - 1
FILE_LIMIT = 16 << 20


class Identity:
    """Who a process will be. `home` is "" when passwd does not say; `groups` is the exact supplementary list."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


class PasswdEntry:
    __slots__ = ("gid", "home", "name", "uid")

    def __init__(self, name: str, uid: int, gid: int, home: str) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home


class GroupEntry:
    __slots__ = ("gid", "members", "name")

    def __init__(self, name: str, gid: int, members: list[str]) -> None:
        self.name = name
        self.gid = gid
        self.members = members


def read_file(root_fd: int, path: str) -> str:
    """Return a regular file's text from inside the root, "" when there is none.

    Raises: RuntimeFailure when it is larger than 16 MiB; OSError when it cannot be read.
    """
    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES):
            return ""
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return ""
        if status.st_size > FILE_LIMIT:
            raise RuntimeFailure("user", errno.EFBIG, f"{path}: file too large")
        # Latin-1 knows every byte and needs no codec from anywhere.
        return os.read(fd, FILE_LIMIT).decode("latin-1")
    finally:
        os.close(fd)


def parse_passwd(text: str) -> list[PasswdEntry]:
    """Entries of passwd; lines that are comments, too short, or have no numeric ids count as ids 0, as in the reference."""
    entries = []
    for line in text.split("\n"):
        fields = line.strip().split(":")
        if fields[0] and not fields[0].startswith("#"):
            fields += [""] * (7 - len(fields))
            entries.append(PasswdEntry(fields[0], _number(fields[2]), _number(fields[3]), fields[5]))
    return entries


def parse_group(text: str) -> list[GroupEntry]:
    entries = []
    for line in text.split("\n"):
        fields = line.strip().split(":")
        if fields[0] and not fields[0].startswith("#"):
            fields += [""] * (4 - len(fields))
            entries.append(GroupEntry(fields[0], _number(fields[2]), fields[3].split(",")))
    return entries


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _id(text: str) -> int | None:
    """Return the number that a name is, or None. Raises when it lies beyond 2^31 - 1."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()):
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
