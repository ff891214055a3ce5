"""One daemon per data root, one pidfile per daemon.

The lock on `<data-root>/lock` is what counts: the kernel drops it with the process, however that ends. A pidfile whose
process is gone, or is no sampand, is stale and replaced.

Source: flock(2); dockerd 28.5's pidfile messages.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sampan.daemon.validation import ConfigError
from sampan.engine.config import EngineConfig
from sampan.errors import words

log = logging.getLogger("sampan.daemon")


def prepare_directories(config: EngineConfig) -> None:
    """Make data root (0700) and exec root (0711: the sockets below have their own modes). Raises: ConfigError."""
    for path, mode in ((config.data_root, 0o700), (config.exec_root, 0o711)):
        try:
            os.makedirs(path, mode=mode, exist_ok=True)
            os.chmod(path, mode)
        except OSError as e:
            raise ConfigError(f"cannot prepare {path}: {words(e)}") from e


@contextmanager
def hold_data_root(data_root: str) -> Iterator[None]:
    """Hold the lock of a data root. Raises: ConfigError when another daemon has it."""
    fd = os.open(os.path.join(data_root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise ConfigError(f"data root {data_root} is in use by another daemon (pid {holder})") from None
        with suppress(OSError):  # for people only, and a full disk may not take it
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


@contextmanager
def hold_pidfile(path: str) -> Iterator[None]:
    """Write the pidfile, remove it at the end. Raises: ConfigError when its process still runs."""
    if not path:
        yield
        return
    other = _running(path)
    if other:
        raise ConfigError(f"ensure sampand is not running or delete {path}: process with PID {other} is still running")
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(path, "w", encoding="ascii") as f:
            os.fchmod(f.fileno(), 0o644)
            f.write(str(os.getpid()))
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise ConfigError(f"cannot write pidfile {path}: {words(e)}") from e
        log.warning("cannot write pidfile %s: %s", path, words(e))  # a full disk is no reason not to run
    try:
        yield
    finally:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def _running(path: str) -> int:
    """Return the pid in a pidfile if that process lives and is a daemon of ours, else 0."""
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            pid = int(f.read().strip() or "0")
        if pid <= 0 or pid == os.getpid():
            return 0
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return pid if b"sampand" in f.read() else 0
    except (OSError, ValueError):
        return 0
