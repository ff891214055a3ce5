"""`RUN --mount=type=…`: the option's text as a value. Pure.

At first only `from` is read, because it decides which stages are needed; the rest may hold variables and is read, and
checked, by `expanded`.

Source: Dockerfile reference, RUN --mount; messages as Docker Engine 28.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.flags import suggestion
from sampan.spec.dockerfile.words import Variables
from sampan.spec.go_values import boolean, fields, quote

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_KEYS = (
    "type", "from", "source", "target", "readonly", "id", "sharing", "required", "size", "mode", "uid", "gid",
    "src", "dst", "destination", "ro", "rw", "readwrite", "env",
)  # fmt: skip
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKmMgGtTpP]?)(?:i?[bB])?$")
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFlag:
    """One mount. Only `text`, `type` without variables, and `from_` are there until `expanded`."""

    text: str  # the option as written
    type: str = "bind"  # bind, cache, tmpfs, secret, ssh
    source: str = ""  # a path in `from_`; a secret's id when it has no `id`
    target: str = ""
    from_: str = ""  # a stage, an image or a named context; '' is the build context (bind) or nothing (cache)
    readonly: bool = True
    id: str = ""
    sharing: str = ""  # cache: shared (also ''), private, locked
    required: bool = False
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size_bytes: int = 0
    env: str | None = None  # secret: the variable to set

    def expanded(self, variables: Variables) -> MountFlag:
        """Return the mount with variables replaced and everything checked. Raises: DockerfileError."""
        return _read(self.text, variables)


def parse(text: str) -> MountFlag:
    """Read the option without its variables. Raises: DockerfileError."""
    found: dict[str, str] = {}
    for field in _fields(text):
        key, _, value = field.partition("=")
        key = key.lower()
        if key == "from" and re.search(r"\$.", value):
            raise DockerfileError(f"'{key}' doesn't support variable expansion, define alias stage instead")
        if key == "from" or (key == "type" and value.lower() in _TYPES):
            found[key] = value
    return MountFlag(text=text, type=found.get("type", "bind").lower(), from_=found.get("from", ""))


def _fields(text: str) -> list[str]:
    try:
        return fields(text)
    except ValueError as e:
        raise DockerfileError(f"failed to parse csv mounts: {e}") from None


def _read(text: str, variables: Variables) -> MountFlag:
    """All options, in their order: what is wrong first is what is said."""
    found: dict[str, Any] = {"type": "bind"}
    for field in _fields(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if not equals:
            if key in ("readonly", "ro", "readwrite", "rw"):
                found["readonly"] = key in ("readonly", "ro")
                continue
            if key == "required":
                found["required"] = _required(found["type"], "true")
                continue
            raise DockerfileError(f"invalid field '{field}' must be a key=value pair")
        _option(found, key, variables.word(value), field)
    return _checked(MountFlag(text=text, **{"readonly": found["type"] not in ("cache", "tmpfs"), **found}))


def _option(found: dict[str, Any], key: str, value: str, field: str) -> None:
    """Read one `key=value` into the keywords of Mount. Raises: DockerfileError."""
    if key == "type":
        if value.lower() not in _TYPES:
            hint = suggestion(value, (*_TYPES,))
            raise DockerfileError(f"unsupported mount type {quote(value)}{hint}")
        found["type"] = value.lower()
    elif key in ("source", "src", "target", "dst", "destination", "id", "from", "env"):
        name = {"src": "source", "dst": "target", "destination": "target", "from": "from_"}.get(key, key)
        found[name] = value
    elif key in ("readonly", "ro", "readwrite", "rw"):
        found["readonly"] = _boolean(key, value) == (key in ("readonly", "ro"))
    elif key == "required":
        found["required"] = _required(found["type"], value)
    elif key == "sharing":
        if value.lower() not in _SHARING:
            raise DockerfileError(f"unsupported sharing value {quote(value)}")
        found["sharing"] = value.lower()
    elif key in ("mode", "uid", "gid"):
        found[key] = _number(key, value, 8 if key == "mode" else 10)
    elif key == "size":
        if found["type"] != "tmpfs":
            raise DockerfileError(f"unexpected key '{key}' for mount type '{found['type']}'")
        found["size_bytes"] = _size(value)
    else:
        raise DockerfileError(f"unexpected key '{key}' in '{field}'{suggestion(key, _KEYS)}")


def _boolean(key: str, value: str) -> bool:
    try:
        return boolean(value)
    except ValueError:
        raise DockerfileError(f"invalid value for {key}: {value}") from None


def _required(type_: str, value: str) -> bool:
    if type_ not in ("secret", "ssh"):
        raise DockerfileError(f"unexpected key 'required' for mount type '{type_}'")
    return _boolean("required", value)


def _number(key: str, value: str, base: int) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    if not value or len(value) > 20 or value.strip(digits) or int(value, base) >= 1 << 32:
        raise DockerfileError(f"invalid value {value} for {key}")
    return int(value, base)


def _size(value: str) -> int:
    match = _SIZE.match(value)
    if not match or len(value) > 30:
        raise DockerfileError(f"invalid value for size: {value}")
    return int(float(match[1]) * _FACTORS[match[2].lower()])


def _checked(mount: MountFlag) -> MountFlag:
    """What does not fit together. Raises: DockerfileError."""
    for name, value in (("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)):
        if value is not None and mount.type not in ("secret", "ssh", "cache"):
            raise DockerfileError(f"{name} not allowed for {quote(mount.type)} type mounts")
    if mount.sharing and mount.type != "cache":
        raise DockerfileError(f"invalid cache sharing set for {mount.type} mount")
    if mount.type == "secret":
        if mount.from_:
            raise DockerfileError("secret mount should not have a from")
        if not (mount.source or mount.target or mount.id or mount.env):
            raise DockerfileError("invalid secret mount. one of source, target required")
        if mount.source and mount.id:
            raise DockerfileError("both source and id can't be set")
    return mount
