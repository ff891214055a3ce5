"""Every decoder of bytes that others have written: a value of its type, or its own named refusal, never anything else.

DECODERS is the list of them: what comes from registries, archives and clients' files, and what lies on the disk after
a crash. A new decoder gets a row. SAMPAN_FUZZ sets how many inputs each is given (300; 100000 in a long run).

What a decoder cannot be asked for without a whole engine has its own test: rows of the database in
tests/e2e/test_unreadable.py.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli.config import Config, ContextError
from sampan.cli.context import store as contexts
from sampan.client import jsontext
from sampan.daemon import config as daemon_config
from sampan.daemon.validation import ConfigError
from sampan.engine import platforms
from sampan.engine.archives import streams, tar
from sampan.engine.archives.streams import decompressed
from sampan.engine.builder import cacheconfig, cachefrom
from sampan.engine.builder.buildkit import history
from sampan.engine.builder.solver.records import CacheRecord
from sampan.engine.containers.records import Container
from sampan.engine.images import archive
from sampan.engine.images.known import KnownRecord
from sampan.engine.images.records import ImageRecord, TagRecord
from sampan.engine.layers import tarsplit
from sampan.engine.layers.records import LayerRecord, SnapshotRecord
from sampan.engine.networks.records import NetworkRecord, SandboxRecord
from sampan.engine.store import InvalidRecord, decode_row
from sampan.engine.volumes.records import Volume
from sampan.errors import SampanError
from sampan.registry import auth, challenges, index, manifests, refusals, repository, transport
from sampan.spec import oci_image, reference, times
from sampan.supervisor import layout
from sampan.supervisor.logs import decoders as log_decoders
from tests.kernel.images.archives import Bytes
from tests.support.spoiling import FUZZ, spoiled
from tests.support.tars import tar_of
from tests.unit.images.test_documents import DIFF_ID, DOCUMENT

DEEP = st.sampled_from([b"[" * 20_000, b'{"a":' * 20_000])
BYTES = st.binary(max_size=64) | DEEP


def wire(*documents: Any) -> st.SearchStrategy[bytes]:
    """Documents spoiled, any bytes, and nesting that no stack holds."""
    return st.one_of(*(spoiled(document) for document in documents), BYTES)


class Decoder(NamedTuple):
    """decode: raises nothing but `refuses`."""

    decode: Callable[[bytes, Path], object]
    inputs: st.SearchStrategy[bytes]
    refuses: tuple[type[Exception], ...] = (SampanError,)


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def _written(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """A decoder of a file: the bytes are put there first."""

    def decode(raw: bytes, directory: Path) -> object:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        return read(directory)

    return decode


def _row(type_: type[Any]) -> Decoder:
    """A row of the database, as the store decodes it."""
    decoder = msgspec.json.Decoder(type_)
    example = dict.fromkeys(type_.__struct_fields__, "x") | {"id": "x"}
    return Decoder(lambda raw, _: decode_row(decoder, "x", raw), wire(example), (InvalidRecord,))


def _replayed(directory: Path) -> int:
    (directory / "fs").mkdir(exist_ok=True)
    (directory / "fs/f").write_bytes(b"12345")
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return sum(map(len, tarsplit.replay(fd)))
    finally:
        os.close(fd)


def _split(index_: bytes, headers: bytes = b"h" * 600) -> bytes:
    """A tar-split file with this index."""
    first, second = zstandard.compress(headers), zstandard.compress(index_)
    return first + second + struct.pack("<QQ8s", len(first), 600, b"sampants")


PATHS = st.sampled_from(["fs/f", "", "../x", "fs", "\0", "fs/f/x"])
SEGMENTS = st.lists(st.tuples(st.integers(-5, 2**40), st.integers(-5, 2**40), PATHS), max_size=4)


def _token(raw: bytes, _: Path) -> object:
    return auth.read_token(auth.token_answer(raw), 0.0)


def _inline(raw: bytes, _: Path) -> object:
    config = {"moby.buildkit.cache.v0": base64.b64encode(raw).decode()}
    return cacheconfig.decode_inline(config, [DIFF_ID], [None])


def _history(raw: bytes, _: Path) -> object:
    return history._read(history.HistoryRecord(id="x", document=raw, created_ns=1))


def _log(kind: Callable[[], Any]) -> Callable[[bytes, Path], object]:
    def decode(raw: bytes, _: Path) -> object:
        decoder = kind()
        return decoder.decode(raw[: decoder.whole(raw)])

    return decode


def _meta(directory: Path) -> object:
    contexts.names(str(directory))
    return contexts.load(str(directory), "x")


META = os.path.relpath(os.path.join(contexts.meta_directory("/top", "x"), "meta.json"), "/top")
CACHE = {
    "layers": [{"blob": DIFF_ID, "parent": -1, "annotations": {"diffID": DIFF_ID}}],
    "records": [{"digest": DIFF_ID, "layers": [{"layer": 0}], "sampan": {"description": "x", "time": 5}}],
}
ZSTD = zstandard.compress(b"plain" * 100)
SPOILT_ZSTD = st.builds(lambda at, new: ZSTD[:at] + new + ZSTD[at:], st.integers(0, len(ZSTD)), st.binary(max_size=9))
TOKEN = {"token": "abc", "expires_in": 60}
URLS = st.from_regex(r"(https?:)?//[a-z\[\]:@0-9/?#%.]{0,20}", fullmatch=True).map(str.encode) | BYTES

DECODERS: dict[str, Decoder] = {
    # what registries answer
    "the answer of a token service": Decoder(_token, wire(TOKEN)),
    "the realm of a challenge": Decoder(lambda raw, _: auth.token_service(_text(raw), insecure=True), URLS),
    "WWW-Authenticate": Decoder(
        lambda raw, _: challenges.parse([_text(raw)]),
        st.from_regex(r'(Bearer|Basic) ([a-z]{1,4}="[^"]{0,9}",? ?){0,4}', fullmatch=True).map(str.encode) | BYTES,
        (),
    ),
    "Link": Decoder(
        lambda raw, _: repository.next_page(_text(raw), "https://h/v2/x"),
        URLS.map(lambda url: b"<" + url + b'>; rel="next"') | BYTES,
    ),
    "Location": Decoder(lambda raw, _: transport.joined("https://h/v2/x", _text(raw)), URLS),
    "Retry-After": Decoder(lambda raw, _: refusals.read(429, b"", retry_after=_text(raw)), BYTES, ()),
    "an error's body": Decoder(
        lambda raw, _: refusals.read(404, raw), wire({"errors": [{"code": "X", "message": "m", "detail": {}}]}), ()
    ),
    "a list of tags": Decoder(lambda raw, _: repository.read_tags(raw, "u"), wire({"name": "x", "tags": ["a"]})),
    "results of a search": Decoder(
        lambda raw, _: index.read_results(raw), wire({"results": [{"name": "n", "star_count": 1, "description": "d"}]})
    ),
    # what builders have cached
    "a cache config": Decoder(
        lambda raw, _: cacheconfig.decode(raw, {DIFF_ID: manifests.Descriptor("m", DIFF_ID, 5)}), wire(CACHE)
    ),
    "an inline cache": Decoder(_inline, wire(CACHE["records"])),
    "a cache manifest": Decoder(lambda raw, _: cachefrom._object(raw), wire({"manifests": []})),
    # streams
    "zstd frames": Decoder(
        lambda raw, _: b"".join(streams.frames(Bytes(raw, step=7).read)),
        SPOILT_ZSTD | BYTES,
    ),
    # files of the engine
    "a tar-split": Decoder(
        _written("tar-split", _replayed),
        SEGMENTS.map(lambda segments: _split(msgspec.msgpack.encode(segments))) | BYTES.map(_split) | BYTES,
    ),
    "a build's record": Decoder(_history, BYTES),
    "json-file": Decoder(
        _log(log_decoders.JsonFileDecoder),
        wire({"log": "x\n", "stream": "stdout", "time": "2024-01-01T00:00:00Z"}).map(lambda raw: raw + b"\n"),
        (),
    ),
    "shim.json": Decoder(
        _written("shim.json", lambda directory: layout.read_shim(str(directory))),
        wire({"version": 1, "boot_id": "b", "cgroup": "/x", "kind": "container"}),
        (),
    ),
    "exit.json": Decoder(
        _written("exit.json", lambda d: layout.read_json(f"{d}/exit.json", status=int, oom_killed=bool)),
        wire({"status": 1, "exited_at_ns": 5, "oom_killed": False}),
        (),
    ),
    # files of the user
    "daemon.json": Decoder(
        _written("d.json", lambda d: daemon_config.load({"config-file": f"{d}/d.json"})),
        wire({
            "debug": True, "log-opts": {"max-size": "1m"}, "dns": ["1.1.1.1"], "hosts": ["unix:///x"], "mtu": 1500,
            "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}], "labels": ["a=b"], "bip": "10.1.0.1/24",
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}, "runtimes": {"r": {"path": "/r"}},
            "insecure-registries": ["h:5000"], "registry-mirrors": ["https://m"], "features": {"buildkit": True},
        }),
        (ConfigError,),
    ),
    "config.json": Decoder(
        _written("config.json", lambda directory: Config(str(directory)).table("auths")),
        wire({"auths": {"h": {"auth": "YTpi"}}, "HttpHeaders": {"a": "b"}, "credHelpers": {}, "currentContext": "x"}),
        (),
    ),
    "meta.json": Decoder(
        _written(META, _meta),
        wire({"Name": "x", "Metadata": {}, "Endpoints": {"docker": {"Host": "unix:///x", "SkipTLSVerify": False}}}),
        (ContextError,),
    ),
    "JSON of the client": Decoder(lambda raw, _: jsontext.loads(raw), wire(TOKEN), (ValueError,)),
} | {
    f"a row of {name}": _row(type_)
    for name, type_ in {
        "images": ImageRecord, "tags": TagRecord, "known_blobs": KnownRecord, "layers": LayerRecord,
        "snapshots": SnapshotRecord, "containers": Container, "networks": NetworkRecord, "sandboxes": SandboxRecord,
        "volumes": Volume, "build_history": history.HistoryRecord, "build_cache": CacheRecord,
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.timeout(36_000)
def test_a_decoder_gives_a_value_or_its_own_refusal(name: str, tmp_path: Path) -> None:
    decoder = DECODERS[name]

    @FUZZ
    @given(decoder.inputs)
    def fuzz(raw: bytes) -> None:
        try:
            decoder.decode(raw, tmp_path)
        except decoder.refuses:
            pass

    fuzz()


# -- documents and archives of images ---------------------------------------------------------------------------------


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
