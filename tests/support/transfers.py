"""Images between engines, registries and files, through the API, for any engine; and images to move."""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
import urllib.parse
from pathlib import Path
from typing import IO, Any, BinaryIO

from tests.support import registry
from tests.support.engine import Answer, Engine, UnixConnection
from tests.support.tars import tar_of

TAR = {"Content-Type": "application/x-tar"}
TIMEOUT_S = 120


def pull(engine: Engine, name: str, tag: str = "1", **more: Any) -> Answer:
    return engine.request("POST", "/images/create", fromImage=name, tag=tag, **more)


def push(engine: Engine, name: str, tag: str = "1", **more: Any) -> Answer:
    more.setdefault("headers", registry.header("", ""))  # Docker Engine up to 20.10 wants one
    return engine.request("POST", f"/images/{name}/push", tag=tag, **more)


def messages(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200, answer.raw
    return [json.loads(line) for line in answer.raw.splitlines()]


def states(answer: Answer) -> list[str]:
    """The statuses without moving bars."""
    found = [m.get("status", "") or m.get("error", "") for m in messages(answer) if "progress" not in m]
    assert not any("error" in m for m in messages(answer)), answer.raw[-500:]
    return found


def forget(engine: Engine, *names: str) -> None:
    for name in names:
        engine.request("DELETE", f"/images/{name}", force="1")


def import_file(engine: Engine, path: Path, name: str, tag: str = "1") -> str:
    """An image of one layer, made of a tar; returns its id."""
    query = urllib.parse.urlencode({"fromSrc": "-", "repo": name, "tag": tag})
    with path.open("rb") as file:
        lines = _upload(engine, f"/images/create?{query}", file)
    found: str = lines[-1]["status"]
    return found


def load(engine: Engine, path: Path) -> None:
    with path.open("rb") as file:
        _upload(engine, "/images/load?quiet=1", file)


def _upload(engine: Engine, path: str, file: BinaryIO) -> list[dict[str, Any]]:
    """A POST whose body is streamed; its messages, none of which is an error."""
    connection = UnixConnection(str(engine.socket), TIMEOUT_S)
    try:
        connection.request("POST", path, file, TAR, encode_chunked=True)
        response = connection.getresponse()
        lines = messages(Answer(response.status, response.headers, response.read()))
    finally:
        connection.close()
    assert not any("error" in line for line in lines), lines[-1]
    return lines


def save(engine: Engine, name: str, path: Path) -> None:
    connection = UnixConnection(str(engine.socket), TIMEOUT_S)
    try:
        connection.request("GET", f"/images/{name}/get")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        with path.open("wb") as file:
            while piece := response.read(1 << 20):
                file.write(piece)
    finally:
        connection.close()


def saved_layers(path: Path) -> list[tuple[str, str]]:
    """(id of the image, digest of the bytes) of every layer of an archive, base first: by its manifest.json."""
    with tarfile.open(path) as tar:

        def read(name: str) -> IO[bytes]:
            member = tar.extractfile(name)  # follows the links that older engines write
            assert member is not None, name
            return member

        found = []
        for item in json.load(read("manifest.json")):
            own = f"sha256:{hashlib.sha256(read(item['Config']).read()).hexdigest()}"
            for name in item["Layers"]:
                digest = hashlib.sha256()
                member = read(name)
                while piece := member.read(1 << 20):
                    digest.update(piece)
                found.append((own, f"sha256:{digest.hexdigest()}"))
        return found


# -- images to move -----------------------------------------------------------------------------------------------


def random_image(seed: int, *, layers: int, size: int) -> registry.Image:
    """An image of `layers` layers, each one file of `size` bytes that no compression makes smaller."""
    source = random.Random(seed)
    return registry.Image([registry.layer({f"f{seed}-{n}": source.randbytes(size)}) for n in range(layers)])


def deep_image(depth: int = 120) -> registry.Image:
    """An image of as many layers as Docker allows, nearly: each adds a file, changes one, and hides one of the layer
    before the last."""
    layers = []
    for n in range(depth):
        files = {f"own/{n}": bytes([n]) * (n + 1), "changed": f"by layer {n}\n".encode()}
        if n > 1:
            files[f"own/.wh.{n - 2}"] = b""
        layers.append(registry.layer(files))
    return registry.Image(layers, config={"Cmd": ["/bin/true"], "Labels": {"depth": str(depth)}})


def docker_archive(image: registry.Image, name: str, path: Path) -> None:
    """What `docker save` would write of an image, as far as `load` needs it."""
    layers = [f"{number}/layer.tar" for number in range(len(image.tars))]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": layers}]).encode()
    path.write_bytes(tar_of({**dict(zip(layers, image.tars)), "config.json": image.config, "manifest.json": manifest}))
