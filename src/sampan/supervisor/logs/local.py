"""The `local` format: Docker's framed protobuf records, so that either engine's tools read either engine's files.

    u32be size | LogEntry | u32be size          the size stands on both sides: readable backwards LogEntry { 1: string
    source; 2: int64 time_nano; 3: bytes line; 4: bool partial; 5: { 1: bool last; 2: string id; 3: int32 ordinal } }

Source: observed on Docker Engine 28.5 (`local-logs/container.log`); protobuf wire format.
"""

from __future__ import annotations

import struct

from sampan.supervisor.logs.record import Partial

_SIZE = struct.Struct(">I")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


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
        meta = (
            (b"\x08\x01" if partial.last else b"")
            + b"\x12"
            + _varint(len(name))
            + name
            + b"\x18"
            + _varint(partial.ordinal)
        )
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
