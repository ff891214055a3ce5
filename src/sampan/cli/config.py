"""The client's configuration: `config.json` in `$DOCKER_CONFIG` or `~/.docker`, shared with the docker CLI.

Keys that are used here: auths, credsStore, credHelpers, currentContext, detachKeys, HttpHeaders, proxies, psFormat,
imagesFormat, networksFormat, volumesFormat, statsFormat. All others are kept when the file is written.

Source: docker(1), "Docker CLI configuration file (config.json) properties".
"""

from __future__ import annotations

import os

from sampan.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


DEFAULT_CONTEXT = "default"
"""The context that flags and environment make; it is in use when `currentContext` names no other."""


class ContextError(Exception):
    """No engine can be named: the context is unknown or malformed, or the flags contradict it. The message says why."""


class Config:
    """The decoded file (empty when there is none) and where it is. Raises ValueError on a malformed file."""

    def __init__(self, directory: str = "") -> None:
        self.directory = directory or os.environ.get("DOCKER_CONFIG") or os.path.join(home(), ".docker")
        self.path = os.path.join(self.directory, "config.json")
        self.data: dict[str, Any] = {}
        self.warning = ""
        try:
            with open(self.path, "rb") as f:
                decoded = jsontext.loads(f.read() or b"{}")
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError) as e:
            self.warning = f"WARNING: Error loading config file: {self.path}: {e}"
            return
        if isinstance(decoded, dict):
            self.data = decoded

    def text(self, key: str) -> str:
        value = self.data.get(key)
        return value if isinstance(value, str) else ""

    def table(self, key: str) -> dict[str, Any]:
        value = self.data.get(key)
        return value if isinstance(value, dict) else {}

    def save(self) -> None:
        """Write the file whole: mode 0600, tmp + fsync + rename, through a symlink if it is one."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        self.data = {"auths": self.table("auths"), **self.data}
        target = os.path.realpath(self.path)
        write_atomically(target, jsontext.indented(self.data, "\t").encode())


def write_atomically(path: str, data: bytes) -> None:
    """Replace `path` by a private file that holds `data`; nobody ever sees half of it."""
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def home() -> str:
    return os.environ.get("HOME") or os.path.expanduser("~")
