"""The tar format, read: header blocks become `Entry` values. Pure: bytes in, values out, no file system.

Read: v7, ustar, GNU (long names, base-256 numbers, old sparse) and pax (extended headers, sparse 0.0, 0.1, 1.0).
Not here: where an entry goes (unpack.py), writing (tar_writer.py). Bounds: a long name or a pax header is at most
`MAX_SPECIAL_BYTES`, a sparse map at most `MAX_SPARSE_REGIONS` regions, numbers fit 63 bits.

Source: POSIX.1-2017 pax "Interchange Format"; GNU tar manual "Basic Tar Format", "Storing Sparse Files";
CVE-2017-14992, CVE-2022-31030 (huge headers).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from sampan.engine.archives.streams import Source, Truncated
from sampan.errors import InvalidArgument
from sampan.spec.ustar import BLOCK

ZERO_BLOCK = bytes(BLOCK)
MAX_SPECIAL_BYTES = 1024 * 1024
MAX_SPARSE_REGIONS = 100_000

REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
GNU_SPARSE, GLOBAL = b"S", b"g"
_WITHOUT_PAYLOAD = frozenset({HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO})
_REGULAR_TYPES = frozenset({b"0", b"\0", b"7"})
XATTR = "SCHILY.xattr."


class InvalidHeader(InvalidArgument):
    def __init__(self, reason: str = "") -> None:
        super().__init__("archive/tar: invalid tar header" + (f": {reason}" if reason else ""))


@dataclass(slots=True)
class Entry:
    """One member of an archive. `size_bytes` is what the file has, `stored_bytes` what the archive holds of it."""

    name: str
    type: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size_bytes: int
    stored_bytes: int
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    regions: list[tuple[int, int]] | None = None  # sparse: (offset, length) of the parts that are stored, in order


class Input:
    """The archive's bytes: exact takes, payload pieces without copying, and a recording of all that is no payload."""

    def __init__(self, source: Source, observe: object = None) -> None:
        self._source = source
        self._observe = observe  # called with every chunk, once, in order
        self._chunk = b""
        self._view = memoryview(b"")
        self._position = 0
        self.recorded = bytearray()

    def _refill(self) -> bool:
        chunk = self._source.read()
        if not chunk:
            return False
        if self._observe is not None:
            self._observe(chunk)  # type: ignore[operator]
        self._chunk, self._view, self._position = chunk, memoryview(chunk), 0
        return True

    def take(self, size: int) -> bytes:
        """Exactly `size` recorded bytes, or fewer at the end of the stream."""
        start = self._position
        end = start + size
        if end <= len(self._chunk):
            self._position = end
            out = self._chunk[start:end]
        else:
            out = self._chunk[start:]
            self._position = len(self._chunk)
            while len(out) < size and self._refill():
                more = self._chunk[: size - len(out)]
                self._position = len(more)
                out += more
        self.recorded += out
        return out

    def exactly(self, size: int) -> bytes:
        out = self.take(size)
        if len(out) < size:
            raise Truncated()
        return out

    def piece(self, size: int) -> memoryview:
        """Up to `size` bytes of payload, not recorded. Raises: Truncated at the end of the stream."""
        if self._position >= len(self._chunk) and not self._refill():
            raise Truncated()
        start = self._position
        end = min(start + size, len(self._chunk))
        self._position = end
        return self._view[start:end]

    def rest(self) -> int:
        """Read to the end of the stream, recording; returns the number of bytes."""
        total = 0
        while out := self.take(1024 * 1024):
            total += len(out)
            if total > 64 * MAX_SPECIAL_BYTES:
                raise InvalidHeader("too much data after the end of the archive")
        return total


