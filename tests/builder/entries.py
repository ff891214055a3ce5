"""The corpus of Dockerfiles: what an entry is, how it is given to a door, and what of a result is compared.

    corpus/good/NAME/     Dockerfile, the files of its context, answer.json; options.json when the build has options
    corpus/wrong/NAME/    the same, for a Dockerfile that cannot be built

    options.json   build_args, target, file (the Dockerfile's name), doors (only these), message: false (compare lines
                   only), lines: false (compare the message only), phase (where it is not what the classic door answers
                   by its status: `answered`), server: true (see server.py; its address is in the build
                   arguments SERVER and HOST, and as {HOST} in others), flags
                   (more of buildx's), query (more of the classic door's parameters)
    answer.json    by door: {"error", "lines"} or {"config", "tree", "deleted"}; "phase": parse or solve, of what is
                   wrong

`record.py` writes the answers: what Docker Engine said and made. A tree is compared with the base image taken away, and
without times. Both engines have the same base image, `corpus:base`.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.builder import server
from tests.support import busybox, clients
from tests.support.engine import Engine

CORPUS = Path(__file__).parent / "corpus"
BASE = "corpus:base"
NOT_CONTEXT = ("options.json", "answer.json")
REFUSAL = "requires BuildKit"
_FAILURE = re.compile(r"^ERROR: (?:failed to build: )?(?:failed to solve: )?(.*)", re.MULTILINE | re.DOTALL)
_POINTED = re.compile(r"^ *(\d+) \| >>>", re.MULTILINE)
_RANDOM = re.compile(r"ref \S+: ")
_SERVER = re.compile(r"127\.0\.0\.1:\d{4,}")
_ROOT = re.compile(r"/\S*/overlay2/\w+/merged(?=/)")


@dataclass(frozen=True)
class Entry:
    kind: str
    name: str

    @property
    def directory(self) -> Path:
        return CORPUS / self.kind / self.name

    @property
    def options(self) -> dict[str, Any]:
        path = self.directory / "options.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @property
    def answer(self) -> dict[str, Any]:
        return dict(json.loads((self.directory / "answer.json").read_text()))

    @property
    def file(self) -> str:
        return str(self.options.get("file", "Dockerfile"))

    @property
    def text(self) -> bytes:
        return (self.directory / self.file).read_bytes()

    @property
    def doors(self) -> tuple[str, ...]:
        return tuple(self.options.get("doors", ("classic", "buildkit")))


def entries(kind: str) -> list[Entry]:
    return [Entry(kind, path.name) for path in sorted((CORPUS / kind).iterdir()) if path.is_dir()]


def import_base(engine: Engine) -> dict[str, list[Any]]:
    """Bring the base image into an engine and return its tree."""
    query = {"fromSrc": "-", "repo": "corpus", "tag": "base", "changes": 'CMD ["/bin/sh"]'}
    headers = {"Content-Type": "application/x-tar"}
    answer = engine.request("POST", "/images/create", busybox.root_tar(), headers=headers, **query)
    assert answer.status == 200 and b"errorDetail" not in answer.raw, answer.raw
    return tree(engine, BASE)


# ── the doors ────────────────────────────────────────────────────────────────────────────────────────────────────────


def materialise(entry: Entry, directory: Path) -> Path:
    """The entry's context with the modes that it has in every checkout: 0644, 0755 for programs and directories."""
    context = directory / entry.name
    shutil.copytree(entry.directory, context, symlinks=True, ignore=shutil.ignore_patterns(*NOT_CONTEXT))
    for path in [context, *context.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return context


def archive(context: Path) -> bytes:
    """A context as the classic client sends it; .dockerignore is the engine's work then."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(context.rglob("*")):
            item = tar.gettarinfo(path, str(path.relative_to(context)))
            item.uid = item.gid = item.mtime = 0
            item.uname = item.gname = ""
            with path.open("rb") if item.isreg() else io.BytesIO() as data:
                tar.addfile(item, data)
    return out.getvalue()


def build_classic(engine: Engine, entry: Entry, context: Path, tag: str) -> tuple[str, str]:
    """POST /build. The error, or "" when it built; and the phase it arose in: the text is refused before
    anything runs.
    """
    query: dict[str, Any] = {"t": tag, "networkmode": "none", "forcerm": "1", "dockerfile": entry.file}
    if "target" in entry.options:
        query["target"] = entry.options["target"]
    query |= entry.options.get("query", {})
    headers = {"Content-Type": "application/x-tar"}
    with _build_args(entry) as given:
        if given:
            query["buildargs"] = json.dumps(given)
        answer = engine.request("POST", "/build", archive(context), headers=headers, **query)
    if answer.status != 200:
        return _plain(answer.message), "parse"
    lines = [json.loads(line) for line in answer.raw.splitlines() if line.strip()]
    errors = [str(line["errorDetail"]["message"]) for line in lines if "errorDetail" in line]
    return _plain(errors[0]) if errors else "", "solve"


def build_buildx(engine: Engine, entry: Entry, context: Path, tag: str) -> tuple[str, list[int]]:
    """`docker buildx build` with its docker driver. The error and the lines it points at, or ("", [])."""
    argv = ["build", "--progress=plain", "--network=none", "--tag", tag, "--file", str(context / entry.file)]
    if "target" in entry.options:
        argv += ["--target", entry.options["target"]]
    argv += entry.options.get("flags", [])
    environment = {**engine.environment, "BUILDX_BUILDER": "default", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    with _build_args(entry) as given:
        argv += [f"--build-arg={name}={value}" for name, value in given.items()]
        done = subprocess.run(
            [*buildx(), *argv, str(context)], capture_output=True, text=True, env=environment, timeout=120, check=False
        )
    if done.returncode == 0:
        return "", []
    failure = _FAILURE.search(done.stderr)
    assert failure, done.stderr[-3000:]
    excerpts = done.stderr[: failure.start()].rpartition("\n------\n")[2]
    pointed = sorted({int(number) for number in _POINTED.findall(excerpts)})
    return _plain(failure[1].strip("\n")), pointed


def _plain(message: str) -> str:
    """A message without what is another one each time: names of builds, the server's port, a root file system."""
    return _SERVER.sub("SERVER", _ROOT.sub("", _RANDOM.sub("ref X: ", message)))


@contextmanager
def _build_args(entry: Entry) -> Iterator[dict[str, str]]:
    """The entry's build arguments; its web server runs as long as they are used."""
    given = entry.options.get("build_args", {})
    if not entry.options.get("server"):
        yield given
        return
    with server.serving() as address:
        host = address.removeprefix("http://")
        yield {
            **{name: value.replace("{HOST}", host) for name, value in given.items()},
            "SERVER": address,
            "HOST": host,
        }


def buildx() -> list[str]:
    """How to call buildx."""
    return [str(clients.buildx())]


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def config(engine: Engine, image: str) -> dict[str, Any]:
    """What the image's configuration says, without what is empty."""
    found = engine.call("GET", f"/images/{image}/json")["Config"]
    return {
        key: value for key, value in sorted(found.items()) if value not in (None, "", [], {}, False) and key != "Image"
    }


def tree(engine: Engine, image: str) -> dict[str, list[Any]]:
    """Every path of an image: [type, mode, uid, gid, size, sha256 or target of a link]."""
    answer = engine.request("GET", f"/images/{image}/get")
    assert answer.status == 200, answer.raw[:500]
    found: dict[str, list[Any]] = {}
    with tarfile.open(fileobj=io.BytesIO(answer.raw)) as saved:
        member = saved.extractfile("manifest.json")
        assert member is not None
        for layer in json.load(member)[0]["Layers"]:
            data = saved.extractfile(layer)
            assert data is not None
            with tarfile.open(fileobj=io.BytesIO(data.read())) as tar:
                _apply(tar, found)
    return found


def _apply(tar: tarfile.TarFile, found: dict[str, list[Any]]) -> None:
    """One layer on top of a tree."""
    for item in tar:
        path = item.name.strip("/").removeprefix("./") or "."
        parent, _, name = path.rpartition("/")
        if name.startswith(".wh."):
            gone = parent if name == ".wh..wh..opq" else f"{parent}/{name[4:]}".lstrip("/")
            _remove(found, gone, itself=name != ".wh..wh..opq")
            continue
        if path in found and (not item.isdir() or found[path][0] != "dir"):
            _remove(found, path, itself=True)
        if item.islnk():
            found[path] = found[item.linkname.strip("/").removeprefix("./")]
        else:
            found[path] = [_type(item), f"{item.mode & 0o7777:o}", item.uid, item.gid, *_content(tar, item)]


def _remove(found: dict[str, list[Any]], path: str, *, itself: bool) -> None:
    for known in [p for p in found if p.startswith(path + "/") or (itself and p == path)]:
        del found[known]


def _type(item: tarfile.TarInfo) -> str:
    for name in ("dir", "sym", "chr", "blk", "fifo"):
        if getattr(item, f"is{name}")():
            return name
    return "file"


def _content(tar: tarfile.TarFile, item: tarfile.TarInfo) -> list[Any]:
    if item.issym():
        return [0, item.linkname]
    data = tar.extractfile(item) if item.isreg() else None
    return [item.size, hashlib.sha256(data.read()).hexdigest() if data else ""]


def difference(base: dict[str, list[Any]], made: dict[str, list[Any]]) -> dict[str, Any]:
    """What a build did to the base: what is new or other, and what is gone."""
    return {
        "tree": {path: item for path, item in sorted(made.items()) if base.get(path) != item},
        "deleted": sorted(set(base) - set(made)),
    }
