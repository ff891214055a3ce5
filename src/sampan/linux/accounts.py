"""The users and groups of a root file system: its own /etc/passwd and /etc/group, read by a parser of our own.

Nothing of the root is executed or loaded: no NSS module, no `pwd`, no locale. The files are opened below the root's
descriptor, must be regular, and are read up to a limit. The parsers are pure; `read_file` is not.

Source: passwd(5), group(5); CVE-2019-14271.
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.linux.saferoot import open_in_root

FILE_LIMIT_BYTES = 16 << 20
_ID_MAX = 2**63 - 1
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES)


class PasswdEntry:
    """One line of passwd. `home` is "" when the line does not say."""

    __slots__ = ("gid", "home", "name", "uid")

    def __init__(self, name: str, uid: int, gid: int, home: str) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home


class GroupEntry:
    """One line of group."""

    __slots__ = ("gid", "members", "name")

    def __init__(self, name: str, gid: int, members: list[str]) -> None:
        self.name = name
        self.gid = gid
        self.members = members


def read_file(root_fd: int, path: str) -> str:
    """Return a regular file's text from inside the root, "" when there is none that can be opened.

    Raises: OSError; EFBIG when it is larger than 16 MiB.
    """
    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in _ABSENT:
            return ""
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return ""
        if status.st_size > FILE_LIMIT_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        # Latin-1 knows every byte and needs no codec from anywhere.
        return os.read(fd, FILE_LIMIT_BYTES).decode("latin-1")
    finally:
        os.close(fd)


def parse_passwd(text: str) -> list[PasswdEntry]:
    """Return the entries of passwd; comments are left out, a field that is missing or no number counts as 0."""
    entries = []
    for fields in _lines(text, 7):
        entries.append(PasswdEntry(fields[0], _number(fields[2]), _number(fields[3]), fields[5]))
    return entries


def parse_group(text: str) -> list[GroupEntry]:
    """Return the entries of group; comments are left out, a field that is missing or no number counts as 0."""
    entries = []
    for fields in _lines(text, 4):
        entries.append(GroupEntry(fields[0], _number(fields[2]), fields[3].split(",")))
    return entries


def _lines(text: str, count: int) -> list[list[str]]:
    """The fields of every line that has a name, at least `count` of them."""
    found = []
    for line in text.split("\n"):
        fields = line.strip().split(":")
        if fields[0] and not fields[0].startswith("#"):
            found.append(fields + [""] * (count - len(fields)))
    return found


def _number(text: str) -> int:
    """An id as Go's strconv.Atoi reads it: what is no number is 0, what is too long is the largest one there is."""
    if not (text.isascii() and text.isdecimal()):
        return 0
    return min(int(text), _ID_MAX) if len(text) < 20 else _ID_MAX
