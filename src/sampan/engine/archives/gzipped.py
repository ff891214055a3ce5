"""gzip as a push needs it: the same bytes for the same layer, and no time lost on what does not compress.

    header of zeros · deflate blocks · an empty last block · crc32 and length of the plain bytes

A run of chunks that compress is made by igzip; a chunk that looks like those before it, which did not compress, becomes
stored blocks, at a third of the cost. The choice depends on the bytes alone.

Source: RFC 1951 (3.2.4 stored blocks), RFC 1952.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

from isal import isal_zlib

LEVEL = 2  # of igzip: about gzip -3 in size, ten times its speed
RAW = -15  # wbits: deflate without a frame
HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time, no system
LAST = b"\x03\0"  # an empty block that says it is the last
STORED_MAX = 65535  # bytes of one stored block
POOR = 0.97  # of its size: not worth decompressing
SAMPLE = 32 * 1024


def gzipped(plain: Iterable[bytes]) -> Iterator[bytes]:
    """Compress chunks of some size (a MiB, say). Each chunk is used before the next one is asked for."""
    crc, length = 0, 0
    run = None  # the compressor, while chunks compress
    poor = True  # the last chunk did not; the first is looked at too
    yield HEADER
    for chunk in plain:
        crc = zlib.crc32(chunk, crc)
        length += len(chunk)
        if poor and _incompressible(chunk):
            if run is not None:
                yield run.flush(isal_zlib.Z_FULL_FLUSH)  # to a whole byte
                run = None
            yield _stored(chunk)
            continue
        if run is None:  # a new one: distances must not reach over stored blocks
            run = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, RAW)
        out = run.compress(chunk)
        poor = len(out) > POOR * len(chunk)
        if out:
            yield out
    if run is not None:
        yield run.flush(isal_zlib.Z_FULL_FLUSH)
    yield LAST + struct.pack("<II", crc, length & 0xFFFFFFFF)


def _incompressible(chunk: bytes) -> bool:
    """By a sample from its middle."""
    start = max(0, len(chunk) - SAMPLE) // 2
    sample = memoryview(chunk)[start : start + SAMPLE]
    return len(isal_zlib.compress(sample, 1)) > POOR * len(sample)


def _stored(chunk: bytes) -> bytes:
    view = memoryview(chunk)
    parts: list[bytes | memoryview] = []
    for at in range(0, len(chunk), STORED_MAX):
        piece = view[at : at + STORED_MAX]
        parts += [struct.pack("<BHH", 0, len(piece), len(piece) ^ 0xFFFF), piece]
    return b"".join(parts)
