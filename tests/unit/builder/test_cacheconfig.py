"""Cache documents: what is written comes back, another builder's records are skipped, nonsense is refused."""

from __future__ import annotations

import base64
import json

import pytest

from sampan.engine.builder import cacheconfig
from sampan.engine.builder.cacheconfig import Blob, CacheConfig, ConfigRecord
from sampan.errors import InvalidArgument
from sampan.registry.manifests import Descriptor

ONE, TWO = Descriptor("layer", "sha256:1", 11), Descriptor("layer", "sha256:2", 22)
CONFIG = CacheConfig(
    records=(
        ConfigRecord(key="sha256:a", layer=1, time_ns=1_700_000_000_123_456_789, description="RUN x"),
        ConfigRecord(key="sha256:b", layer=-1, time_ns=5, empty=True),
    ),
    layers=(Blob(diff_id="d1", parent=-1, descriptor=ONE), Blob(diff_id="d2", parent=0, descriptor=TWO)),
)


def test_round_trip() -> None:
    assert cacheconfig.decode(cacheconfig.encode(CONFIG), {"sha256:1": ONE, "sha256:2": TWO}) == CONFIG
    assert [blob.diff_id for blob in CONFIG.chain(1)] == ["d1", "d2"] and CONFIG.chain(-1) == []


def test_the_document_is_buildkits() -> None:
    document = json.loads(cacheconfig.encode(CONFIG))
    assert document["layers"][1] == {
        "blob": "sha256:2",
        "parent": 0,
        "annotations": {"mediaType": "layer", "diffID": "d2", "size": 22},
    }
    first = document["records"][0]
    assert first["digest"] == "sha256:a"
    assert first["layers"] == [{"layer": 1, "createdAt": "2023-11-14T22:13:20.123456789Z"}]


def test_inline() -> None:
    text = cacheconfig.inline(CONFIG.records)
    found = cacheconfig.decode_inline({cacheconfig.INLINE: text}, ["d1", "d2"], [None, None])
    assert found.records == CONFIG.records and [blob.parent for blob in found.layers] == [-1, 0]
    assert cacheconfig.decode_inline({}, ["d1"], [None]).records == ()


def test_what_buildkit_wrote_is_read_and_not_used() -> None:
    records = [{"digest": "sha256:x"}, {"layers": [{"layer": 1}], "digest": "sha256:y", "inputs": [[{"link": 0}]]}]
    text = base64.b64encode(json.dumps(records).encode()).decode()
    assert cacheconfig.decode_inline({cacheconfig.INLINE: text}, ["d"], [None]).records == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"{", b"[]", b'{"layers":7}', b'{"layers":[7]}', b'{"records":[1]}', b'{"layers":[{"blob":"sha256:9"}]}',
        b'{"layers":[{"blob":"sha256:1","parent":"x","annotations":{"diffID":"d"}}]}', b"\xff",
    ],
)  # fmt: skip
def test_nonsense_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidArgument, match="invalid cache config"):
        cacheconfig.decode(raw, {"sha256:1": ONE})


def test_layers_in_a_circle_are_refused() -> None:
    circle = CacheConfig(records=(), layers=(Blob(diff_id="a", parent=1), Blob(diff_id="b", parent=0)))
    with pytest.raises(InvalidArgument, match="a layer that is none"):
        circle.chain(0)
    with pytest.raises(InvalidArgument, match="a layer that is none"):
        circle.chain(2)
    with pytest.raises(InvalidArgument, match="invalid inline cache"):
        cacheconfig.decode_inline({cacheconfig.INLINE: "*"}, [], [])
