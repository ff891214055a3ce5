"""Record what `docker cp` does, line by line: `python -m tests.compat.record_copies DOCKER HOST`.

copy_lines.txt has the lines; copy_answers.json gets of each [line, exit code, standard error, tree], the tree being
what is then on both sides: {name: what it is} for names that are not as they were before, "" for what is gone, and the
members of the archive on standard output. Each line has a directory of its own, and one that writes to a container has
that for itself. HOST is the address of a Docker Engine 28.5 on this machine, which must see the directory TMPDIR;
DOCKER the 28.5 client.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support import busybox
from tests.support.engine import Answer as HttpAnswer
from tests.support.engine import Engine
from tests.support.tars import Member, directory, member, symlink, tar, tar_of

LINES = Path(__file__).with_name("copy_lines.txt")
ANSWERS = Path(__file__).with_name("copy_answers.json")
Answer = tuple[str, int, str, dict[str, str]]
IMAGE = "cp-lines"
TIME = 1_000_000_000
LOOKED_AT = ("/w", "/v")


def lines() -> list[str]:
    return [line for line in LINES.read_text().splitlines() if line and not line.startswith("#")]


def _image() -> bytes:
    """A root with the trees that the lines name."""
    files = {"w/f": b"f of w", "w/d/a": b"a of w", "w/d/sub/c": b"c of w", "w/x/one": b"1", "w/x/\udcff": b"byte"}
    links = {
        "lf": "f", "ld": "d", "labs": "/w/f", "ldabs": "/w/d", "dang": "nowhere", "loop": "loop", "lv": "/v",
        "lb": "/b", "lbf": "/b/have", "lbro": "../bro", "lbfile": "/bf",
    }  # fmt: skip
    members = [
        *(directory(name, mtime=TIME) for name in ("w", "w/d", "w/d/sub", "w/x", "v", "b", "bro", "vro", "t")),
        *(member(name, data, mtime=TIME, uid=7, gid=8) for name, data in files.items()),
        *(symlink(f"w/{name}", target, mtime=TIME) for name, target in links.items()),
        member("w/x/two", kind=tarfile.LNKTYPE, link="w/x/one", mtime=TIME, uid=7, gid=8),
        member("w/x/suid", b"s", mode=0o4711, mtime=TIME),
        member("w/fifo", kind=tarfile.FIFOTYPE, mtime=TIME),
        member("w/sp", b"\0" * 100_000 + b"end", mtime=TIME),
        member("bf", b""),
    ]
    root = busybox.root_tar()
    return root[: len(root.rstrip(b"\0")) + 511 & ~511] + tar(*members)


def archives() -> dict[str, bytes]:
    """What standard input is, by its name in the lines."""
    plain = tar(directory("p", 0o750, uid=5, gid=6, mtime=TIME), member("p/q", b"q", uid=5, gid=6, mtime=TIME))
    named: dict[str, list[Member]] = {
        "fileoverdir": [member("d", b"now a file", mtime=TIME)],
        "diroverfile": [directory("f", mtime=TIME), member("f/in", b"", mtime=TIME)],
        "links": [
            member("one", b"1", mtime=TIME),
            member("two", kind=tarfile.LNKTYPE, link="one", mtime=TIME),
            symlink("three", "one", mtime=TIME),
        ],
        "throughlink": [member("ld/through", b"t", mtime=TIME), member("lb/through", b"t", mtime=TIME)],
        "up": [member("../up", b"u", mtime=TIME)],
        "absolute": [member("/abs", b"u", mtime=TIME)],
        "dangling": [member("h", kind=tarfile.LNKTYPE, link="nothing")],
        "odd": [directory("./"), member("./dot", b".", mtime=TIME), member("\udcfe", b"b", mtime=TIME)],
        "twice": [member("t", b"first", mtime=TIME), member("t", b"2nd", mode=0o600, mtime=TIME)],
        "devices": [member("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mtime=TIME)],
        "attributes": [member("at", b"", mtime=TIME, pax_headers={"SCHILY.xattr.user.one": "1"})],
        "intomount": [member("lv/in", b"i", mtime=TIME)],
        "intomounts": [member("v/in", b"i", mtime=TIME), member("b/in", b"i", mtime=TIME)],
    }
    return {
        "plain": plain,
        "garbage": b"no archive" * 100,
        "empty": b"",
        "gz": tar_of({"z": b"z"}, compression="gz", mtime=TIME),
        "xz": tar_of({"z": b"z"}, compression="xz", mtime=TIME),
        "sparse": _sparse(),
        "cut": plain[:700],
    } | {name: tar(*members) for name, members in named.items()}


def _sparse() -> bytes:
    """GNU's sparse format 1.0: a map of regions before the data."""
    sparse_map = b"1\n1000\n3\n".ljust(512, b"\0")
    fields = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sp", "GNU.sparse.realsize": "2000"}
    return tar(member("GNUSparseFile.0/sp", sparse_map + b"end", mtime=TIME, pax_headers=fields))


