"""The log drivers by name: which sink the shim opens. The reading side is decoders.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sampan.errors import InvalidArgument
from sampan.supervisor.logs.files import RotatingFile
from sampan.supervisor.logs.json_file import JsonFile
from sampan.supervisor.logs.local import Local
from sampan.supervisor.logs.options import rotation
from sampan.supervisor.logs.record import LogSink
from sampan.supervisor.logs.writer import FileWriter, Nothing

Factory = Callable[[str, Mapping[str, str], Mapping[str, str]], LogSink]  # path, options, attributes


def _json_file(path: str, options: Mapping[str, str], attrs: Mapping[str, str]) -> LogSink:
    return FileWriter(RotatingFile(path, rotation("json-file", options)), JsonFile(attrs))


def _local(path: str, options: Mapping[str, str], attrs: Mapping[str, str]) -> LogSink:
    return FileWriter(RotatingFile(path, rotation("local", options)), Local())


def _none(path: str, options: Mapping[str, str], attrs: Mapping[str, str]) -> LogSink:
    return Nothing()


SINKS: dict[str, Factory] = {"json-file": _json_file, "local": _local, "none": _none, "": _none}


def names() -> list[str]:
    """Return the names that a container may ask for; "" stands for `none` and is not among them."""
    return [name for name in SINKS if name]


def open_sink(driver: str, path: str, options: Mapping[str, str], attrs: Mapping[str, str]) -> LogSink:
    """Open the log that a shim writes. Raises InvalidArgument (unknown driver, bad option), OSError (path)."""
    factory = SINKS.get(driver)
    if factory is None:
        raise InvalidArgument(f'error looking up logging plugin {driver}: plugin "{driver}" not found')
    return factory(path, options, attrs)
