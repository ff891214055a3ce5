"""The table files of a kept process: which there are, and how what stands in them is checked.

sampand writes each in one step, the process reads it. The files are the truth: they outlive both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

FILE_BYTES = 16 * 1024 * 1024  # some 100,000 endpoints of other hosts
_SUFFIX = ".json"
_PIECE_BYTES = 1 << 16


class Damaged(ValueError):
    """A file does not say what it should."""


def file_name(id: str) -> str:
    """Return the name of the file of one thing that is served."""
    return id + _SUFFIX


def ids(directory: str) -> Iterator[str]:
    """Yield the id of each thing that has a file. Raises: OSError."""
    for name in os.listdir(directory):
        if name.endswith(_SUFFIX):
            yield name.removesuffix(_SUFFIX)


def read(fd: int) -> bytes:
    """Return what stands in an open file. Raises: Damaged; OSError."""
    raw = bytearray()
    while piece := os.pread(fd, _PIECE_BYTES, len(raw)):
        raw += piece
        if len(raw) > FILE_BYTES:
            raise Damaged("it is too long")
    return bytes(raw)


def items(value: Any) -> list[Any]:
    """Return a list. Raises: TypeError."""
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def text(value: Any) -> str:
    """Return a text. Raises: TypeError."""
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """Return a list of texts. Raises: TypeError."""
    return tuple(text(item) for item in items(value))


def number(value: Any, most: int) -> int:
    """Return a number from 0 to `most`. Raises: ValueError."""
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError("no such number")
    return value
