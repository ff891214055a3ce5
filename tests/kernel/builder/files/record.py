"""Ask Docker Engine what the cases give, through both doors.

Usage: `python -m tests.kernel.builder.files.record SOCKET BUILDX`.

BUILDX: path of the docker-buildx plugin. Writes copies.json: for each case what is new or different in the image's file
system, and what is gone; or the error. Times are seconds relative to `T`, null where they are the time of the build.
The classic builder's answer is only kept where it differs.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.kernel.builder.files.cases import BASE, CASES, STAGES, T, make_context
from tests.support.tars import member, tar

HERE = Path(__file__).parent
IMAGE = "sampan-copies"
STUBS = re.compile(r"(dev|proc|sys|etc|\.dockerenv)(/|$)")
Tree = dict[str, list[Any]]
KINDS = {tarfile.SYMTYPE: "l", tarfile.LNKTYPE: "h", tarfile.DIRTYPE: "d", tarfile.CHRTYPE: "c", tarfile.FIFOTYPE: "p"}


class Recorder:
    def __init__(self, socket: str, buildx: str, context: Path) -> None:
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{socket}", "BUILDX_CONFIG": str(context.parent)}
        self.buildx = buildx
        self.context = context

    def run(self, *command: str, input: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command, env={**self.environment, **environment}, input=input.encode(), capture_output=True
        )

    def make_base(self) -> None:
        """An image of BASE on busybox, whose own files the answers leave out."""
        kinds = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE}
        members = [
            member(
                path,
                content.encode() if kind == "f" else b"",
                kind=kinds[kind],
                link=content if kind == "l" else "",
                mode=mode,
                uid=uid,
                gid=gid,
                mtime=T if time is None else time,
            )
            for path, (kind, mode, uid, gid, content, time) in BASE.items()
        ]
        directory = self.context.parent / "base"
        directory.mkdir(exist_ok=True)
        (directory / "base.tar").write_bytes(tar(*members))
        (directory / "Dockerfile").write_text("FROM busybox\nADD base.tar /\n")
        self.run(
            self.buildx, "build", "-q", "--provenance=false", "-t", f"{IMAGE}:base", str(directory)
        ).check_returncode()

    def tree(self, image: str) -> Tree:
        container = self.run("docker", "create", image, "/x").stdout.decode().strip()
        try:
            raw = self.run("docker", "export", container).stdout
        finally:
            self.run("docker", "rm", container)
        found: Tree = {}
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            for m in tar:
                path = m.name.strip("/")
                if not STUBS.match(path):
                    time = int(m.mtime) - T if m.mtime < T + 10**6 else None
                    found[path] = [KINDS.get(m.type, "f"), f"{m.mode:o}", m.uid, m.gid, m.size, m.linkname, time]
        return found

    def build(self, door: str, dockerfile: str, base: Tree) -> dict[str, Any]:
        for _ in range(5):
            answer = self.attempt(door, dockerfile, base)
            if "registry-1" not in answer.get("error", ""):
                return answer
            self.make_base()  # somebody pruned it
        raise SystemExit("the base image does not stay")

    def attempt(self, door: str, dockerfile: str, base: Tree) -> dict[str, Any]:
        image = f"{IMAGE}:case"
        flags = ("-q", "--no-cache", "-t", image, "-f", "-", str(self.context))
        if door == "buildkit":
            done = self.run(self.buildx, "build", "--provenance=false", *flags, input=dockerfile)
        else:
            done = self.run("docker", "build", *flags, input=dockerfile, DOCKER_BUILDKIT="0")
        if done.returncode:
            text = done.stderr.decode().strip().splitlines()[-1]
            return {"error": re.sub(r"/\S*/(merged|overlay2)", "", text).removeprefix("ERROR: failed to build: ")}
        found = self.tree(image)
        self.run("docker", "rmi", "-f", image)
        return {
            "new": {path: entry for path, entry in found.items() if base.get(path) != entry},
            "gone": [path for path in base if path not in found],
        }


def main(socket: str, buildx: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        context = Path(scratch) / "context"
        context.mkdir()
        make_context(context)
        recorder = Recorder(socket, buildx, context)
        recorder.make_base()
        base = recorder.tree(f"{IMAGE}:base")
        dockerfiles = {name: f"FROM {IMAGE}:base\n{text}\n" for name, text in CASES.items()}
        for name, (stage, text) in STAGES.items():
            dockerfiles[name] = f"FROM {IMAGE}:base AS s\n{stage}\nFROM {IMAGE}:base\n{text}\n"
        answers = {}
        for name, dockerfile in dockerfiles.items():
            answer = {door: recorder.build(door, dockerfile, base) for door in ("buildkit", "classic")}
            if answer["classic"] == answer["buildkit"]:
                del answer["classic"]
            answers[name] = answer
        (HERE / "copies.json").write_text(json.dumps(answers, indent=1, sort_keys=True) + "\n")
        recorder.run("docker", "rmi", "-f", f"{IMAGE}:base")


if __name__ == "__main__":
    main(*sys.argv[1:])
