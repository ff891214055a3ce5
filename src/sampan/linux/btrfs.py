"""Subvolumes of btrfs by ioctl. Names are those of the kernel's header; no policy.

Source: include/uapi/linux/btrfs.h, btrfs-subvolume(8). A subvolume's root has inode 256.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

SUPER_MAGIC = 0x9123683E
FIRST_FREE_OBJECTID = 256

_IOC_SUBVOL_CREATE = 0x5000940E
_IOC_SNAP_DESTROY = 0x5000940F
_IOC_SNAP_CREATE_V2 = 0x50009417
_NAME_BYTES = 4087
_NAME_V2_BYTES = 4039


def subvol_create(directory_fd: int, name: str) -> None:
    """Make an empty subvolume. Raises: OSError."""
    fcntl.ioctl(directory_fd, _IOC_SUBVOL_CREATE, _arguments(name))


def snap_create(directory_fd: int, name: str, source_fd: int) -> None:
    """Make a writable snapshot of the subvolume that `source_fd` is the root of. Raises: OSError."""
    encoded = os.fsencode(name)
    if len(encoded) > _NAME_V2_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
    arguments = struct.pack("qQQ32x", source_fd, 0, 0) + encoded.ljust(_NAME_V2_BYTES + 1, b"\0")
    fcntl.ioctl(directory_fd, _IOC_SNAP_CREATE_V2, bytearray(arguments))


def snap_destroy(directory_fd: int, name: str) -> None:
    """Remove a subvolume with everything in it, other subvolumes excepted. Raises: OSError (ENOTEMPTY, EINVAL, …)."""
    fcntl.ioctl(directory_fd, _IOC_SNAP_DESTROY, _arguments(name))


def is_subvolume(status: os.stat_result) -> bool:
    """Return whether an inode of a btrfs is the root of a subvolume."""
    return status.st_ino == FIRST_FREE_OBJECTID


def _arguments(name: str) -> bytearray:
    """Pack struct btrfs_ioctl_vol_args; mutable, as fcntl takes no constant of this size."""
    encoded = os.fsencode(name)
    if len(encoded) > _NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
    return bytearray(struct.pack("q", 0) + encoded.ljust(_NAME_BYTES + 1, b"\0"))
