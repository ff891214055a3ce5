"""The log drivers by name: which writer the shim opens. The reading side is decoders.py."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.errors import InvalidArgument
from sampan.supervisor.logs.files import RotatingFile
from sampan.supervisor.logs.json_file import JsonFile
from sampan.supervisor.logs.local import Local
from sampan.supervisor.logs.options import rotation
from sampan.supervisor.logs.record import LogWriter
from sampan.supervisor.logs.writer import FileWriter


def open_writer(driver: str, path: str, options: Mapping[str, str], attrs: Mapping[str, str]) -> LogWriter | None:
    """Open the log that a shim writes; None for the driver `none`.

    Raises: InvalidArgument (bad option), OSError (path).
    """
    if driver in ("none", ""):
        return None
    if driver == "json-file":
        return FileWriter(RotatingFile(path, rotation(driver, options)), JsonFile(attrs))
    if driver == "local":
        return FileWriter(RotatingFile(path, rotation(driver, options)), Local())
    raise InvalidArgument(f'error looking up logging plugin {driver}: plugin "{driver}" not found')
