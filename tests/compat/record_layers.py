"""Record what Docker makes of odd layers and odd images: `python -m tests.compat.record_layers HOST`.

layer_answers.json gets {case: files}: what a container of the loaded image has, name → what it is; or the words of the
refusal. HOST is the address of a Docker Engine 28.5.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any

import zstandard

from tests.compat.record_copies import TIME, _members
from tests.support.engine import Engine
from tests.support.tars import directory, member, symlink, tar, tar_of

ANSWERS = Path(__file__).with_name("layer_answers.json")
OCTAL_LIMIT = 0o7777777
Case = tuple[list[bytes], dict[str, Any]]  # layers as they are in the archive, and what is wrong about the rest

FILE = member("f", b"content", mtime=TIME)
BASE = tar(directory("d", mtime=TIME), member("d/one", b"1", mtime=TIME), symlink("l", "d"), member("f", b"base"))
PLAIN = tar(FILE)


def _raw(name: str, size: int, kind: bytes, body: bytes, extra: bytes = b"") -> bytes:
    """A member whose header the standard library would not write; extra: what stands at 386, old GNU's map."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mtime, info.mode = size, kind, TIME, 0o644
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    header[156:157] = kind
    header[386 : 386 + len(extra)] = extra
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + body + bytes(-len(body) % 512)


def _old_gnu() -> bytes:
    octal = [b"%011o\0" % n for n in (0, 3, 1000, 3, 2000, 0)]
    extra = b"".join(octal).ljust(96, b"\0") + b"\0" + b"%011o\0" % 2000
    return _raw("sparse", 6, b"S", b"abcxyz", extra) + bytes(1024)


def _pax_sparse(version: str) -> bytes:
    if version == "0.0":  # the same names again and again: written by hand
        records = [("GNU.sparse.size", "2000"), ("GNU.sparse.numblocks", "2")]
        for offset in ("0", "1000"):
            records += [("GNU.sparse.offset", offset), ("GNU.sparse.numbytes", "3")]
        lines = b""
        for key, value in records:
            rest = f" {key}={value}\n"
            length = len(rest) + 2
            lines += f"{length}{rest}".encode()
        return _raw("pax", len(lines), b"x", lines) + tar(member("sparse", b"abcxyz", mtime=TIME))
    if version == "0.1":
        fields = {"GNU.sparse.size": "2000", "GNU.sparse.numblocks": "2", "GNU.sparse.map": "0,3,1000,3"}
        fields["GNU.sparse.name"] = "sparse"
        return tar(member("x", b"abcxyz", mtime=TIME, pax_headers=fields))
    body = b"2\n0\n3\n1000\n3\n".ljust(512, b"\0") + b"abcxyz"
    fields = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse"}
    return tar(member("x", body, mtime=TIME, pax_headers={**fields, "GNU.sparse.realsize": "2000"}))


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def _skippable(data: bytes = b"skipped") -> bytes:
    return struct.pack("<II", 0x184D2A50, len(data)) + data


