"""What comes from outside as an image: each field has its type, or the document is refused by name.

Verdicts and words: Docker Engine 28.5.2, `load` of an archive with such a configuration (time texts are ours).
SAMPAN_FUZZ: inputs a decoder is given; CI gives a few hundred.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import tarfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.engine import platforms
from sampan.engine.archives import tar
from sampan.engine.archives.streams import decompressed
from sampan.engine.images import archive
from sampan.errors import SampanError
from sampan.registry import manifests
from sampan.spec import image_document, oci_image, reference, times
from tests.kernel.images.archives import Bytes
from tests.support.tars import tar_of

FUZZ = settings(
    max_examples=int(os.environ.get("SAMPAN_FUZZ", "300")), deadline=None, suppress_health_check=list(HealthCheck)
)
DIFF_ID = "sha256:" + "0" * 64
DOCUMENT: dict[str, Any] = {
    "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z", "author": "a", "docker_version": "1",
    "config": {
        "Cmd": ["/x"], "Env": ["A=b"], "Labels": {"a": "b"}, "Volumes": {"/v": {}}, "ExposedPorts": {"80/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5}, "StopTimeout": 5, "User": "0", "WorkingDir": "/",
    },
    "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]},
    "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "x"}, {"empty_layer": True}],
}  # fmt: skip
ARRAY, OBJECT, STRING, NUMBER = [["a"], {"a": 1}, "text", 7]


def with_(path: str, value: Any) -> bytes:
    """The document with another value at a path of keys."""
    found = copy.deepcopy(DOCUMENT)
    *above, last = path.split("/")
    place = found
    for key in above:
        place = place.setdefault(key, {})
    place[last] = value
    return json.dumps(found).encode()


REFUSED = [
    ("created", "yesterday", "time"), ("created", "", "time"), ("created", "2024-02-30T00:00:00Z", "time"),
    ("created", NUMBER, "number into Go struct field Image.created of type time.Time"), ("Created", "nodate", "time"),
    ("author", ARRAY, "array into Go struct field Image.author of type string"),
    ("os.features", STRING, r"Image.os.features of type \[\]string"), ("architecture", NUMBER, "Image.architecture"),
    ("os", ARRAY, "Image.os"), ("variant", NUMBER, "Image.variant"), ("os.version", NUMBER, "Image.os.version"),
    ("docker_version", NUMBER, "docker_version"), ("container", NUMBER, "container"), ("comment", OBJECT, "comment"),
    ("config", [], "array into Go struct field Image.config of type container.Config"), ("config", STRING, "config"),
    ("config/Labels", ARRAY, r"Image.config.Labels of type map\[string\]string"),
    ("config/Labels", OBJECT, "number into Go struct field Image.config.Labels.a of type string"),
    ("config/Volumes", ARRAY, r"Image.config.Volumes of type map\[string\]struct {}"),
    ("config/Volumes", {"/v": 1}, r"Image.config.Volumes.~1v of type struct {}"),
    ("config/ExposedPorts", ARRAY, "Image.config.ExposedPorts of type nat.PortSet"),
    ("config/Env", STRING, r"Image.config.Env of type \[\]string"), ("config/Env", [1], "Image.config.Env.0 of type"),
    ("config/Env", OBJECT, "Env"), ("config/Cmd", [1], "array into Go value of type string"), ("config/Cmd", {}, "Go"),
    ("config/OnBuild", STRING, "OnBuild"), ("config/User", 0, "User"), ("config/WorkingDir", ARRAY, "WorkingDir"),
    ("config/StopSignal", 9, "StopSignal"), ("config/StopTimeout", "9", "StopTimeout of type int"),
    ("config/StopTimeout", 1.5, "number 1.5 into"), ("config/Tty", "yes", "Image.config.Tty of type bool"),
    ("config/Healthcheck", [], "v1.HealthcheckConfig"), ("config/Healthcheck/Test", "x", r"Healthcheck.Test of type"),
    ("config/Healthcheck/Interval", "5s", "time.Duration"), ("config/Hostname", 1, "Hostname"),
    ("container_config", [], "Image.container_config"), ("container_config", {"Cmd": 5}, "number into Go value"),
    ("history", ["x"], r"string into Image.history.0 of type v1.History"), ("history", {}, r"of type \[\]v1.History"),
    ("history", [{"created": "x"}], "time"), ("history", [{"created_by": ["x"]}], "Image.history.0.created_by"),
    ("history", [{"empty_layer": "no"}], "bool"), ("history", [{"comment": 1}], "comment"),
    ("rootfs", [], "image.RootFS"), ("rootfs", None, "no RootFS key"), ("rootfs/diff_ids", "x", r"\[\]layer.DiffID"),
    ("rootfs/diff_ids", [1], "Image.rootfs.diff_ids.0 of type layer.DiffID"), ("rootfs/type", 5, "Image.rootfs.type"),
    ("id", 5, "Image.id"), ("parent", 5, "Image.parent of type image.ID"), ("Size", "x", "Image.Size of type int64"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "words"), REFUSED)
def test_a_field_of_the_wrong_type_is_refused_by_its_name(path: str, value: Any, words: str) -> None:
    with pytest.raises(SampanError, match=words):
        image_document.read(with_(path, value))


@pytest.mark.parametrize(
    ("path", "value", "seen"),
    [
        ("created", None, None), ("os", "", ""), ("config", None, None), ("config/Labels", {"a": None}, {"a": ""}),
        ("config/Volumes", {"/v": None, "/w": {"x": 1}}, {"/v": {}, "/w": {}}), ("config/Env", [None], [""]),
        ("config/ExposedPorts", {"bad/port": {}}, {"bad/port": {}}), ("config/Cmd", "sh", ["sh"]),
        ("config/Entrypoint", "sh", ["sh"]), ("config/Shell", "sh", ["sh"]), ("config/Unknown", [1], [1]),
        ("history", None, None), ("history", [None], [{}]), ("history", [], []), ("rootfs/type", "other", "other"),
        ("config/cMD", ["y"], None),
    ],
)  # fmt: skip
def test_what_go_takes_is_taken_as_go_sees_it(path: str, value: Any, seen: Any) -> None:
    found: Any = image_document.read(with_(path, value))
    if path == "config/cMD":
        assert found["config"]["Cmd"] == ["y"], "keys match whatever their case, the last one wins"
        return
    for key in path.split("/"):
        found = found[key]
    assert found == seen


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b'{"a":' + b"[" * 20000, b'"x"', b"{}x", b"\xff{}", b"{}"])
def test_what_is_no_document_is_refused(raw: bytes) -> None:
    with pytest.raises(SampanError):
        image_document.read(raw)


# -- fuzzing: whatever the bytes, a value of its type or a refusal ----------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def spoiled(draw: st.DrawFn, document: Any) -> bytes:
    """A document's JSON with one or two values replaced, or with bytes changed."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        place = found
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = draw(JSON)
            break
    raw = bytearray(json.dumps(found).encode())
    for _ in range(draw(st.integers(0, 3))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 9)) == 0 else raw)