class Reader:
    """Entries one after the other.

    After `next()` the caller consumes exactly `entry.stored_bytes`, then calls `skip_padding`.
    """

    def __init__(self, input: Input) -> None:
        self.input = input

    def next(self) -> Entry | None:
        """The next entry, None at the end of the archive. Raises: InvalidHeader, Truncated."""
        pax: dict[str, bytes] = {}
        long_name = long_link = ""
        while True:
            block = self._header_block()
            if block is None:
                return None
            kind = block[156:157]
            if kind == b"x":
                pax = parse_pax(self._special(block))
            elif kind == b"L":
                long_name = _text(self._special(block).split(b"\0", 1)[0])
            elif kind == b"K":
                long_link = _text(self._special(block).split(b"\0", 1)[0])
            elif kind == GLOBAL:
                self._special(block)  # Docker's and Go's readers do not apply global headers
            else:
                return self._entry(block, kind, pax, long_name, long_link)

    def skip_padding(self, stored_bytes: int) -> None:
        """Consume what fills the last block; a stream that ends right after the data is accepted, as Go does."""
        rest = -stored_bytes % BLOCK
        if rest:
            self.input.take(rest)

    def _header_block(self) -> bytes | None:
        block = self.input.take(BLOCK)
        if not block:
            return None
        if len(block) < BLOCK:
            raise Truncated()
        if block == ZERO_BLOCK:
            second = self.input.take(BLOCK)
            if not second or second == ZERO_BLOCK:
                return None
            if len(second) < BLOCK:
                raise Truncated()
            raise InvalidHeader()
        check_sum(block)
        return block

    def _special(self, block: bytes) -> bytes:
        size = number(block[124:136])
        if not 0 <= size <= MAX_SPECIAL_BYTES:
            raise InvalidHeader(f"an extended header of {size} bytes")
        data = self.input.exactly(size)
        self.skip_padding(size)
        return data

    def _entry(self, block: bytes, kind: bytes, pax: dict[str, bytes], long_name: str, long_link: str) -> Entry:
        entry = parse_header(block, kind)
        if long_name:
            entry.name = long_name
        if long_link:
            entry.link = long_link
        if pax:
            apply_pax(entry, pax)
        if entry.size_bytes < 0:
            raise InvalidHeader("a negative size")
        if entry.type in _REGULAR_TYPES:
            old = entry.type == b"\0"  # of an archive without types
            entry.type = DIRECTORY if old and entry.name.endswith("/") else REGULAR
        if entry.type in _WITHOUT_PAYLOAD:
            entry.size_bytes = entry.stored_bytes = 0
        if kind == GNU_SPARSE:
            self._old_sparse(entry, block)
        elif pax and any(key.startswith("GNU.sparse.") for key in pax):
            self._pax_sparse(entry, pax)
        return entry

    def _old_sparse(self, entry: Entry, block: bytes) -> None:
        """GNU's own sparse format: the map is in the header and in extension blocks right behind it."""
        entry.type = REGULAR
        regions = _region_fields(block[386:482])
        more = block[482] != 0
        while more:
            extension = self.input.exactly(BLOCK)
            regions += _region_fields(extension[:504])
            more = extension[504] != 0
            if len(regions) > MAX_SPARSE_REGIONS:
                raise InvalidHeader("too many sparse regions")
        _set_regions(entry, regions, number(block[483:495]))

    def _pax_sparse(self, entry: Entry, pax: dict[str, bytes]) -> None:
        if pax.get("GNU.sparse.major") == b"1" and pax.get("GNU.sparse.minor") == b"0":
            regions, used = self._map_in_payload()
            entry.stored_bytes -= used
            if entry.stored_bytes < 0:
                raise InvalidHeader("a sparse map larger than its file")
        elif "GNU.sparse.map" in pax:
            regions = _pairs([_decimal(x) for x in pax["GNU.sparse.map"].split(b",") if x])
        else:
            return
        name = pax.get("GNU.sparse.name")
        if name:
            entry.name = _text(name)
        real = pax.get("GNU.sparse.realsize") or pax.get("GNU.sparse.size")
        _set_regions(entry, regions, _decimal(real) if real else 0)

    def _map_in_payload(self) -> tuple[list[tuple[int, int]], int]:
        """Sparse 1.0: decimal numbers, one a line, at the start of the data, padded to whole blocks."""
        data = bytearray()
        wanted: int | None = None
        while wanted is None or data.count(b"\n") < wanted:
            data += self.input.exactly(BLOCK)
            if len(data) > MAX_SPARSE_REGIONS * 24:
                raise InvalidHeader("too many sparse regions")
            if wanted is None and b"\n" in data:
                wanted = 1 + 2 * _decimal(bytes(data.split(b"\n", 1)[0]))
        numbers = [_decimal(x) for x in bytes(data).split(b"\n")[1:wanted]]
        return _pairs(numbers), len(data)


def parse_header(block: bytes, kind: bytes) -> Entry:
    """One header block without its extensions. Raises: InvalidHeader."""
    magic = block[257:265]
    name = block[0:100].split(b"\0", 1)[0]
    if magic[:6] == b"ustar\0":
        prefix = block[345:500].split(b"\0", 1)[0]
        if prefix:
            name = prefix + b"/" + name
    size = number(block[124:136])
    device = (0, 0)
    if kind in (CHARACTER, BLOCK_DEVICE):
        device = (number(block[329:337]), number(block[337:345]))
        if not 0 <= device[0] < 1 << 12 or not 0 <= device[1] < 1 << 20:
            raise InvalidHeader("a device number out of range")
    return Entry(
        name=_text(name),
        type=kind,
        mode=number(block[100:108]) & 0o7777,
        uid=number(block[108:116]),
        gid=number(block[116:124]),
        mtime_ns=number(block[136:148]) * 1_000_000_000,
        size_bytes=size,
        stored_bytes=size,
        link=_text(block[157:257].split(b"\0", 1)[0]),
        device=device,
    )


