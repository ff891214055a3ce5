"""What `sampan build` gives to its build and takes from it over a session, on a whole engine."""

from __future__ import annotations

import json
import os
import socket
import stat
import tarfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sampan.cli.builder.session import ClientSession
from sampan.cli.builder.wants import OutputFlag
from sampan.client.engine import EngineClient as Client
from sampan.client.transport import Address
from tests.support.engine import Engine, until
from tests.support.tars import tar_of

pytestmark = pytest.mark.root


@pytest.fixture
def build(shared_engine: Engine) -> Callable[..., bytes]:
    """Build a Dockerfile with a session; returns what the engine said."""

    def run(
        dockerfile: str,
        *,
        secrets: Mapping[str, Callable[[], bytes]] | None = None,
        ssh: Mapping[str, str] | None = None,
        contexts: Mapping[str, str] | None = None,
        outputs: Mapping[int, OutputFlag] | None = None,
        auth: Callable[[str], tuple[str, str]] = lambda host: ("", ""),
    ) -> bytes:
        packed = tar_of({"Dockerfile": dockerfile})
        query: dict[str, Any] = {"version": "2", "nocache": "1"}
        if outputs:
            listed = [{"Type": one.type, "Attrs": one.attrs} for _, one in sorted(outputs.items())]
            query["outputs"] = json.dumps(listed)
        if contexts:
            query["contexts"] = json.dumps({name: f"local:{name}" for name in contexts})
        with ClientSession(
            Client(Address(shared_engine.host)),
            name="test",
            secrets=secrets or {},
            ssh=ssh or {},
            contexts=contexts or {},
            outputs=outputs or {},
            auth=auth,
        ) as session:
            path = "/build?" + urllib.parse.urlencode({**query, "session": session.id})
            headers = {"Content-Type": "application/x-tar"}
            answer = shared_engine.request("POST", path, packed, headers=headers)
            assert answer.status == 200, answer.raw
            return answer.raw

    return run


def test_a_secret(build: Any) -> None:
    said = build(
        "FROM busybox\nRUN --mount=type=secret,id=token test $(cat /run/secrets/token) = hush\n",
        secrets={"token": lambda: b"hush"},
    )
    assert b"errorDetail" not in said, said
    missing = "FROM busybox\nRUN --mount=type=secret,id=other,required=true true\n"
    assert b"secret other: not found" in build(missing, secrets={"token": lambda: b"hush"})


def test_an_archive_and_a_directory(build: Any, tmp_path: Path) -> None:
    dockerfile = (
        "FROM busybox AS made\nRUN mkdir -p /out/deep/er && cd /out && echo hello > deep/er/file && chmod 4750"
        " deep/er/file"
        " && ln deep/er/file hard && ln -s deep/er soft && touch -d '2020-01-02 03:04:05' deep/er deep/er/file"
        " && : > empty"
        " && head -c 3000000 /dev/zero > big && chmod 500 deep\nFROM scratch\nCOPY --from=made /out /\n"
    )
    there = tmp_path / "there"
    (there / "deep").mkdir(parents=True)
    (there / "kept").write_text("kept")
    os.link(there / "kept", there / "empty")
    said = build(
        dockerfile, outputs={0: OutputFlag("local", {}, str(there)), 1: OutputFlag("tar", {}, str(tmp_path / "tar"))}
    )
    assert b"errorDetail" not in said, said
    file = there / "deep/er/file"
    assert file.read_text() == "hello\n" and stat.S_IMODE(file.stat().st_mode) == 0o4750
    assert file.stat().st_mtime == (there / "deep/er").stat().st_mtime == 1577934245
    assert (there / "hard").stat().st_ino == file.stat().st_ino
    assert os.readlink(there / "soft") == "deep/er" and stat.S_IMODE((there / "deep").stat().st_mode) == 0o500
    assert (there / "big").read_bytes() == bytes(3000000)
    assert (there / "empty").read_bytes() == b"" and (there / "kept").read_text() == "kept"
    assert not [name for _, _, names in os.walk(there) for name in names if name.startswith(".tmp")]
    with tarfile.open(tmp_path / "tar") as tar:
        assert {"deep/er/file", "hard", "soft", "empty", "big"} <= {name.removeprefix("./") for name in tar.getnames()}


def test_a_directory_is_not_left(build: Any, tmp_path: Path) -> None:
    """A symbolic link that stands in the way is replaced where a directory is due, never followed."""
    outside, there = tmp_path / "outside", tmp_path / "there"
    outside.mkdir()
    there.mkdir()
    (there / "deep").symlink_to(outside)
    dockerfile = (
        "FROM busybox AS made\nRUN mkdir -p /out/deep && : > /out/deep/file\nFROM scratch\nCOPY --from=made /out /\n"
    )
    said = build(dockerfile, outputs={0: OutputFlag("local", {}, str(there))})
    assert b"errorDetail" not in said, said
    assert not list(outside.iterdir()) and not (there / "deep").is_symlink() and (there / "deep/file").exists()
    said = build(dockerfile, outputs={0: OutputFlag("tar", {}, str(tmp_path / "none/tar"))})
    assert b"no such file or directory" in said