def cases() -> dict[str, Case]:
    """Every case by its name."""
    half = len(PLAIN) // 2
    file = [FILE]
    layers: dict[str, list[bytes]] = {
        "plain": [PLAIN],
        "gzip": [gzip.compress(PLAIN)],
        "gzip, zeros behind": [gzip.compress(PLAIN) + bytes(700)],
        "gzip, garbage behind": [gzip.compress(PLAIN) + b"garbage"],
        "gzip, two members": [gzip.compress(PLAIN[:half]) + gzip.compress(PLAIN[half:])],
        "gzip, an empty member behind": [gzip.compress(PLAIN) + gzip.compress(b"")],
        "gzip, cut": [gzip.compress(PLAIN)[:-5]],
        "gzip, wrong checksum": [gzip.compress(PLAIN)[:-8] + b"\0\1\2\3" + gzip.compress(PLAIN)[-4:]],
        "zstd": [_zstd(PLAIN)],
        "zstd, two frames": [_zstd(PLAIN[:half]) + _zstd(PLAIN[half:])],
        "zstd, skippable frame before": [_skippable() + _zstd(PLAIN)],
        "zstd, skippable frame behind": [_zstd(PLAIN) + _skippable()],
        "zstd, skippable frame between": [_zstd(PLAIN[:half]) + _skippable() + _zstd(PLAIN[half:])],
        "zstd, zeros behind": [_zstd(PLAIN) + bytes(700)],
        "zstd, garbage behind": [_zstd(PLAIN) + b"garbage"],
        "zstd, cut": [_zstd(PLAIN)[:-5]],
        "zeros behind the end": [PLAIN + bytes(20_000)],
        "garbage behind the end": [PLAIN + b"garbage" * 100],
        "no end": [PLAIN[: 512 * 2]],
        "one block of zeros as the end": [PLAIN[: 512 * 3]],
        "cut in a header": [PLAIN[:300]],
        "cut in a file": [PLAIN[: 512 + 4]],
        "empty": [b""],
        "only an end": [bytes(1024)],
        "a file twice": [tar(FILE, member("f", b"second", mode=0o600, mtime=TIME))],
        "a directory, then a file": [tar(directory("p"), member("p/q"), member("p", b"file", mtime=TIME))],
        "a file, then a directory": [tar(member("p", b"file"), directory("p", mtime=TIME), member("p/q", mtime=TIME))],
        "a directory twice": [tar(directory("p", 0o700), directory("p", 0o751, mtime=TIME), member("p/q", mtime=TIME))],
        "through a symlink below": [BASE, tar(member("l/new", b"n", mtime=TIME))],
        "through a symlink of its own": [tar(directory("r"), symlink("s", "r"), member("s/new", b"n", mtime=TIME))],
        "through a symlink that leads out": [tar(symlink("s", "/../../tmp"), member("s/new", b"n"))],
        "through a file": [tar(FILE, member("f/x", b"n"))],
        "a hard link to nothing": [tar(member("h", kind=tarfile.LNKTYPE, link="nothing"))],
        "a hard link to the layer below": [BASE, tar(member("h", kind=tarfile.LNKTYPE, link="d/one", mtime=TIME))],
        "a hard link to a symlink": [tar(symlink("s", "r", mtime=TIME), member("h", kind=tarfile.LNKTYPE, link="s"))],
        "a hard link to a directory": [tar(directory("p"), member("h", kind=tarfile.LNKTYPE, link="p"))],
        "a hard link to itself": [tar(FILE, member("f", kind=tarfile.LNKTYPE, link="f"))],
        "a hard link out of the root": [tar(member("h", kind=tarfile.LNKTYPE, link="../../etc/passwd"))],
        "device nodes": [
            tar(
                member("c", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mtime=TIME),
                member("b", kind=tarfile.BLKTYPE, devmajor=7, devminor=300, mtime=TIME),
                member("p", kind=tarfile.FIFOTYPE, mtime=TIME),
            )
        ],
        "an id above 2^31": [tar(member("f", b"x", uid=2**31 + 1, gid=2**31 + 2, mtime=TIME))],
        "an id of 2^32-1": [tar(member("f", b"x", uid=2**32 - 1, mtime=TIME))],
        "an id above 2^32": [tar(member("f", b"x", uid=2**32 + 5, mtime=TIME))],
        "an id above 2^21 in base 256": [
            tar(member("f", b"x", uid=OCTAL_LIMIT + 9, mtime=TIME), format=tarfile.GNU_FORMAT)
        ],
        "a global header": [_raw("g", 32, b"g", b"32 comment=something to be said\n") + PLAIN],
        "a global header that renames": [_raw("g", 14, b"g", b"14 path=other\n") + PLAIN],
        "a long name of GNU's": [tar(member("n" * 300, b"x", mtime=TIME), format=tarfile.GNU_FORMAT)],
        "a long link of GNU's": [tar(symlink("s", "t" * 300, mtime=TIME), format=tarfile.GNU_FORMAT)],
        "a long name of pax": [tar(member("n" * 200 + "/" + "m" * 200, b"x", mtime=TIME))],
        "sparse, old GNU": [_old_gnu()],
        "sparse, pax 0.0": [_pax_sparse("0.0")],
        "sparse, pax 0.1": [_pax_sparse("0.1")],
        "sparse, pax 1.0": [_pax_sparse("1.0")],
        "an empty name": [tar(member("", b"x"), *file)],
        "the name ./": [tar(directory("./", 0o700), *file)],
        "the name .": [tar(directory(".", 0o700), *file)],
        "an absolute name": [tar(member("/abs/f", b"x", mtime=TIME))],
        "a name with ./ before": [tar(directory("./p", mtime=TIME), member("./p/q", b"x", mtime=TIME))],
        "a name with ..": [tar(member("a/../b", b"x", mtime=TIME))],
        "a name that leads out": [tar(member("../../b", b"x", mtime=TIME))],
        "a name that is no UTF-8": [tar(member("n\udcff", b"x", mtime=TIME))],
        "a name with a newline": [tar(member("n\nm", b"x", mtime=TIME))],
        "a file with a slash at the end": [tar(member("p/", b"", mtime=TIME))],
        "a type that nobody knows": [tar(member("u", b"data", kind=b"Z"), *file)],
        "opaque in the first layer": [tar(directory("d"), member("d/.wh..wh..opq"), member("d/x", b"x", mtime=TIME))],
        "opaque before what is added": [
            BASE, tar(directory("d", mtime=TIME), member("d/.wh..wh..opq"), member("d/x", b"x", mtime=TIME)),
        ],
        "opaque after what is added": [
            BASE, tar(directory("d", mtime=TIME), member("d/x", b"x", mtime=TIME), member("d/.wh..wh..opq")),
        ],
        "opaque without its directory": [BASE, tar(member("d/.wh..wh..opq"))],
        "a whiteout of a file": [BASE, tar(member(".wh.f"))],
        "a whiteout of a directory": [BASE, tar(member(".wh.d"))],
        "a whiteout, then the same again": [
            BASE, tar(member(".wh.d"), directory("d", mtime=TIME), member("d/x", b"x", mtime=TIME)),
        ],
        "the same again, then a whiteout": [
            BASE, tar(directory("d", mtime=TIME), member("d/x", b"x", mtime=TIME), member(".wh.d")),
        ],
        "a whiteout of what is not there": [BASE, tar(member(".wh.nothing"), *file)],
        "a whiteout in the first layer": [tar(member(".wh.f"), *file)],
        "a whiteout through a symlink": [BASE, tar(member("l/.wh.one"))],
        "a whiteout that is a directory": [BASE, tar(directory(".wh.f"))],
        "a whiteout of nothing": [BASE, tar(member("d/.wh."))],
        "a whiteout of ..": [BASE, tar(member("d/.wh..."))],
        "aufs metadata": [tar(directory(".wh..wh.plnk"), member(".wh..wh.aufs"), *file)],
        "xattrs": [tar(member("f", b"x", mtime=TIME, pax_headers={"SCHILY.xattr.user.one": "1"}))],
        "a time before 1970": [tar(member("f", b"x", mtime=-5, pax_headers={"mtime": "-5"}))],
        "a huge time": [tar(member("f", b"x", pax_headers={"mtime": "99999999999999"}))],
        "a mode with all bits": [tar(member("f", b"x", mode=0o7777, mtime=TIME))],
    }  # fmt: skip
    found: dict[str, Case] = {name: (made, {}) for name, made in layers.items()}
    wrong = ["layer size", "layer digest", "config size", "config digest", "manifest size", "manifest digest"]
    for what in ("nothing", *wrong):
        found[f"an index with a wrong {what}" if what != "nothing" else "an index"] = ([PLAIN], {"index": what})
    found["an index that lists the manifest twice"] = ([PLAIN], {"index": "twice"})
    found["an index without a manifest"] = ([PLAIN], {"index": "none"})
    return found


