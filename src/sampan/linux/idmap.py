"""A user namespace that exists only to describe an id mapping: what `mount_setattr` wants for an idmapped mount.

Source: mount_setattr(2), "ID-mapped mounts"; user_namespaces(7).
"""

from __future__ import annotations

import os
import signal

from sampan.linux.namespaces import CLONE_NEWUSER, clone3, write_id_maps
from sampan.linux.process import pidfd_send_signal


def open_userns(uid_map: list[dict[str, int]], gid_map: list[dict[str, int]]) -> int:
    """Return a descriptor of a new user namespace with these maps ({containerID, hostID, size})."""
    pid, pidfd = clone3(CLONE_NEWUSER)
    if pid == 0:
        while True:
            signal.pause()
    try:
        write_id_maps(pid, uid_map, gid_map)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        os.waitpid(pid, 0)
