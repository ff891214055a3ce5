"""What building costs, beside a Docker Engine when one is given: same clients, same contexts, interleaved.

    python -m bench.builder [--vs /path/of/docker.sock] [--buildx /path/of/docker-buildx] [--cases a,b] [--rounds 5]

`index` is of our own engine only: the processor time of one entry of a context, in microseconds. The others are wall
times in milliseconds, as a client waits for them; a case is a function of a `Side`, and more of them join here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.run import Peer, ms
from sampan.engine.builder.files import checksum, copy
from sampan.engine.builder.files.tartree import TarTree
from sampan.engine.builder.ops import Copy, FileOp, LocalOp, ScratchOp
from tests.support.engine import Engine
from tests.support.tars import tar_of

LABEL = "sampan-bench-build"
COLD = f"""\
FROM busybox
LABEL {LABEL}=1
WORKDIR /app
COPY . /app/
RUN echo one > /one
RUN echo two > /two
RUN cat /one /two
CMD ["sh"]
"""
BRANCHES = 12
STAGES = (
    "".join(
        f"FROM busybox AS s{number}\nRUN echo {number} > /out; cat /bin/busybox > /dev/null\n"
        for number in range(BRANCHES)
    )
    + f"FROM scratch\nLABEL {LABEL}=1\n"
    + "".join(f"COPY --from=s{number} /out /{number}\n" for number in range(BRANCHES))
)
CONTEXT = LocalOp(context="context")
EVERYTHING = Copy(source=CONTEXT, patterns=(".",), dest="/x")


class Contexts:
    """Directories of so many small files, and archives of them."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    def directory(self, files: int) -> Path:
        root = self.scratch / f"context-{files}"
        if not root.exists():
            for number in range(files):
                path = root / f"d{number // 100}" / f"f{number % 100}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{number} " * 200)
            (root / "Dockerfile").write_text(f"FROM scratch\nLABEL {LABEL}=1\nCOPY . /x\n")
        return root

    def archive(self, files: int) -> Path:
        path = self.scratch / f"context-{files}.tar"
        if not path.exists():
            with tarfile.open(path, "w") as tar:
                tar.add(self.directory(files), ".", filter=_as_clients)
        return path


def _as_clients(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """As Docker's clients write a context: whole seconds, root's."""
    member.mtime, member.uid, member.gid, member.uname, member.gname = int(member.mtime), 0, 0, "", ""
    return member


class Side:
    """One engine, with the clients that build on it."""

    def __init__(self, socket: str, contexts: Contexts, buildx: str) -> None:
        self.peer = Peer(socket)
        self.contexts = contexts
        self.buildx = buildx
        self.environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{socket}",
            "BUILDX_CONFIG": str(contexts.scratch / "buildx"),
        }

    def classic(self, files: int, **query: str) -> float:
        """POST /build of an archive that lies ready."""
        raw = self.contexts.archive(files).read_bytes()
        headers = {"Content-Type": "application/x-tar"}
        answers: list[bytes] = []
        took = ms(lambda: answers.append(self.peer.call("POST", "/build", raw, headers=headers, **query)))
        assert b"Successfully built" in answers[0], answers[0][-500:]
        return took

    def cold(self) -> float:
        """POST /build of seven steps without cache."""
        raw = tar_of({"Dockerfile": COLD.encode(), "a.txt": b"x" * 1000})
        headers = {"Content-Type": "application/x-tar"}
        answers: list[bytes] = []
        call = lambda: answers.append(self.peer.call("POST", "/build", raw, headers=headers, nocache="1", rm="1"))  # noqa: E731
        took = ms(call)
        assert b"Successfully built" in answers[0], answers[0][-500:]
        return took

    def stages(self) -> float:
        """docker buildx build of independent stages, without cache."""
        directory = self.contexts.scratch / "stages"
        directory.mkdir(exist_ok=True)
        (directory / "Dockerfile").write_text(STAGES)
        command = [self.buildx, "build", "-q", "--provenance=false", "--no-cache", str(directory)]
        return ms(lambda: subprocess.run(command, env=self.environment, check=True, capture_output=True))

    def bake(self, files: int, *flags: str) -> float:
        """docker buildx build of a directory."""
        command = [self.buildx, "build", "-q", "--provenance=false", *flags, str(self.contexts.directory(files))]
        return ms(lambda: subprocess.run(command, env=self.environment, check=True, capture_output=True))

    def cached(self, files: int) -> float:
        """The same archive again, everything in the cache."""
        self.peer.keep(f"cached-{files}", lambda: self.classic(files))
        return self.classic(files)

    def close(self) -> None:
        self.peer.call("POST", "/images/prune", filters=f'{{"label":["{LABEL}"],"dangling":["true"]}}')


