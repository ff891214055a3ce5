"""What `sampan build`'s flags mean: secrets, keys, contexts, outputs and caches as values. Nothing is opened here.

Source: the flags of buildx 0.29 as observed: comma separated `key=value` words, and a short form for each flag.
"""

from __future__ import annotations

import os
import stat

from sampan.cli.session import CommandError
from sampan.errors import words
from sampan.spec import go_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CACHE_NUMBER = 1000  # caches for directories of the client are numbered from here, behind the outputs
URLS = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")
OTHERS = ("docker-image://", "oci-layout://", *URLS)


class OutputFlag:
    """One --output.

    type: image docker oci tar local cacheonly; path: where the client puts it, "-" for standard output.
    """

    def __init__(self, type_: str, attrs: Mapping[str, str], path: str = "") -> None:
        self.type = type_
        self.attrs = dict(attrs)
        self.path = path

    @property
    def directory(self) -> bool:
        """Whether files come, not one archive."""
        return self.type == "local" or (self.type == "oci" and self.attrs.get("tar") in ("false", "0"))


def pairs(text: str) -> dict[str, str]:
    """Return `a=b,c=d`, quoted as CSV; a word without `=` has no value. Raises: ValueError."""
    return {key.strip().lower(): value for key, _, value in (word.partition("=") for word in go_values.fields(text))}


def outputs(texts: Iterable[str], *, load: bool, push: bool) -> list[OutputFlag]:
    """Read the --output flags. Raises: CommandError for what is incomplete or unknown."""
    found = [output(text) for text in texts]
    if load and not any(one.type == "image" for one in found):
        found.append(OutputFlag("image", {}))
    if push:
        image = next((one for one in found if one.type == "image"), None)
        if image is None:
            found.append(image := OutputFlag("image", {}))
        image.attrs["push"] = "true"
    if sum(one.path == "-" for one in found) > 1:
        raise CommandError("ERROR: multiple outputs to stdout is not allowed")
    return found


def output(text: str) -> OutputFlag:
    """Return `dir`, `-` (a tar on standard output), or `type=…,dest=…`."""
    if "=" not in text:
        return OutputFlag("tar", {}, "-") if text == "-" else OutputFlag("local", {}, text)
    attrs = pairs(text)
    type_, path = attrs.pop("type", ""), attrs.pop("dest", "")
    if not type_:
        raise CommandError(f"ERROR: type is required for output: invalid value {text}")
    if type_ == "registry":
        type_, attrs["push"] = "image", "true"
    if type_ == "docker" and not path:
        type_ = "image"
    if type_ == "local" and path in ("", "-"):
        raise CommandError("ERROR: dest is required for local output" if not path else "ERROR: dest cannot be stdout")
    if type_ in ("oci", "tar") and not path:
        path = "-"
    if type_ not in ("image", "docker", "oci", "tar", "local", "cacheonly"):
        raise CommandError(f'ERROR: exporter "{type_}" could not be found')
    made = OutputFlag(type_, attrs, path)
    if made.path and made.path != "-" and not made.directory and os.path.isdir(made.path):
        raise CommandError(f'ERROR: destination "{made.path}" is a directory, a file is needed for output {type_}')
    if made.path == "-" and os.isatty(1):
        raise CommandError(f"ERROR: dest file is required for {type_} exporter. refusing to write to console")
    return made


def secrets(texts: Iterable[str]) -> dict[str, str]:
    """Read the --secret flags: id → `env:NAME` or a path. Raises: CommandError."""
    found = {}
    for text in texts:
        given = pairs(text)
        name = given.get("id", "")
        kind, path = given.get("type", ""), given.get("src") or given.get("source") or ""
        variable = given.get("env", "")
        if set(given) - {"id", "type", "src", "source", "env"}:
            raise CommandError(f"ERROR: invalid field in secret: {text}")
        if not name or kind not in ("", "file", "env"):
            raise CommandError(f"ERROR: invalid secret: {text}")
        if kind == "env" and not variable:
            path, variable = "", path or name
        if not variable and not path:  # a variable of that name, else a file
            variable, path = (name, "") if name in os.environ and kind != "file" else ("", name)
        if path and not os.path.exists(path):
            raise CommandError(f"ERROR: failed to stat {path}: stat {path}: no such file or directory")
        if path and os.path.getsize(path) > 500 * 1024:
            raise CommandError(f"ERROR: secret {name} too big. max size 500KB")
        found[name] = path or f"env:{variable}"
    return found


def ssh(texts: Iterable[str]) -> dict[str, str]:
    """Read the --ssh flags: id → an agent's socket. Raises: CommandError, also for key files, which an agent gives."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, path = text.partition("=")
        path = path or os.environ.get("SSH_AUTH_SOCK", "")
        if not path:
            raise CommandError("ERROR: invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")
        try:
            mode = os.stat(path).st_mode
        except OSError as e:
            raise CommandError(f"ERROR: failed to open {path}: open {path}: {words(e)}") from e
        if not stat.S_ISSOCK(mode):
            raise CommandError(f"ERROR: {path} is not the socket of an ssh agent; add the key to one with ssh-add")
        found[name or "default"] = path
    return found


def contexts(texts: Iterable[str]) -> dict[str, str]:
    """Read the --build-context flags: name → an image, a URL, or the path of a directory. Raises: CommandError."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise CommandError(f"ERROR: invalid context value: {text}, expected key=value")
        if not value.startswith(OTHERS):
            if not os.path.isdir(value):
                raise CommandError(
                    f"ERROR: failed to get build context {name}: stat {value}: no such file or directory"
                )
            value = os.path.realpath(value)
        elif value.startswith("oci-layout://"):
            raise CommandError("ERROR: contexts of type oci-layout:// are not served by this client")
        found[name] = value
    return found


def cache_ends(texts: Iterable[str], *, importing: bool) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Return what the engine is told of --cache-from or --cache-to, and the client's directories among them by name.

    A directory to read is a local source of that name; one to write is an output of that number.
    """
    told: list[dict[str, object]] = []
    directories: dict[str, str] = {}
    for text in texts:
        attrs = pairs(text) if "=" in text else {"type": "registry", "ref": text}
        type_ = attrs.pop("type", "registry")
        if type_ == "local":
            key = "src" if importing else "dest"
            path = attrs.pop(key, "")
            if not path:
                raise CommandError(f"ERROR: local cache {'importer' if importing else 'exporter'} requires {key}")
            if importing and not os.path.isdir(path):
                continue  # a cache that is not there yet has nothing to give
            number = CACHE_NUMBER + len(directories)
            name = f"cache{number}" if importing else str(number)
            attrs["context" if importing else "exporter"] = name
            directories[name] = os.path.realpath(path)
        told.append({"Type": type_, "Attrs": attrs})
    return told, directories
