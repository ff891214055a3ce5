"""What `--log-opt` may say: names, values and the words Docker refuses them with.

Docker checks names at create and values at start; so do the two functions here. Pure.
Source: observed on Docker Engine 28.5 with every option, right and wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sampan.errors import InvalidArgument
from sampan.spec import go_values

_JSON_FILE = frozenset({"max-file", "max-size", "compress", "labels", "labels-regex", "env", "env-regex", "tag"})
_LOCAL = frozenset({"max-file", "max-size", "compress"})
_MODE = frozenset({"mode", "max-buffer-size"})


class Rotation(NamedTuple):
    """When a log file is set aside: `max_size` in bytes (0 = never), `max_files` including the live one."""

    max_size: int
    max_files: int
    compress: bool


def size_bytes(text: str, *, unit: int) -> int:
    """Read a size such as `10m`; `unit` is 1000 (json-file) or 1024 (local). Raises: InvalidArgument in
    Docker's words.
    """
    try:
        return go_values.size_bytes(text, unit=unit)
    except ValueError as e:
        raise InvalidArgument(str(e)) from e


def validate(driver: str, options: Mapping[str, str]) -> None:
    """Refuse what Docker refuses when a container is created: an unknown driver, an unknown option, a bad delivery
    mode.
    """
    if driver not in ("json-file", "local", "none"):
        raise InvalidArgument(f'error looking up logging plugin {driver}: plugin "{driver}" not found')
    _validate_mode(options)
    if driver == "none":
        return
    known = _JSON_FILE if driver == "json-file" else _LOCAL
    for name in options:
        if name not in known and name not in _MODE:
            where = "json-file log driver" if driver == "json-file" else "log driver local"
            raise InvalidArgument(f"unknown log opt '{name}' for {where}")


def _validate_mode(options: Mapping[str, str]) -> None:
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        try:
            size_bytes(options["max-buffer-size"], unit=1024)
        except InvalidArgument as e:
            raise InvalidArgument(f"error parsing option max-buffer-size: {e.message}") from e


def rotation(driver: str, options: Mapping[str, str]) -> Rotation:
    """Read the rotation options as the driver does at start. Raises: InvalidArgument in the driver's words."""
    return _json_file_rotation(options) if driver == "json-file" else _local_rotation(options)


def _json_file_rotation(options: Mapping[str, str]) -> Rotation:
    max_size = 0
    if "max-size" in options:
        max_size = size_bytes(options["max-size"], unit=1000)
        if max_size <= 0:
            raise InvalidArgument("max-size must be a positive number")
    max_files = _integer(options.get("max-file", "1"))
    if max_files < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    compress = _boolean(options.get("compress", "false"))
    if compress and (max_files < 2 or max_size == 0):
        raise InvalidArgument("compress cannot be true when max-file is less than 2 or max-size is not set")
    return Rotation(max_size=max_size, max_files=max_files, compress=compress)


def _local_rotation(options: Mapping[str, str]) -> Rotation:
    try:
        max_size = size_bytes(options.get("max-size", "20m"), unit=1024)
    except InvalidArgument as e:
        raise InvalidArgument(f"invalid value for max-size: {options['max-size']}: {e.message}") from e
    try:
        max_files = _integer(options.get("max-file", "5"))
    except InvalidArgument as e:
        raise InvalidArgument(f"invalid value for max-file: {options['max-file']}: {e.message}") from e
    try:
        compress = _boolean(options.get("compress", "true"))
    except InvalidArgument as e:
        raise InvalidArgument(f"error reading compress log option: {e.message}") from e
    if compress and max_files < 2:
        raise InvalidArgument("compression cannot be enabled when max file count is 1")
    return Rotation(max_size=max_size, max_files=max(1, max_files), compress=compress)


def _integer(text: str) -> int:
    try:
        return go_values.integer(text, call="Atoi")
    except ValueError as e:
        raise InvalidArgument(str(e)) from e


def _boolean(text: str) -> bool:
    try:
        return go_values.boolean(text)
    except ValueError as e:
        raise InvalidArgument(str(e)) from e
