"""Our gzip, read by the standard library's."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest

from sampan.engine.archives.gzipped import gzipped

MIB = 1 << 20
noise = random.Random(7).randbytes
TEXT = b"".join(b"line %d of a text that compresses\n" % i for i in range(MIB // 32))


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [b"x"],
        [noise(10)],
        [TEXT] * 3,
        [noise(MIB) for _ in range(4)],
        [noise(MIB), noise(MIB), TEXT, TEXT, noise(MIB), noise(MIB), noise(100_000), TEXT[:7]],
        [noise(65535), noise(65535), noise(65536), noise(131070), noise(1)],
    ],
    ids=["nothing", "byte", "few", "text", "noise", "both", "edges"],
)
def test_what_goes_in_comes_out(chunks: list[bytes]) -> None:
    plain = b"".join(chunks)
    packed = b"".join(gzipped(chunks))
    assert gzip.decompress(packed) == plain
    assert packed == b"".join(gzipped(chunks)), "the same bytes each time"
    reader = zlib.decompressobj(31)
    reader.decompress(packed)
    assert reader.eof and not reader.unused_data, "one member"


def test_noise_grows_by_next_to_nothing_and_text_shrinks() -> None:
    assert len(b"".join(gzipped([noise(MIB)] * 8))) < 8 * MIB * 1.0005
    assert len(b"".join(gzipped([TEXT] * 8))) < 8 * MIB * 0.3
    assert len(b"".join(gzipped([noise(MIB), noise(MIB), TEXT, TEXT]))) < 2.7 * MIB
