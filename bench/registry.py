"""Images in and out beside a Docker Engine: same registry program, same images, one interleaved run.

    mmdebstrap bookworm root.tar
    python -m bench.registry --vs /path/of/docker.sock [--root root.tar] [--rounds 3] [--cases pull,push] [--memory]

Images: `root` is the given tar as one layer, `parts` its files in twenty; `files` has 4,000 in one layer of 125 MiB,
`twenty` twenty layers of 2 MiB, `many` 120 of 64 KiB; what these three hold does not compress.

The registry is Debian's docker-registry on loopback. Each push goes to an empty one; each pull, load and import
follows the removal of the image, and a pause: what an engine does behind its answers is not billed to the other.
`--memory` pulls four layers of 256 MiB and tells how far the daemon grew. The first round warms up and does not count.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import socket
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.run import Peer, ms
from tests.support.engine import Engine
from tests.support.registry import Debian
from tests.support.tars import tar_of

PAUSE_S = 0.5
TARGETS = {"load": 0.5, "save": 0.5, "push": 0.5, "pull": 0.5, "import": 0.33}  # of Docker's time
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
    return tar_of({**files, "config.json": config, "manifest.json": json.dumps(manifest).encode()})


def load(peer: Peer, raw: bytes) -> None:
    answer = peer.call("POST", "/images/load", raw, headers={"Content-Type": "application/x-tar"})
    assert b"errorDetail" not in answer, answer[-300:]


def checked(answer: bytes) -> None:
    assert b'"error' not in answer, answer[-300:]


def remove(peer: Peer, image: str) -> None:
    peer.call("DELETE", f"/images/{image}", force="1")
    time.sleep(PAUSE_S)


def push(peer: Peer, image: str, host: str) -> float:
    peer.call("POST", f"/images/{image}/tag", repo=f"{host}/{image}", tag="1")
    took = ms(lambda: checked(peer.call("POST", f"/images/{host}/{image}/push", headers=NOBODY, tag="1")))
    peer.call("DELETE", f"/images/{host}/{image}:1")
    return took


def pull(peer: Peer, image: str, host: str) -> float:
    return ms(lambda: checked(peer.call("POST", "/images/create", fromImage=f"{host}/{image}", tag="1")))


def save(peer: Peer, image: str) -> float:
    """Read to the end without looking at it, so that the client costs next to nothing."""
    buffer = bytearray(1 << 20)
    received = 0

    def drain() -> None:
        nonlocal received
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(peer.socket_path)
            client.sendall(f"GET /v1.41/images/{image}/get HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            while got := client.recv_into(buffer):
                received += got

    took = ms(drain)
    assert received > 1 << 20, bytes(buffer[:300])
    return took


def import_(peer: Peer, raw: bytes, name: str) -> float:
    query = {"fromSrc": "-", "repo": name, "tag": "x"}
    headers = {"Content-Type": "application/x-tar"}
    return ms(lambda: checked(peer.call("POST", "/images/create", raw, headers=headers, **query)))


class Table:
    """The rows: what was asked for, medians, ratio and target."""

    def __init__(self, peers: list[Peer], rounds: int, cases: list[str]) -> None:
        self.peers = peers
        self.rounds = rounds
        self.cases = cases
        print("| ms | Sampan |" + (" Docker | ratio | target |" if len(peers) > 1 else ""))
        print("|---|---|" + ("---|---|---|" if len(peers) > 1 else ""))

    def row(self, case: str, name: str, once: Callable[[Peer], float]) -> None:
        """Run `once` on every peer in turn and print the row."""
        if case not in self.cases:
            return
        values: list[list[float]] = [[] for _ in self.peers]
        for turn in range(self.rounds + 1):
            for peer, kept in zip(self.peers, values):
                took = once(peer)
                if turn:
                    kept.append(took)
        medians = [statistics.median(v) for v in values]
        cells = [f"{m:.0f} ({min(v):.0f} … {max(v):.0f})" for m, v in zip(medians, values)]
        ratio = f" {medians[0] / medians[1]:.2f} | ≤ {TARGETS[case]} |" if len(medians) > 1 else ""
        print(f"| {case} {name} | " + " | ".join(cells) + f" |{ratio}", flush=True)


def measure(table: Table, image: str, layers: list[bytes]) -> None:
    """The rows of one image. Leaves nothing of it."""
    raw = docker_archive(f"{image}:latest", layers)

    def load_once(peer: Peer) -> float:
        remove(peer, f"{image}:latest")
        return ms(lambda: load(peer, raw))

    def push_once(peer: Peer) -> float:
        with registry() as cold:
            return push(peer, image, cold.host)

    for peer in table.peers:
        load(peer, raw)
    table.row("load", image, load_once)
    table.row("save", image, lambda peer: save(peer, image))
    table.row("push", image, push_once)
    with registry() as warm:
        push(table.peers[0], image, warm.host)
        for peer in table.peers:
            remove(peer, f"{image}:latest")

        def pull_once(peer: Peer) -> float:
            took = pull(peer, image, warm.host)
            remove(peer, f"{warm.host}/{image}:1")
            return took

        table.row("pull", image, pull_once)


def measure_import(table: Table, name: str, raw: bytes) -> None:
    def once(peer: Peer) -> float:
        took = import_(peer, raw, "bench-import")
        remove(peer, "bench-import:x")
        return took

    table.row("import", name, once)


def resident_kib(pid: int, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def memory(engine: Engine) -> None:
    """Print how far the resident memory of a daemon that has just started rises while it pulls 1 GiB in four layers."""
    peer = Peer(str(engine.socket))
    layers = [tar_of({"blob": os.urandom(1 << 20) * 256 + bytes([i])}) for i in range(4)]
    load(peer, docker_archive("big:latest", layers))
    del layers
    with registry() as server:
        push(peer, "big", server.host)
        remove(peer, "big:latest")
        fresh = Engine().start()
        try:
            peer = Peer(str(fresh.socket))
            pid = fresh.pid_of("sampand")
            for turn in ("first", "second"):
                time.sleep(2)
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark begins anew
                before = resident_kib(pid, "VmRSS")
                took = pull(peer, "big", server.host)
                peak = resident_kib(pid, "VmHWM")
                print(
                    f"\n{turn} pull of 1 GiB in four layers: {took / 1e3:.1f} s, resident memory of sampand "
                    f"{before / 1024:.0f} → {peak / 1024:.0f} MiB at most: +{(peak - before) / 1024:.0f} MiB"
                )
                remove(peer, f"{server.host}/big:1")
        finally:
            fresh.close()


def root_layer(path: Path | None) -> bytes:
    """The Debian root, or else a tar of /usr/lib/python3 and /usr/share, of the same kind."""
    if path is not None:
        return path.read_bytes()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for directory in ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/doc"):
            archive.add(directory, recursive=True)
    return out.getvalue()


def parts(raw: bytes, count: int) -> list[bytes]:
    """An archive's files as `count` layers of about the same size."""
    layers = []
    with tarfile.open(fileobj=io.BytesIO(raw)) as source:
        members = [member for member in source if member.isreg()]
        total, done, at = sum(member.size for member in members), 0, 0
        for number in range(1, count + 1):
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w") as layer:
                while at < len(members) and done < total * number / count:
                    layer.addfile(members[at], source.extractfile(members[at]))
                    done += members[at].size
                    at += 1
            layers.append(out.getvalue())
    return layers


