"""Mount options, as OCI and mount(8) name them, to what the kernel's calls want. Pure.

An option is an attribute of the mount, an attribute of everything below it (`rro` …), a propagation, a flag of the
superblock, a word of our own (`bind`, `tmpcopyup`, `idmap` …), or else data for the file system.

Source: runtime-spec config-linux/config "Linux mount options"; mount_setattr(2).
"""

from __future__ import annotations

import os.path

from sampan.linux.mounts import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)

# option → (bits to set, bits to clear). Times are one field: it is cleared before any of it is set.
ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    "relatime": (0, MOUNT_ATTR__ATIME),
    "norelatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    "atime": (0, MOUNT_ATTR__ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "nostrictatime": (0, MOUNT_ATTR__ATIME),
}
RECURSIVE_ATTRIBUTES = {"r" + name: bits for name, bits in ATTRIBUTES.items()}

# option → (propagation, recursive)
PROPAGATION: dict[str, tuple[int, bool]] = {
    "private": (MS_PRIVATE, False),
    "rprivate": (MS_PRIVATE, True),
    "shared": (MS_SHARED, False),
    "rshared": (MS_SHARED, True),
    "slave": (MS_SLAVE, False),
    "rslave": (MS_SLAVE, True),
    "unbindable": (MS_UNBINDABLE, False),
    "runbindable": (MS_UNBINDABLE, True),
}

# option → superblock parameter to give to fsconfig; None: the kernel's default, nothing to do
SUPERBLOCK: dict[str, str | None] = {
    "sync": "sync",
    "async": None,
    "dirsync": "dirsync",
    "mand": "mand",
    "nomand": None,
    "lazytime": "lazytime",
    "nolazytime": None,
    "iversion": "iversion",
    "noiversion": None,
    "silent": None,
    "loud": None,
    "defaults": None,
}
# A read-only mount of these is an attribute of the mount only: their content is still to be made, or is shared.
MOUNT_READONLY_ONLY = frozenset({"tmpfs", "bind", ""})


class MountOptions:
    """What one list of options means.

    attr_set, attr_clear: bits for this mount; rec_set, rec_clear: for it and all below; propagation: [(MS_*,
    recursive)]; superblock: fsconfig flags; data: (key, value or None) for the file system; idmap: "", "idmap" or
    "ridmap".
    """

    __slots__ = (
        "attr_clear",
        "attr_set",
        "bind",
        "copy_up",
        "data",
        "idmap",
        "propagation",
        "rec_clear",
        "rec_set",
        "recursive",
        "remount",
        "superblock",
    )

    def __init__(self) -> None:
        self.bind = False
        self.recursive = False
        self.remount = False
        self.copy_up = False
        self.idmap = ""
        self.attr_set = 0
        self.attr_clear = 0
        self.rec_set = 0
        self.rec_clear = 0
        self.propagation: list[tuple[int, bool]] = []
        self.superblock: list[str] = []
        self.data: list[tuple[str, str | None]] = []

    @property
    def readonly(self) -> bool:
        return bool(self.attr_set & MOUNT_ATTR_RDONLY)


def parse(fstype: str, options: list[str]) -> MountOptions:
    """Sort the options; later ones win over earlier ones, as with mount(8)."""
    result = MountOptions()
    for option in options:
        if option in ATTRIBUTES:
            on, off = ATTRIBUTES[option]
            result.attr_set = result.attr_set & ~off | on
            result.attr_clear = result.attr_clear & ~on | off
        elif option in RECURSIVE_ATTRIBUTES:
            on, off = RECURSIVE_ATTRIBUTES[option]
            result.rec_set = result.rec_set & ~off | on
            result.rec_clear = result.rec_clear & ~on | off
        elif option in PROPAGATION:
            result.propagation.append(PROPAGATION[option])
        elif option in SUPERBLOCK:
            parameter = SUPERBLOCK[option]
            if parameter is not None:
                result.superblock.append(parameter)
        elif not _own_word(result, option):
            key, equals, value = option.partition("=")
            result.data.append((key, value if equals else None))
    if fstype == "bind":
        result.bind = True
    if result.readonly and not result.bind and fstype not in MOUNT_READONLY_ONLY:
        result.superblock.append("ro")
    return result


def _own_word(result: MountOptions, option: str) -> bool:
    if option in ("bind", "bind-nonrecursive"):
        result.bind = True
    elif option == "rbind":
        result.bind = result.recursive = True
    elif option == "remount":
        result.remount = True
    elif option == "tmpcopyup":
        result.copy_up = True
    elif option in ("idmap", "ridmap"):
        result.idmap = option
    else:
        return False
    return True


def split_overlay_layers(value: str) -> list[str]:
    """Split `lowerdir=`'s value at its colons; a backslash escapes one."""
    if "\\" not in value:
        return value.split(":")
    layers: list[str] = []
    current = ""
    escaped = False
    for char in value:
        if escaped:
            current += char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ":":
            layers.append(current)
            current = ""
        else:
            current += char
    layers.append(current)
    return layers


def normal(destination: str) -> str:
    """Return the one spelling of a mount's destination; checks and the mount itself take no other."""
    path = os.path.normpath("/" + destination)
    return path[1:] if path.startswith("//") else path
