"""Work in a thread with a mount namespace, a working directory and a umask of its own; all of them end with it.

Source: unshare(2) (CLONE_NEWNS implies CLONE_FS), mount_namespaces(7).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from sampan.linux import mounts, namespaces

T = TypeVar("T")


def in_mount_namespace(work: Callable[[], T], name: str) -> T:
    """Return what `work` returns, or raise what it raises; what it mounts nobody else sees. Blocking.

    The umask is 0 in it, so that a mode is exact at creation. name: the thread's. Raises: OSError.
    """
    made: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            os.umask(0)
            mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
            made.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]
