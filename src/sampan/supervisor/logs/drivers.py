"""The log drivers by name: which writer the shim opens, which decoder the daemon reads with."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.errors import InvalidArgument, NotImplemented_
from sampan.supervisor.logs.files import RotatingFile
from sampan.supervisor.logs.json_file import JsonFile, JsonFileDecoder
from sampan.supervisor.logs.local import Local, LocalDecoder
from sampan.supervisor.logs.options import rotation
from sampan.supervisor.logs.record import Decoder, LogWriter
from sampan.supervisor.logs.writer import FileWriter


def open_writer(driver: str, path: str, options: Mapping[str, str], attrs: Mapping[str, str]) -> LogWriter | None:
    """Open the log that a shim writes; None for the driver `none`. Raises InvalidArgument (bad option), OSError (path)."""
    if driver in ("none", ""):
        return None
    if driver == "json-file":
        return FileWriter(RotatingFile(path, rotation(driver, options)), JsonFile(attrs))
    if driver == "local":
        return FileWriter(RotatingFile(path, rotation(driver, options)), Local())
    raise InvalidArgument(f'error looking up logging plugin {driver}: plugin "{driver}" not found')


def decoder(driver: str) -> Decoder:
    """Raises NotImplemented_ in Docker's words for a driver that cannot be read back."""
    if driver == "json-file":
        return JsonFileDecoder()
    if driver == "local":
        return LocalDecoder()
    raise NotImplemented_("configured logging driver does not support reading")