def apply_pax(entry: Entry, records: dict[str, bytes]) -> None:
    """Overwrite header fields with those of a pax extended header. An empty value means "as without it"."""
    for key, value in records.items():
        if key.startswith(XATTR):
            entry.xattrs[key[len(XATTR) :]] = value
        elif not value:
            continue
        elif key == "path":
            entry.name = _text(value)
        elif key == "linkpath":
            entry.link = _text(value)
        elif key == "size":
            entry.size_bytes = entry.stored_bytes = _decimal(value)
        elif key == "uid":
            entry.uid = _decimal(value)
        elif key == "gid":
            entry.gid = _decimal(value)
        elif key == "mtime":
            entry.mtime_ns = _time_ns(value)


def parse_pax(data: bytes) -> dict[str, bytes]:
    """`<length> <key>=<value>\\n` records; sparse 0.0 repeats keys, which become one GNU.sparse.map."""
    records: dict[str, bytes] = {}
    sparse: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        if space < 0:
            raise InvalidHeader("a pax record without a length")
        length = _decimal(data[position:space])
        end = position + length
        record = data[space + 1 : end]
        if length < 5 or end > len(data) or not record.endswith(b"\n") or b"=" not in record:
            raise InvalidHeader("a malformed pax record")
        key, _, value = record[:-1].partition(b"=")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append(value)
        else:
            name = _text(key)
            if "\0" in name or (b"\0" in value and not name.startswith(XATTR)):
                raise InvalidHeader("a NUL in a pax record")
            records[name] = value
        position = end
    if sparse:
        records["GNU.sparse.map"] = b",".join(sparse)
    return records


def check_sum(block: bytes) -> None:
    """Raises: InvalidHeader when neither the unsigned nor the signed sum agrees."""
    stored = number(block[148:156])
    total = sum(block) - sum(block[148:156]) + 256
    if total != stored:
        signed = total - 256 * sum(1 for b in block[:148] + block[156:] if b >= 128)
        if signed != stored:
            raise InvalidHeader()


def number(field: bytes) -> int:
    """A numeric field: octal text, or base-256 with the top bit set. Raises: InvalidHeader."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:  # negative, two's complement
            value -= 1 << (8 * len(field) - 1)
        if not -(1 << 63) <= value < 1 << 63:
            raise InvalidHeader("a number out of range")
        return value
    try:
        digits = field.strip(b" \0")
        return int(digits, 8) if digits else 0
    except ValueError:
        raise InvalidHeader("a number that is not octal") from None


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 19:
        raise InvalidHeader("a number that is not decimal")
    return int(value)


def _time_ns(value: bytes) -> int:
    """Decimal seconds with a fraction of any length."""
    whole, _, fraction = value.partition(b".")
    negative = whole.startswith(b"-")
    ns = _decimal(whole.lstrip(b"-") or b"0") * 1_000_000_000
    if fraction:
        ns += _decimal(fraction[:9].ljust(9, b"0"))
    return -ns if negative else ns


def _text(value: bytes) -> str:
    return os.fsdecode(value)


def _region_fields(data: bytes) -> list[tuple[int, int]]:
    """(offset, length) pairs of 12-byte numbers, ended by an empty one."""
    regions = []
    for at in range(0, len(data) - 23, 24):
        if not data[at]:
            break
        regions.append((number(data[at : at + 12]), number(data[at + 12 : at + 24])))
    return regions


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2 or len(numbers) > 2 * MAX_SPARSE_REGIONS:
        raise InvalidHeader("a malformed sparse map")
    return list(zip(numbers[::2], numbers[1::2]))


def _set_regions(entry: Entry, regions: list[tuple[int, int]], real_bytes: int) -> None:
    """Check a sparse map: ordered, inside the file, and as long as what is stored."""
    end = 0
    for offset, length in regions:
        if offset < end or length < 0 or offset + length > real_bytes:
            raise InvalidHeader("a sparse map that leaves its file")
        end = offset + length
    if sum(length for _, length in regions) != entry.stored_bytes or real_bytes >= 1 << 63:
        raise InvalidHeader("a sparse map that does not fit its data")
    entry.size_bytes = real_bytes
    entry.regions = regions
