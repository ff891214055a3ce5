"""Control files: one write a call, values as text, directories made and removed. No meaning of any file is known here.

Source: cgroups(7).
"""

from __future__ import annotations

import errno
import os
import time

_O_WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_TRUNC


def write(directory: str, file: str, value: str) -> None:
    """Write one value with one write(2).

    Raises:
        OSError: the message is `failed to write "<value>": <reason>`, the path the file's.
    """
    path = f"{directory}/{file}"
    try:
        fd = os.open(path, _O_WRITE)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as e:
        raise OSError(e.errno, f'failed to write "{value}": {os.strerror(e.errno or 0)}', path) from None


def read(directory: str, file: str) -> str:
    """Return a control file's text. Raises: OSError."""
    fd = os.open(f"{directory}/{file}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 65536)
        if len(data) < 4000:  # seq_file hands out a page at most
            return data.decode()
        while chunk := os.read(fd, 65536):
            data += chunk
        return data.decode()
    finally:
        os.close(fd)


def read_or(directory: str, file: str, default: str) -> str:
    """Return a control file's text, or `default` when the kernel does not have the file or not the feature."""
    try:
        return read(directory, file)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return default
        raise


def read_int(directory: str, file: str, default: int = 0) -> int:
    """Return a control file's number; "max" is 2^64-1, a missing file `default`."""
    text = read_or(directory, file, "").strip()
    if not text:
        return default
    return (1 << 64) - 1 if text == "max" else int(text)


def read_map(directory: str, file: str) -> dict[str, int]:
    """Return a flat keyed file ("key value" lines) as a dict; missing → {}."""
    result = {}
    for line in read_or(directory, file, "").splitlines():
        key, _, value = line.partition(" ")
        if value:
            result[key] = int(value)
    return result


def collect_pids(directory: str, file: str = "cgroup.procs") -> list[int]:
    """Return the processes of a cgroup and of all below it, duplicates removed; a missing cgroup has none."""
    found: dict[int, None] = {}
    todo = [directory]
    while todo:
        here = todo.pop()
        try:
            found.update(dict.fromkeys(map(int, read(here, file).split())))
            todo += [entry.path for entry in os.scandir(here) if entry.is_dir(follow_symlinks=False)]
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ENODEV):
                raise
    found.pop(0, None)  # a process of another pid namespace shows as 0
    return list(found)


def remove_trees(directories: list[str], *, patience_s: float = 0.5) -> None:
    """Remove cgroup directories, bottom up. EBUSY (a process is still dying) is tried again until `patience_s`
    is over.
    """
    left = [directory for directory in directories if not _remove(directory)]
    deadline, pause_s = time.monotonic() + patience_s, 0.001
    while left:
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, "unable to remove cgroup", left[0])
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)
        left = [directory for directory in left if not _remove(directory)]


def try_remove_trees(directories: list[str]) -> bool:
    """Remove cgroup directories, bottom up, as far as nothing in them is busy; say whether all have gone."""
    removed = [_remove(directory) for directory in directories]  # a busy one does not save the others
    return all(removed)


def _remove(directory: str) -> bool:
    """Remove one tree; False when something in it is busy."""
    try:
        os.rmdir(directory)
        return True
    except FileNotFoundError:
        return True
    except OSError as e:
        if e.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    try:
        below = [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return True
    if not below:
        return False
    removed = [_remove(path) for path in below]  # a busy one does not save its siblings
    if not all(removed):
        return False
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError as e:
        if e.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def make_directory(directory: str) -> None:
    """Make a directory with its parents; existing is fine. The common case, where the parent exists, is one syscall."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_directory(os.path.dirname(directory))
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            pass


def join(directory: str, file: str, pid: int) -> None:
    """Write a pid into a membership file. EINVAL of a process that is just being born (TASK_NEW) is tried again."""
    for attempt in range(5):
        try:
            return write(directory, file, str(pid))
        except OSError as e:
            if e.errno != errno.EINVAL or pid == 0 or attempt == 4:
                raise
            time.sleep(0.03)
    return None


def missing_controller(controller: str) -> OSError:
    """Return the error for a limit that no hierarchy of this machine can hold."""
    return OSError(errno.ENODEV, f"cannot set {controller} limit: the {controller} cgroup controller is not available")