def _docker(layers: list[bytes]) -> bytes:
    """The archive of `docker save`. Layers keep their diff id, whatever surrounds the compressed stream."""
    ids = [hashlib.sha256(_plain(layer)).hexdigest() for layer in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["x"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{id}" for id in ids]},
        }
    )
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": ["layer-case:x"], "Layers": names}]
    return tar_of({**dict(zip(names, layers)), "config.json": config, "manifest.json": json.dumps(manifest)})


def _plain(layer: bytes) -> bytes:
    """What Docker digests: all that the compressed stream holds."""
    try:
        if layer[:2] == b"\x1f\x8b":
            return gzip.decompress(layer.rstrip(b"\0") if layer.endswith(bytes(600)) else layer)
        if layer[:4] == b"\x28\xb5\x2f\xfd" or layer[:3] == b"\x50\x2a\x4d":
            with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(layer), read_across_frames=True) as reader:
                return reader.read()
    except (OSError, EOFError, zstandard.ZstdError):
        return PLAIN
    return layer


def _oci(layers: list[bytes], wrong: str) -> bytes:
    """An OCI layout whose descriptors may be wrong."""

    def described(kind: str, data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest() if wrong != f"{kind} digest" else "1" * 64
        blobs[f"blobs/sha256/{digest}"] = data
        return {
            "mediaType": f"application/vnd.oci.image.{media_type}",
            "digest": f"sha256:{digest}",
            "size": len(data) + (7 if wrong == f"{kind} size" else 0),
        }

    blobs: dict[str, bytes] = {}
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["x"]}, "rootfs": {}}
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config", json.dumps(config).encode(), "config.v1+json"),
        "layers": [described("layer", layer, "layer.v1.tar") for layer in layers],
    }
    one = described("manifest", json.dumps(manifest).encode(), "manifest.v1+json")
    one["annotations"] = {"io.containerd.image.name": "docker.io/library/layer-case:x"}
    listed = {"twice": [one, one], "none": []}.get(wrong, [one])
    index = json.dumps({"schemaVersion": 2, "manifests": listed})
    names = {"Config": "config.json", "RepoTags": ["layer-case:x"], "Layers": []}
    docker = {"manifest.json": json.dumps([names])} if wrong == "none" else {}
    return tar_of({"oci-layout": '{"imageLayoutVersion":"1.0.0"}', "index.json": index, **docker, **blobs})