def local(path: Path) -> None:
    """Make the local side of one line."""
    path.mkdir()
    (path / "d/sub").mkdir(parents=True)
    (path / "x").mkdir()
    (path / "over").mkdir()
    (path / "over2/f").mkdir(parents=True)
    for name, data in {"f": "local f", "d/a": "local a", "d/sub/c": "local c", "x/one": "1", "over/d": "file"}.items():
        (path / name).write_text(data)
    os.chown(path / "d/a", 3, 4)
    os.chmod(path / "d/sub", 0o700)
    os.link(path / "x/one", path / "x/two")
    with open(os.fsencode(path / "x") + b"/\xff", "wb") as file:
        file.write(b"byte")
    for name, target in {"lf": "f", "ld": "d", "dang": "nowhere"}.items():
        (path / name).symlink_to(target)
    for found in [*path.rglob("*"), path]:
        os.utime(found, (TIME, TIME), follow_symlinks=False)


class Player:
    """Plays lines with one client on one engine."""

    def __init__(self, program: str, engine: Engine, environment: dict[str, str], tmp: Path) -> None:
        self._program, self._engine, self._environment, self._tmp = program, engine, environment, tmp
        self._archives = archives()
        self._count = 0
        self._readers: dict[str, str] = {}  # containers that lines only read, by state
        self._before: dict[tuple[str, tuple[str, ...]], dict[str, str]] = {}  # a fresh container's, by state

    def prepare(self) -> None:
        """Import the image."""
        query = {"fromSrc": "-", "repo": IMAGE, "changes": 'CMD ["true"]'}
        done = self._engine.request(
            "POST", "/images/create", _image(), headers={"Content-Type": "application/x-tar"}, **query
        )
        assert done.status == 200 and b"errorDetail" not in done.raw, done.raw

    def close(self) -> None:
        """Remove what `prepare` made, and the containers that were only read."""
        for name in [*self._readers.values()]:
            self._remove(name)
        self._engine.call("DELETE", f"/images/{IMAGE}")

    def play(self, line: str) -> Answer:
        """Play a line with a directory of its own, and if it writes there, with a container of its own."""
        self._count += 1
        state, _, words = line.partition(": ")
        words, _, given = words.partition(" <<< ")
        here = self._tmp / str(self._count)
        here.mkdir()
        local(here / "l")
        if not words.rsplit(" ", 1)[1].startswith("{c}"):
            if state not in self._readers:
                self._readers[state] = self._made("cp-lines-r-" + state, state, self._tmp / state)
            name = self._readers[state]
            code, out, error, changed = self._copy(words, given, name, here, ())
        else:
            paths = (*LOOKED_AT, *re.findall("/etc/[a-z]+|/t(?=/)", line))
            name = self._made("cp-lines-w", state, here)
            try:
                if (state, paths) not in self._before:
                    self._before[state, paths] = dict(self._inside(name, paths))
                code, out, error, changed = self._copy(words, given, name, here, paths, self._before[state, paths])
            finally:
                self._remove(name)
        if words.endswith(" -"):
            changed |= dict(_members("-", out))
        error = error.replace(str(here), "{tmp}").replace(name, "cp-lines-c")
        return line, code, re.sub(r"time=.* level=error msg=.*\n", "", error), changed  # said when nobody reads on

    def _copy(
        self,
        words: str,
        given: str,
        container: str,
        here: Path,
        paths: tuple[str, ...],
        before: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[int, bytes, str, dict[str, str]]:
        """Return (exit code, standard output, standard error, what is otherwise afterwards)."""
        was = {**before, **dict(_local_tree(here))}
        argv = [word.format(c=container, l=here / "l") for word in shlex.split(words)]
        done = subprocess.run(
            [self._program, "cp", *argv],
            input=self._archives[given] if given else b"",
            capture_output=True,
            env=self._environment,
            timeout=60,
            check=False,
        )
        found = dict(self._inside(container, paths)) | dict(_local_tree(here))
        changed = {name: what for name, what in found.items() if was.get(name) != what}
        changed |= {name: "" for name in was if name not in found}
        return done.returncode, done.stdout, done.stderr.decode(errors="backslashreplace"), changed

    def _made(self, name: str, state: str, here: Path) -> str:
        """Make a container with files of its own for its binds; return its name."""
        for directory_ in (here / "b", here / "bro"):
            directory_.mkdir(parents=True)
            (directory_ / "have").write_text(f"have of {directory_.name}")
        (here / "bf").write_text("file that is mounted")
        for link, target in {"towf": "/w/f", "tow": "/w", "tov": "/v"}.items():
            (here / "b" / link).symlink_to(target)
        for found in [*here.rglob("b/*"), *here.rglob("bro/*"), here / "bf"]:
            os.utime(found, (TIME, TIME), follow_symlinks=False)
        binds = [f"{here}/b:/b", f"{here}/bro:/bro:ro", f"{here}/bf:/bf", f"{here}/b:/missing/deep"]
        host = {
            "Binds": [*binds, f"{name}-v:/v", f"{name}-vro:/vro:ro"],
            "Tmpfs": {"/t": ""},
            "ReadonlyRootfs": state.startswith("ro"),
            "NetworkMode": "none",
        }
        command = ["sleep", "100"] if state.endswith("running") else ["true"]
        body = {"Image": IMAGE, "Cmd": command, "Hostname": "copies", "HostConfig": host}
        if state == "user":
            body["User"] = "11:12"
        self._engine.call("POST", "/containers/create", body, name=name)
        self._begin(name, state)
        return name

    def _remove(self, name: str) -> None:
        self._engine.remove(name)
        for volume in (f"{name}-v", f"{name}-vro"):
            self._engine.call("DELETE", f"/volumes/{volume}")

    def _begin(self, container: str, state: str) -> None:
        if state not in ("created", "ro", "user"):
            self._engine.call("POST", f"/containers/{container}/start")
        if state == "exited":
            self._engine.wait(container)

    def _inside(self, container: str, paths: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for path in paths:
            answer: HttpAnswer = self._engine.request("GET", f"/containers/{container}/archive?path={path}")
            if answer.status == 200:
                yield from _members(f"{{c}}:{os.path.dirname(path).rstrip('/')}", answer.raw)


def _local_tree(top: Path) -> Iterator[tuple[str, str]]:
    for above, directories, files in os.walk(os.fsencode(top)):
        for name in (*directories, *files):
            path = os.path.join(above, name)
            info = os.lstat(path)
            shown = os.fsdecode(os.path.relpath(path, os.fsencode(top))).encode(errors="surrogateescape")
            what = f"{stat.filemode(info.st_mode)} {info.st_uid}:{info.st_gid} {_time(info.st_mtime)}"
            if stat.S_ISLNK(info.st_mode):
                what += f" -> {os.fsdecode(os.readlink(path))}".replace(str(top), "{tmp}")
            elif stat.S_ISREG(info.st_mode):
                what += f" links={info.st_nlink} {_content(Path(os.fsdecode(path)).read_bytes())}"
            yield shown.decode(errors="backslashreplace"), what


def _members(prefix: str, raw: bytes) -> Iterator[tuple[str, str]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), errorlevel=2) as archive:
            for info in archive:
                what = f"{info.type.decode()} {info.mode:o} {info.uid}:{info.gid} {_time(info.mtime)}"
                what += f" -> {info.linkname}" if info.linkname else ""
                what += "".join(f" {k}={v}" for k, v in sorted(info.pax_headers.items()) if "xattr" in k)
                if info.isreg():
                    file: Any = archive.extractfile(info)
                    what += f" {_content(file.read())}"
                name = info.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
                yield f"{prefix}/{name}", what
    except tarfile.ReadError:
        if raw:
            yield prefix, "no archive"


def _time(seconds: float) -> str:
    return "then" if int(seconds) == TIME else "now"


def _content(data: bytes) -> str:
    return repr(data) if len(data) < 400 else f"{len(data)} bytes"


def record(program: str, engine: Engine, environment: dict[str, str]) -> list[Answer]:
    with tempfile.TemporaryDirectory(prefix="cp-lines-") as tmp:
        player = Player(program, engine, environment, Path(tmp))
        player.prepare()
        try:
            return [player.play(line) for line in lines()]
        finally:
            player.close()


def main() -> None:
    program, host = sys.argv[1:]
    engine = Engine(Path("/nonexistent"))
    engine.socket = Path(host.removeprefix("unix://"))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "SAMPAN_"))}
    environment = {**kept, "DOCKER_HOST": host, "DOCKER_CONFIG": "/nonexistent"}
    text = ",\n".join(json.dumps(answer) for answer in record(program, engine, environment))
    ANSWERS.write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
