"""The client's configuration: `config.json` in `$DOCKER_CONFIG` or `~/.docker`, shared with the docker CLI.

Keys that are used here: auths, credsStore, credHelpers, currentContext, detachKeys, HttpHeaders, proxies, psFormat,
imagesFormat, networksFormat, volumesFormat, statsFormat. All others are kept when the file is written.

Source: docker(1), "Docker CLI configuration file (config.json) properties".
"""

from __future__ import annotations

import os

from sampan.client import jsontext
from sampan.errors import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


DEFAULT_CONTEXT = "default"
"""The context that flags and environment make; it is in use when `currentContext` names no other."""


_TEXTS = (
    *("credsStore", "detachKeys", "currentContext", "psFormat", "imagesFormat", "networksFormat", "volumesFormat"),
    *("statsFormat", "pluginsFormat", "serviceInspectFormat", "servicesFormat", "tasksFormat", "secretFormat"),
    *("configFormat", "nodesFormat"),
)
_GO_TYPES = {
    **dict.fromkeys(_TEXTS, ("string",)),
    **dict.fromkeys(("HttpHeaders", "credHelpers", "aliases", "features"), ("map[string]string", "string")),
    "auths": ("map[string]types.AuthConfig", "types.AuthConfig"),
    "proxies": ("map[string]configfile.ProxyConfig", "configfile.ProxyConfig"),
    "plugins": ("map[string]map[string]string", "map[string]string"),
    "cliPluginsExtraDirs": ("[]string",),
    "pruneFilters": ("[]string",),
}
"""What each key must be, and what the values of a map must be, in Go's words."""


class ContextError(Exception):
    """No engine can be named: the context is unknown or malformed, or the flags contradict it. The message says why."""


class Config:
    """The decoded file and where it is. A file that cannot be read, or a key of the wrong type, counts as absent, and
    `warning` says so.
    """

    def __init__(self, directory: str = "") -> None:
        self.directory = directory or os.environ.get("DOCKER_CONFIG") or os.path.join(home(), ".docker")
        self.path = os.path.join(self.directory, "config.json")
        self.data: dict[str, Any] = {}
        self.warning = ""
        try:
            with open(self.path, "rb") as f:
                data = f.read()
            decoded = jsontext.loads(data if data.strip() else b"{}")
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as e:
            self._warn(f"open {self.path}: {words(e)}")
            return
        except ValueError as e:
            self._warn(str(e))
            return
        if isinstance(decoded, dict):
            self.data = self._checked(decoded)
        elif decoded is not None:
            self._warn(f"json: cannot unmarshal {_kind(decoded)} into Go value of type configfile.ConfigFile")

    def _warn(self, reason: str) -> None:
        self.warning = self.warning or f"WARNING: Error parsing config file ({self.path}): {reason}"

    def _checked(self, decoded: dict[str, Any]) -> dict[str, Any]:
        """Return what has the right type; warn of the first thing that has not."""
        kept: dict[str, Any] = {}
        for key, value in decoded.items():
            wanted = _GO_TYPES.get(key)
            if wanted is None or value is None or _kind(value) == _json_kind(wanted[0]):
                kept[key] = value
            else:
                self._unfit(value, key, wanted[0])
            if wanted is not None and len(wanted) > 1 and isinstance(value, dict):
                for name in [n for n, v in value.items() if v is not None and _kind(v) != _json_kind(wanted[1])]:
                    self._unfit(value[name], f"{key}.{name}", wanted[1])
                    kept[key] = {n: v for n, v in kept[key].items() if n != name}
        return kept

    def _unfit(self, value: object, field: str, wanted: str) -> None:
        self._warn(f"json: cannot unmarshal {_kind(value)} into Go struct field ConfigFile.{field} of type {wanted}")

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


def _kind(value: object) -> str:
    """Name the JSON kind of a decoded value."""
    if isinstance(value, bool):
        return "bool"
    kinds = (("string", str), ("object", dict), ("array", list), ("number", (int, float)))
    return next((name for name, types in kinds if isinstance(value, types)), "null")


def _json_kind(go_type: str) -> str:
    """Return the JSON kind that decodes to a Go type of the table."""
    return "string" if go_type == "string" else "array" if go_type.startswith("[]") else "object"


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
