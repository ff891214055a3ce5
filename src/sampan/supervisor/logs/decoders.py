"""The reading half of the log formats, for the daemon: whole blocks of a file to records. Many lines at a time; damaged
ones are left out.

Source: see json_file.py and local.py.
"""

from __future__ import annotations

import json
import re
import struct
from contextlib import suppress
from typing import Protocol

import msgspec

from sampan.errors import NotImplemented_
from sampan.spec.times import rfc3339_nano


class LogRecord(msgspec.Struct):
    """One record read back.

    `log` ends with a newline unless the piece does not end the line; bytes that are no UTF-8 are surrogates (PEP 383).
    """

    log: str = ""
    stream: str = ""
    time: str = ""
    attrs: dict[str, str] | None = None


class Decoder(Protocol):
    def whole(self, block: bytes) -> int:
        """Return how many bytes at the start of `block` are whole records."""
        ...

    def decode(self, block: bytes) -> list[LogRecord]:
        """Decode whole records."""
        ...

    def back(self, block: bytes, *, at_start: bool) -> list[int]:
        """Return where the whole records at the end of `block` begin, and last where they end.

        at_start: the block is the beginning of its file; else what stands first in it may be a part of a record.
        """
        ...

    def line_ends(self, block: bytes) -> int:
        """Count the whole records that end a line, without decoding them."""
        ...


_NEWLINE = re.compile(rb"\n")
_END = rb'\n","stream":"'
_ESCAPED_END = b"\\" + _END
_LINE_END = re.compile(rb'(?<!\\)(?:\\\\)*\\n","stream":"')
_decoder = msgspec.json.Decoder(LogRecord)
_DAMAGE = (RecursionError, msgspec.DecodeError, UnicodeDecodeError)


class JsonFileDecoder:
    def whole(self, block: bytes) -> int:
        return block.rfind(b"\n") + 1

    def decode(self, block: bytes) -> list[LogRecord]:
        try:
            return _decoder.decode_lines(block)
        except _DAMAGE:
            return self._decode_one_by_one(block)

    def _decode_one_by_one(self, block: bytes) -> list[LogRecord]:
        records: list[LogRecord] = []
        for line in block.split(b"\n"):
            try:
                records.append(_decoder.decode(line))
            except _DAMAGE:
                with suppress(
                    ValueError, TypeError, RecursionError
                ):  # msgspec takes no lone surrogate; the standard library does
                    records.append(msgspec.convert(json.loads(line), LogRecord))
        return records

    def back(self, block: bytes, *, at_start: bool) -> list[int]:
        ends = [m.end() for m in _NEWLINE.finditer(block)]
        return [0, *ends] if at_start and ends else ends

    def line_ends(self, block: bytes) -> int:
        if _ESCAPED_END in block:  # a backslash before: an escaped one and an n, or a newline after all
            return len(_LINE_END.findall(block))
        return block.count(_END)


_SIZE = struct.Struct(">I")
_HEAD_BYTES = 18  # tag, length, "stdout" or "stderr", tag, nine bytes of time


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at


def _decode_entry(entry: bytes) -> LogRecord:
    record = LogRecord()
    line, partial, time_ns, at = b"", False, 0, 0
    while at < len(entry):
        key, at = _read_varint(entry, at)
        if key & 7 == 2:
            size, at = _read_varint(entry, at)
            value = entry[at : at + size]
            at += size
            if key >> 3 == 1:
                record.stream = value.decode()
            elif key >> 3 == 3:
                line = value
        else:
            number, at = _read_varint(entry, at)
            if key >> 3 == 2:
                time_ns = number
            elif key >> 3 == 4:
                partial = bool(number)
    record.time = rfc3339_nano(time_ns)
    record.log = (line if partial else line + b"\n").decode("utf-8", "surrogateescape")
    return record


class LocalDecoder:
    def whole(self, block: bytes) -> int:
        end = 0
        while end + 8 <= len(block):
            size = _SIZE.unpack_from(block, end)[0] + 8
            if end + size > len(block):
                break
            end += size
        return end

    def decode(self, block: bytes) -> list[LogRecord]:
        """Decode whole records. Most are a plain line with a head (stream and time) that many share: those are taken
        apart at fixed places.
        """
        records: list[LogRecord] = []
        heads: dict[bytes, tuple[str, str]] = {}
        at = 0
        while at < len(block):
            start = at + 4
            end = start + _SIZE.unpack_from(block, at)[0]
            at = end + 4
            line = start + _HEAD_BYTES + 2
            known = heads.get(block[start : line - 2])
            if known and line < end and block[line - 2] == 0x1A and block[line - 1] == end - line:
                text = block[line:end].decode("utf-8", "surrogateescape")
                records.append(LogRecord(text + "\n", *known))
                continue
            try:
                record = _decode_entry(block[start:end])
            except (IndexError, UnicodeDecodeError):
                continue
            records.append(record)
            heads[block[start : line - 2]] = (record.stream, record.time)
        return records

    def back(self, block: bytes, *, at_start: bool) -> list[int]:
        found = [len(block)]
        while (start := found[-1]) >= 8:
            size = _SIZE.unpack_from(block, start - 4)[0] + 8
            if size > start:
                break
            found.append(start - size)
        return found[::-1] if len(found) > 1 else []

    def line_ends(self, block: bytes) -> int:
        return sum(record.log.endswith("\n") for record in self.decode(block))


def decoder(driver: str) -> Decoder:
    """Return a driver's decoder. Raises: NotImplemented_ in Docker's words for a driver that cannot be read back."""
    if driver == "json-file":
        return JsonFileDecoder()
    if driver == "local":
        return LocalDecoder()
    raise NotImplemented_("configured logging driver does not support reading")
