"""Contexts at URLs and in git repositories."""

from __future__ import annotations

import functools
import http.server
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.engine.builder.buildkit.builds import Builds
from sampan.engine.builder.buildkit.options import Asked
from sampan.engine.builder.buildkit.reading import Reading
from sampan.engine.builder.clients.sessions import SessionInfo
from sampan.engine.builder.request import Output
from sampan.errors import SampanError
from tests.kernel.builder.bench import mount_points
from tests.kernel.builder.files.test_git import commit, git
from tests.kernel.builder.files.test_git import served as repositories  # noqa: F401
from tests.kernel.builder.rig import PREFIX, rig, run

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert not [path for path in mount_points() if PREFIX in path]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory and its URL."""
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_context_may_be_an_archive_or_a_dockerfile_at_a_url(served: tuple[Path, str]) -> None:
    directory, url = served
    (directory / "tree").mkdir()
    (directory / "tree" / "Dockerfile").write_text("FROM scratch\nCOPY f /from-url\nCMD inside\n")
    (directory / "tree" / "f").write_text("content")
    with tarfile.open(directory / "c.tar.gz", "w:gz") as archive:
        for name in ("Dockerfile", "f"):
            archive.add(directory / "tree" / name, name)
    (directory / "Alone").write_text("FROM scratch\nCOPY Alone /itself\n")
    (directory / "plain").write_text("added")

    async def body() -> None:
        async with rig(base=False) as r:
            await r.build("", contexts={"context": f"{url}/c.tar.gz"}, tags=("one",))
            assert r.config("one")["config"]["Cmd"] == ["/bin/sh", "-c", "inside"]
            built = await r.build("", contexts={"context": f"{url}/Alone"})
            assert built.image_id
            text = f"FROM scratch\nADD {url}/plain /dir/\nADD --chmod=755 {url}/plain /named\nADD {url}/c.tar.gz /\n"
            await r.build(text, Output(type="local"))
            found = r.client.trees[0]
            assert found["dir/plain"] == found["named"] == b"added" and "c.tar.gz" in found and "f" not in found
            await r.build(
                f"FROM scratch\nCOPY --from=web f /\nADD --unpack=true {url}/c.tar.gz /u/\n",
                Output(type="local"),
                contexts={"context": "local:context", "web": f"{url}/c.tar.gz"},
            )
            assert r.client.trees[0]["f"] == r.client.trees[0]["u/f"] == b"content"
            with pytest.raises(SampanError, match="404"):
                await r.build("", contexts={"context": f"{url}/nothing"})

    run(body())


def test_a_context_may_be_a_git_repository(repositories: tuple[Path, str]) -> None:  # noqa: F811
    directory, url = repositories
    work = directory / "app"
    work.mkdir()
    git(work, "init", "-q", "-b", "main")
    commit(
        work, "first", Dockerfile="FROM scratch\nCOPY . /\n", sub__Dockerfile="FROM scratch\nCOPY f /sub\n", sub__f="x"
    )
    where = f"{url}/app/.git"

    async def body() -> None:
        async with rig(base=False) as r:
            await r.build("", Output(type="local"), contexts={"context": where})
            assert r.client.trees[0].keys() == {"Dockerfile", "sub", "sub/Dockerfile", "sub/f"}
            await r.build("", Output(type="local"), contexts={"context": f"{where}#main:sub"})
            assert r.client.trees[0] == {"sub": b"x"}
            await r.build(f"FROM scratch\nADD {where}#main:sub /got/\n", Output(type="local"))
            assert r.client.trees[0]["got/f"] == b"x"

    run(body())


def test_files_of_a_source_are_read_as_often_as_a_client_asks(served: tuple[Path, str]) -> None:
    directory, url = served
    (directory / "plain").write_text("read")

    async def body() -> None:
        async with rig(base=False) as r:
            builder = r.engine.builder
            builder.sessions.add(SessionInfo(id="s"))
            builds = Builds()
            reading = Reading(builder, builder.sessions, builds)
            build = builds.begin("r", "s")
            ref, _ = builds.note(Asked(session="s", inputs={"context": f"{url}/plain"}))
            for _ in range(2):
                assert await reading.file(build, ref, "context") == b"read"
                assert [one.path for one in await reading.directory(build, ref, "", "")] == ["context"]
                assert (await reading.stat(build, ref, "/context")).size == 4

    run(body())