def cold(side: Side) -> float:
    """classic build, seven steps, three of them RUN, no cache"""
    return side.cold()


def cached_500(side: Side) -> float:
    """classic build, fully cached, a context of 500 files"""
    return side.cached(500)


def cached_20000(side: Side) -> float:
    """classic build, fully cached, a context of 20,000 files"""
    return side.cached(20_000)


def copy_20000(side: Side) -> float:
    """docker buildx build --no-cache: COPY of 20,000 files"""
    return side.bake(20_000, "--no-cache")


def stages_12(side: Side) -> float:
    """docker buildx build --no-cache: twelve stages that do not need each other"""
    return side.stages()


CASES: dict[str, Callable[[Side], float]] = {
    case.__name__: case for case in (cold, cached_500, cached_20000, copy_20000, stages_12)
}
NEED_BUILDX = ("copy_20000", "stages_12")


def of_our_own(contexts: Contexts, rounds: int) -> None:
    """Microseconds of processor time an entry: reading a context, its checksum, copying it."""
    archive = str(contexts.archive(20_000))
    times: dict[str, list[float]] = {"index": [], "checksum": [], "copy": []}
    for number in range(rounds):
        tree = TarTree.open_file(archive, str(contexts.scratch))
        tree.close()
        began = time.thread_time()
        tree = TarTree.open_file(archive, str(contexts.scratch))
        entries = len(tree.entries())
        times["index"].append((time.thread_time() - began) / entries * 1e6)
        began = time.thread_time()
        checksum.checksum(tree, EVERYTHING)
        times["checksum"].append((time.thread_time() - began) / entries * 1e6)
        target = contexts.scratch / f"target-{number}"
        target.mkdir()
        fd = os.open(target, os.O_PATH | os.O_DIRECTORY)
        began = time.thread_time()
        copy.execute(FileOp(base=ScratchOp(), actions=(EVERYTHING,)), fd, {CONTEXT: tree})
        times["copy"].append((time.thread_time() - began) / entries * 1e6)
        os.close(fd)
        tree.close()  # targets are removed at the end: ext4 does not like to make files beside what was just removed
    for case, values in times.items():
        print(f"{case:<14} {statistics.median(values):8.1f} µs an entry   (best {min(values):.1f})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vs", default="", help="socket of a Docker Engine")
    parser.add_argument("--socket", default="", help="socket of a running Sampan; else one is started")
    parser.add_argument("--buildx", default=shutil.which("docker-buildx") or "", help="the docker-buildx plugin")
    parser.add_argument("--cases", default="", help=f"of index, {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    wanted = arguments.cases.split(",") if arguments.cases else ["index", *CASES]
    scratch = Path(tempfile.mkdtemp(prefix="sampan-bench-build-"))
    contexts = Contexts(scratch)
    engine: Engine | None = None
    try:
        if "index" in wanted:
            of_our_own(contexts, arguments.rounds)
        if not arguments.socket and set(wanted) & set(CASES):
            engine = Engine().start()
            engine.import_busybox()
        sockets = [arguments.socket or (str(engine.socket) if engine else ""), *filter(None, [arguments.vs])]
        sides = [Side(socket, contexts, arguments.buildx) for socket in sockets if socket]
        for name in wanted:
            case = CASES.get(name)
            if case is None or not sides:
                continue
            if name in NEED_BUILDX and not arguments.buildx:
                print(f"{name:<14} not measured: no docker-buildx (--buildx)")
                continue
            values: list[list[float]] = [[] for _ in sides]
            for side in sides:
                case(side)  # warm
            for _ in range(arguments.rounds):
                for side, own in zip(sides, values):
                    own.append(case(side))
            medians = [statistics.median(own) for own in values]
            ratio = f"   ratio {medians[0] / medians[1]:.2f}" if len(medians) > 1 else ""
            print(f"{name:<14} " + "  ".join(f"{m:8.1f} ms" for m in medians) + f"{ratio}   {case.__doc__}", flush=True)
        for side in sides:
            side.close()
    finally:
        if engine is not None:
            engine.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