def play(engine: Engine, case: Case) -> dict[str, str]:
    """Load a case and look at what a container of it has; {"refused": words}, {"failed": words} at its creation."""
    layers, wrong = case
    archive = _oci(layers, wrong["index"]) if wrong else _docker(layers)
    loaded = engine.request("POST", "/images/load", archive, headers={"Content-Type": "application/x-tar"}, quiet="1")
    if loaded.status != 200 or b"errorDetail" in loaded.raw:
        last = json.loads(loaded.raw.splitlines()[-1])
        return {"refused": str(last.get("error") or last.get("message"))}
    name = "layer-case:x"
    if engine.request("GET", f"/images/{name}/json").status != 200:
        return {"refused": "without a word"}
    try:
        made = engine.request("POST", "/containers/create", {"Image": name, "Cmd": ["x"]})
        if made.status != 201:
            return {"failed": made.message}
        try:
            exported = engine.request("GET", f"/containers/{made.json['Id']}/export")
            found = dict(_members("", exported.raw))
            return {
                k: v for k, v in found.items() if k.split("/")[1] not in ("dev", "proc", "sys", "etc", ".dockerenv")
            }
        finally:
            engine.remove(made.json["Id"])
    finally:
        engine.call("DELETE", f"/images/{name}", force="1")


def main() -> None:
    engine = Engine(Path("/nonexistent"))
    engine.socket = Path(sys.argv[1].removeprefix("unix://"))
    found = {name: play(engine, case) for name, case in cases().items()}
    ANSWERS.write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