def test_named_directories(build: Any, tmp_path: Path) -> None:
    more = tmp_path / "more"
    (more / "sub").mkdir(parents=True)
    (more / "sub/file").write_text("x" * 300000)
    (more / "sub/left.out").write_text("no")
    (more / "link").symlink_to("sub/file")
    os.link(more / "sub/file", more / "zhard")
    (more / ".dockerignore").write_text("**/*.out\n")
    there = tmp_path / "there"
    local = {0: OutputFlag("local", {}, str(there))}
    said = build("FROM scratch\nCOPY --from=more . /more/\n", contexts={"more": str(more)}, outputs=local)
    assert b"errorDetail" not in said, said
    found = sorted(str(path.relative_to(there / "more")) for path in (there / "more").rglob("*"))
    assert found == [".dockerignore", "link", "sub", "sub/file", "zhard"]
    assert os.readlink(there / "more/link") == "sub/file"
    assert (there / "more/sub/file").read_text() == (there / "more/zhard").read_text() == "x" * 300000
    alone = "FROM busybox\nCOPY --from=more link /alone\nRUN test $(wc -c < /alone) = 300000\n"
    said = build(alone, contexts={"more": str(more)})
    assert b"errorDetail" not in said, said


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """A socket that answers everything in capitals."""
    path = str(tmp_path / "agent")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    one, _ = listening.accept()
                except OSError:
                    return
                with one:
                    while data := one.recv(1000):
                        one.sendall(data.upper())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_an_agent(build: Any, agent: str, shared_engine: Engine) -> None:
    said: list[bytes] = []
    script = "until [ -e /c/go ]; do sleep 0.01; done; rm /c/go"
    text = f"FROM busybox\nRUN --mount=type=ssh --mount=type=cache,target=/c,id=agent-test {script}\n"
    building = threading.Thread(target=lambda: said.append(build(text, ssh={"default": agent})))
    building.start()
    try:
        until(lambda: list(shared_engine.exec_root.glob("builder/*/ssh-*")), 20, "the agent is forwarded")
        (forwarded,) = shared_engine.exec_root.glob("builder/*/ssh-*")
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(10)
            asking.connect(str(forwarded))
            for word in (b"hello", b"again" * 100):
                asking.sendall(word)
                answer = b""
                while len(answer) < len(word):
                    answer += asking.recv(1000)
                assert answer == word.upper()
    finally:
        for kept in shared_engine.data_root.glob("builder/cache-mounts/*/data"):
            (kept / "go").touch()
        building.join()
    assert b"errorDetail" not in said[0], said
    missing = "FROM busybox\nRUN --mount=type=ssh,id=other,required=true true\n"
    assert b"unset ssh forward key other" in build(missing, ssh={"default": agent})


def test_the_flags(shared_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, more, cache = tmp_path / "ctx", tmp_path / "more", tmp_path / "cache"
    ctx.mkdir()
    more.mkdir()
    (more / "file").write_text("more\n")
    (ctx / "Dockerfile").write_text(
        "FROM busybox AS made\nCOPY --from=more file /out/\n"
        "RUN --mount=type=secret,id=a --mount=type=secret,id=b cat /run/secrets/a /run/secrets/b > /out/secrets\n"
        "FROM scratch\nCOPY --from=made /out /\n"
    )
    (tmp_path / "a").write_text("first ")
    monkeypatch.setenv("SECOND", "second")
    given = ("--secret", f"id=a,src={tmp_path / 'a'}", "--secret", "id=b,env=SECOND", "--build-context", f"more={more}")
    shared_engine.cli("sampan", "build", *given, "-o", str(tmp_path / "there"), str(ctx))
    assert (tmp_path / "there/secrets").read_text() == "first second"
    assert (tmp_path / "there/file").read_text() == "more\n"
    for _ in range(2):  # written, then read and written again
        ends = ("--cache-from", f"type=local,src={cache}", "--cache-to", f"type=local,dest={cache},mode=max")
        shared_engine.cli("sampan", "build", *given, *ends, "-o", f"type=tar,dest={tmp_path / 'tar'}", str(ctx))
    assert (cache / "index.json").exists()
    with tarfile.open(tmp_path / "tar") as tar:
        assert {"file", "secrets"} <= {name.removeprefix("./") for name in tar.getnames()}
    shared_engine.cli("sampan", "build", *given, "-o", f"type=oci,dest={tmp_path / 'oci'}", str(ctx))
    with tarfile.open(tmp_path / "oci") as tar:
        assert "oci-layout" in tar.getnames()
    failed = shared_engine.cli("sampan", "build", "--ssh", f"default={tmp_path / 'a'}", str(ctx), check=False)
    assert failed.returncode == 1 and "is not the socket of an ssh agent" in failed.stderr