@FUZZ
@given(spoiled(DOCUMENT) | st.binary(max_size=64))
@pytest.mark.timeout(3600)
def test_fuzz_image_documents(raw: bytes) -> None:
    try:
        found = oci_image.decode(raw)
    except SampanError:
        return
    config = found.get("config") or {}
    assert all(isinstance(v, str) for v in (config.get("Labels") or {}).values())
    assert all(isinstance(v, str) for key in ("Env", "Cmd", "Entrypoint") for v in config.get(key) or ())
    assert not found.get("created") or isinstance(times.parse(found["created"]), int)
    assert all(isinstance(entry.get("created_by", ""), str) for entry in found.get("history") or ())
    assert all(isinstance(diff_id, str) for diff_id in oci_image.diff_ids(found))
    platforms.of(found)
    json.dumps(found)


MANIFEST = {
    "schemaVersion": 2,
    "mediaType": oci_image.DOCKER_MANIFEST,
    "config": {"mediaType": manifests.DOCKER_CONFIG, "size": 5, "digest": DIFF_ID},
    "layers": [{"mediaType": manifests.DOCKER_LAYER, "size": 5, "digest": DIFF_ID}],
}
INDEX = {
    "schemaVersion": 2,
    "mediaType": oci_image.MEDIA_INDEX,
    "manifests": [
        {
            "mediaType": oci_image.MEDIA_MANIFEST, "size": 5, "digest": DIFF_ID, "annotations": {"a": "b"},
            "platform": {"architecture": "amd64", "os": "linux", "variant": "v1"},
        }
    ],
}  # fmt: skip


