"""The `local` format: Docker's framed protobuf records, so that either engine's tools read either engine's files.

    u32be size | LogEntry | u32be size          the size stands on both sides: readable backwards
    LogEntry { 1: string source; 2: int64 time_nano; 3: bytes line; 4: bool partial; 5: { 1: bool last; 2: string id; 3: int32 ordinal } }

Source: observed on Docker Engine 28.5 (`local-logs/container.log`); protobuf wire format.
"""

from __future__ import annotations

import struct

from sampan.supervisor.logs.record import Partial, Record, stamp

_SIZE = struct.Struct(">I")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at


def _framed(entry: bytes) -> bytes:
    size = _SIZE.pack(len(entry))
    return size + entry + size


class Local:
    """Format of one container's log. It keeps no attributes, as Docker's does not."""

    def render(self, stream: str, block: bytes, time_ns: int, partial: Partial | None) -> bytes:
        head = b"\x0a" + _varint(len(stream)) + stream.encode() + b"\x10" + _varint(time_ns)
        if partial is None:
            return b"".join([self._entry(head, line) for line in block[:-1].split(b"\n")])
        name = partial.id.encode()
        meta = (b"\x08\x01" if partial.last else b"") + b"\x12" + _varint(len(name)) + name + b"\x18" + _varint(partial.ordinal)
        flag = b"" if partial.last else b"\x20\x01"
        return self._entry(head, block, flag + b"\x2a" + _varint(len(meta)) + meta)

    def boundary(self, block: bytes, wanted: int) -> int:
        end = 0
        while end < wanted:
            end += _SIZE.unpack_from(block, end)[0] + 8
        return end

    @staticmethod
    def _entry(head: bytes, line: bytes, rest: bytes = b"") -> bytes:
        return _framed(head + (b"\x1a" + _varint(len(line)) + line if line else b"") + rest)


def _decode_entry(entry: bytes) -> Record:
    record = Record()
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
    record.time = stamp(time_ns)
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

    def decode(self, block: bytes) -> list[Record]:
        records: list[Record] = []
        at = 0
        while at < len(block):
            size = _SIZE.unpack_from(block, at)[0]
            try:
                records.append(_decode_entry(block[at + 4 : at + 4 + size]))
            except (IndexError, UnicodeDecodeError):
                pass
            at += size + 8
        return records

    def last(self, block: bytes, count: int) -> tuple[int, int]:
        found, start = 0, len(block)
        while found < count and start >= 8:
            size = _SIZE.unpack_from(block, start - 4)[0] + 8
            if size > start:
                break
            start -= size
            found += 1
        return found, start