def files_layer() -> bytes:
    """125 MiB in 4,000 files."""
    blob = os.urandom(32 * 1024 - 8)
    return tar_of({f"d{i % 40}/f{i}": blob + i.to_bytes(8, "big") for i in range(4000)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vs", help="socket of a Docker Engine to compare with")
    parser.add_argument("--root", type=Path, help="tar of a root file system")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default=",".join(TARGETS))
    parser.add_argument("--images", default="twenty,many,parts,root,files")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    engine = Engine().start()
    try:
        peers = [Peer(str(engine.socket))] + ([Peer(options.vs)] if options.vs else [])
        table = Table(peers, options.rounds, options.cases.split(","))
        images: dict[str, Callable[[], list[bytes]]] = {
            "twenty": lambda: [tar_of({f"f{i}": os.urandom(2 << 20)}) for i in range(20)],
            "many": lambda: [tar_of({f"f{i}": os.urandom(64 << 10)}) for i in range(120)],
            "root": lambda: [root_layer(options.root)],
            "parts": lambda: parts(root_layer(options.root), 20),
            "files": lambda: [files_layer()],
        }
        for name in filter(None, options.images.split(",")):
            layers = images[name]()
            measure(table, name, layers)
            if len(layers) == 1:
                measure_import(table, name, layers[0])
        if options.memory:
            memory(engine)
    finally:
        engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