@FUZZ
@given(spoiled(MANIFEST) | spoiled(INDEX) | st.binary(max_size=64), st.sampled_from(["", oci_image.MEDIA_INDEX, "x/y"]))
@pytest.mark.timeout(3600)
def test_fuzz_manifests(raw: bytes, media_type: str) -> None:
    try:
        manifests.parse(raw, media_type, "name")
    except SampanError:
        pass


@FUZZ
@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9./:@_-]{1,60}", fullmatch=True))
@pytest.mark.timeout(3600)
def test_fuzz_references(text: str) -> None:
    for parse in (reference.parse, reference.parse_any):
        try:
            str(parse(text))
        except SampanError:
            pass


@FUZZ
@given(st.data())
@pytest.mark.timeout(3600)
def test_fuzz_image_archives(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """An archive for `load`, its documents spoiled, then its bytes."""
    config = data.draw(spoiled(DOCUMENT))
    files = {"c.json": config, "l.tar": b"x", oci_image.digest(config).replace("sha256:", archive.BLOBS): config}
    listed = [{"Config": "c.json", "RepoTags": ["a:b"], "Layers": ["l.tar"], "Parent": DIFF_ID}]
    which = data.draw(st.sampled_from(["manifest.json", "index.json", "both"]))
    if which != "index.json":
        files["manifest.json"] = data.draw(spoiled(listed))
    if which != "manifest.json":
        manifest = data.draw(spoiled(MANIFEST))
        files[oci_image.digest(manifest).replace("sha256:", archive.BLOBS)] = manifest
        files["index.json"] = data.draw(spoiled(INDEX)).replace(DIFF_ID.encode(), oci_image.digest(manifest).encode())
    raw = bytearray(tar_of(files))
    for _ in range(data.draw(st.integers(0, 2))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    spooled = archive.Spooled(str(tmp_path_factory.getbasetemp()))
    try:
        spooled.fill(Bytes(bytes(raw)))
        for offer in spooled.offers(data.draw(st.sampled_from([None, platforms.HOST]))):
            for member in offer.layers:
                spooled.path(member)
    except SampanError:
        pass
    finally:
        spooled.remove()


@FUZZ
@given(st.integers(0, 2**32), st.integers(1, 30), st.sampled_from(["", "gz", "bz2", "xz"]))
@pytest.mark.timeout(3600)
def test_fuzz_archives_of_files(seed: int, changes: int, compression: str) -> None:
    """A tar of every kind of entry, compressed or not, with bytes changed: read to its end, or refused."""
    source = random.Random(seed)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=source.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as made:
        for number in range(source.randrange(4)):
            entry = tarfile.TarInfo(source.choice(["d/", "", "./", "é", "x" * 120]) + str(number))
            entry.type = source.choice([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
            entry.linkname, entry.uid = source.choice(["a", "y" * 130]), source.choice([0, 2**21, 2**31])
            entry.size = source.randrange(700) if entry.isreg() else 0
            made.addfile(entry, io.BytesIO(bytes(entry.size)))
    raw = bytearray(out.getvalue())
    for _ in range(changes):
        raw[source.randrange(min(len(raw), 4096))] = source.randrange(256)
    stored = bytes(raw)
    if compression:
        stored = __import__({"gz": "gzip", "bz2": "bz2", "xz": "lzma"}[compression]).compress(stored)
        if source.random() < 0.5:
            spoilt = bytearray(stored)
            spoilt[source.randrange(len(spoilt))] ^= 1 << source.randrange(8)
            stored = bytes(spoilt)
    try:
        reader = tar.Reader(tar.Input(decompressed(Bytes(stored), limit_bytes=1 << 24)))
        while (found := reader.next()) is not None:
            left = found.stored_bytes
            while left and (piece := reader.input.take(min(left, 65536))):
                left -= len(piece)
            if left:
                break
            reader.skip_padding(found.stored_bytes)
        else:
            reader.input.rest()
    except SampanError:
        pass
