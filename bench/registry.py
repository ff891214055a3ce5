"""Pull and push beside a Docker Engine: same registry program, same images, one interleaved run.

    mmdebstrap bookworm root.tar
    python -m bench.registry --vs /path/of/docker.sock [--root root.tar] [--rounds 3] [--memory]

The registry is Debian's docker-registry on loopback. Each push goes to an empty one; each pull follows the removal of
the image. `--memory` pulls four layers of 256 MiB and tells how far the daemon grew.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.run import Peer, ms, tar
from tests.support.engine import Engine
from tests.support.registry import Debian

NOBODY = {"X-Registry-Auth": "e30="}


@contextmanager
def registry() -> Iterator[Debian]:
    """An empty registry."""
    directory = Path(tempfile.mkdtemp(prefix="sampan-bench-registry-"))
    server = Debian(directory)
    try:
        yield server
    finally:
        server.close()
        shutil.rmtree(directory)


def docker_archive(name: str, layers: list[bytes]) -> bytes:
    """The tar that `docker load` takes: an image of these uncompressed layers."""
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{d}" for d in digests]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    files = {f"{d}/layer.tar": layer for d, layer in zip(digests, layers)}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": list(files)}]
    return tar({**files, "config.json": config, "manifest.json": json.dumps(manifest).encode()})


def load(peer: Peer, raw: bytes) -> None:
    answer = peer.call("POST", "/images/load", raw, headers={"Content-Type": "application/x-tar"})
    assert b"errorDetail" not in answer, answer[-300:]


def push(peer: Peer, image: str, host: str) -> float:
    peer.call("POST", f"/images/{image}/tag", repo=f"{host}/{image}", tag="1")
    took = ms(lambda: checked(peer.call("POST", f"/images/{host}/{image}/push", headers=NOBODY, tag="1")))
    peer.call("DELETE", f"/images/{host}/{image}:1")
    return took


def pull(peer: Peer, image: str, host: str) -> float:
    return ms(lambda: checked(peer.call("POST", "/images/create", fromImage=f"{host}/{image}", tag="1")))


def checked(answer: bytes) -> None:
    assert b'"error' not in answer, answer[-300:]


def measure(peers: list[Peer], image: str, rounds: int) -> None:
    """Print the rows of one image, which every peer has as `image:latest`."""
    pushes: list[list[float]] = [[] for _ in peers]
    pulls: list[list[float]] = [[] for _ in peers]
    for _ in range(rounds):
        for peer, kept in zip(peers, pushes):
            with registry() as cold:
                kept.append(push(peer, image, cold.host))
    with registry() as warm:
        push(peers[0], image, warm.host)
        for peer in peers:
            peer.call("DELETE", f"/images/{image}:latest")
        for turn in range(rounds + 1):
            for peer, kept in zip(peers, pulls):
                took = pull(peer, image, warm.host)
                if turn:
                    kept.append(took)
                peer.call("DELETE", f"/images/{warm.host}/{image}:1")
    for name, values in (("push", pushes), ("pull", pulls)):
        medians = [statistics.median(v) for v in values]
        cells = [f"{m:.0f} ({min(v):.0f} … {max(v):.0f})" for m, v in zip(medians, values)]
        ratio = f" {medians[0] / medians[1]:.2f} |" if len(medians) > 1 else ""
        print(f"| {name} {image} | " + " | ".join(cells) + f" |{ratio}", flush=True)


def resident_kib(pid: int, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def memory(engine: Engine, peer: Peer) -> None:
    """Print how far the daemon's resident memory rises above its start while it pulls 1 GiB."""
    layers = [tar({"blob": os.urandom(1 << 20) * 256 + bytes([i])}) for i in range(4)]
    load(peer, docker_archive("big:latest", layers))
    del layers
    with registry() as server:
        push(peer, "big", server.host)
        peer.call("DELETE", "/images/big:latest")
        pid = engine.pid_of("sampand")
        time.sleep(1)
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark begins anew
        before = resident_kib(pid, "VmRSS")
        took = pull(peer, "big", server.host)
        grown = resident_kib(pid, "VmHWM") - before
        print(f"\npull of 1 GiB in four layers: {took / 1e3:.1f} s, resident memory of sampand +{grown / 1024:.0f} MiB")
        peer.call("DELETE", f"/images/{server.host}/big:1")


def root_layer(path: Path | None) -> bytes:
    """The Debian root, or else a tar of /usr/lib/python3 and /usr/share, of the same kind."""
    if path is not None:
        return path.read_bytes()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for directory in ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/doc"):
            archive.add(directory, recursive=True)
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vs", help="socket of a Docker Engine to compare with")
    parser.add_argument("--root", type=Path, help="tar of a root file system")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    engine = Engine().start()
    try:
        peers = [Peer(str(engine.socket))] + ([Peer(options.vs)] if options.vs else [])
        images = {
            "twenty": [tar({f"f{i}": os.urandom(2 << 20)}) for i in range(20)],
            "many": [tar({f"f{i}": os.urandom(64 << 10)}) for i in range(120)],
            "root": [root_layer(options.root)],
        }
        print("| ms | Sampan |" + (" Docker | ratio |" if options.vs else ""))
        print("|---|---|" + ("---|---|" if options.vs else ""))
        for name, layers in images.items():
            raw = docker_archive(f"{name}:latest", layers)
            for peer in peers:
                load(peer, raw)
            measure(peers, name, options.rounds)
        if options.memory:
            memory(engine, peers[0])
    finally:
        engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
