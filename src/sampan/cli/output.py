"""Archives out of the engine: to a file, which appears only when it is whole, or to standard output."""

from __future__ import annotations

import os

from sampan.cli.session import CommandError
from sampan.cli.streams import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.http import Response


def refuse_terminal(path: str, what: str) -> None:
    """Refuse to write binary data to a terminal, or to a path that cannot be written, before the engine is asked."""
    if not path:
        if os.isatty(1):
            raise CommandError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        return
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise CommandError(f"{what}: invalid output path: stat {directory}: no such file or directory")
    if os.path.isdir(path) or (os.path.exists(path) and not os.path.isfile(path)):
        raise CommandError(f'{what}: invalid output path: "{path}" must be a regular file')


def save(response: Response, path: str) -> None:
    """Write the body to `path` (tmp + rename), or to standard output when it is empty."""
    if not path:
        for chunk in response.chunks():
            write_all(1, chunk)
        return
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            for chunk in response.chunks():
                write_all(fd, chunk)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
