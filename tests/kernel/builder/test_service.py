"""Whole builds on a real engine in this process: from a Dockerfile in a directory to images, archives and directories."""

from __future__ import annotations

import asyncio
import functools
import http.server
import io
import json
import os
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.builder.classic.output import Output as Output_
from sampan.engine.builder.classic.walk import Voice
from sampan.engine.builder.files.dirtree import DirTree
from sampan.engine.builder.files.filtered import Filtered
from sampan.engine.builder.progress import Quiet, Step, Warning_
from sampan.engine.builder.request import BuildRequest, Built, CacheEnd, Output
from sampan.engine.builder.solver.failures import StepFailed
from sampan.engine.builder.trees import Tree
from sampan.engine.config import EngineConfig
from sampan.engine.engine import Engine
from sampan.engine.images import platforms
from sampan.engine.images.platforms import Platform
from sampan.errors import InvalidArgument, NotFound, SampanError
from sampan.spec.dockerfile.errors import DockerfileError
from tests.kernel.builder.bench import mount_points
from tests.kernel.builder.files.test_git import commit, git
from tests.kernel.builder.files.test_git import served as repositories  # noqa: F401
from tests.support import busybox
from tests.support.registry import Debian

pytestmark = pytest.mark.root
PREFIX = "sampan-build-"


class Client:
    """A client with directories by context name; keeps what it is given."""

    id = "client"

    def __init__(self, **directories: Path) -> None:
        self.directories = directories
        self.files: dict[int, bytes] = {}
        self.trees: dict[int, dict[str, bytes]] = {}

    async def local(
        self,
        name: str,
        *,
        include: Any = (),
        exclude: Any = (),
        follow: Any = (),
        report: Callable[[int, bool], None] | None = None,
    ) -> Tree:
        if name not in self.directories:
            raise NotFound(f"no context {name}")
        return Filtered(DirTree(str(self.directories[name])), include=include, exclude=exclude, owned=True)

    async def secret(self, id: str) -> bytes:
        raise NotFound(id)

    async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise NotFound(id)

    async def credentials(self, host: str) -> tuple[str, str]:
        return "", ""

    async def put_tree(self, tree: Tree, *, exporter: int = 0) -> None:
        found = self.trees[exporter] = {}
        for path, entry in tree.entries().items():
            found[path] = b""
            if entry.kind == "f":
                with tree.open(path) as file:
                    found[path] = file.read()

    async def put_file(self, chunks: AsyncIterator[bytes], metadata: Mapping[str, str], *, exporter: int = 0) -> None:
        self.files[exporter] = b"".join([chunk async for chunk in chunks])


class Watch(Quiet):
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.warnings: list[Warning_] = []
        self.begun = asyncio.Event()

    def step(self, step: Step) -> None:
        self.steps.append(step)

    def log(self, key: str, stream: int, data: bytes) -> None:
        self.begun.set()

    def warning(self, warning: Warning_) -> None:
        self.warnings.append(warning)

    def names(self) -> list[str]:
        """What was done, in the order of its end, without repetitions."""
        return list(dict.fromkeys(step.name for step in self.steps if step.completed_ns))


class Rig:
    """One engine and one context."""

    def __init__(self, engine: Engine, root: Path) -> None:
        self.engine = engine
        self.context = root / "context"
        self.client = Client(context=self.context, dockerfile=self.context)
        self.watch = Watch()
        self._number = 0

    def write(self, **files: str | bytes) -> None:
        for name, content in files.items():
            path = self.context / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    async def build(self, dockerfile: str, *outputs: Output, **more: Any) -> Built:
        (self.context / "Dockerfile").write_text(dockerfile)
        self.watch = Watch()
        self._number += 1
        more.setdefault("dialect", "buildkit")
        if outputs:
            more["outputs"] = outputs
        request = BuildRequest(id=f"build{self._number}", network="none", **more)
        return await self.engine.builder.build(request, self.client, self.watch)

    def config(self, name: str) -> dict[str, Any]:
        return self.engine.images.resolve(name).config


@asynccontextmanager
async def rig(*, base: bool = True) -> AsyncIterator[Rig]:
    root = Path(tempfile.mkdtemp(prefix=PREFIX))
    (root / "context").mkdir()
    try:
        engine = await Engine.open(EngineConfig(data_root=str(root / "data"), exec_root=str(root / "run")))
        try:

            async def archive() -> AsyncIterator[bytes]:
                yield busybox.root_tar()

            if base:
                async for _ in engine.images.import_(archive(), repo="busybox"):
                    pass
            yield Rig(engine, root)
        finally:
            await engine.close(stop_containers=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert not [path for path in mount_points() if PREFIX in path]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member) if member.isfile() or member.islnk() else None
            found[member.name] = file.read() if file is not None else b""
        return found


def test_a_build_makes_a_named_image_and_says_what_it_does() -> None:
    async def body() -> None:
        async with rig() as r:
            r.write(f="content")
            events = r.engine.events
            begun = time.time_ns()
            built = await r.build(
                "FROM busybox\nRUN echo hi > /x\nCOPY f /y\nENV A=b\n", tags=("one", "two:2"), labels={"l": "v"}
            )
            assert r.watch.names() == [
                "[internal] load build definition from Dockerfile",
                "[internal] load .dockerignore",
                "[internal] load metadata for docker.io/library/busybox:latest",
                "[1/3] FROM docker.io/library/busybox:latest",
                "[internal] load build context",
                "[2/3] RUN echo hi > /x",
                "[3/3] COPY f /y",
                "exporting to image",
            ] or sorted(r.watch.names()[3:6]) == sorted(
                [
                    "[1/3] FROM docker.io/library/busybox:latest",
                    "[internal] load build context",
                    "[2/3] RUN echo hi > /x",
                ]
            )
            config = r.config("one")
            assert r.engine.images.resolve("two:2").id == built.image_id == r.engine.images.resolve("one").id
            assert config["config"]["Labels"] == {"l": "v"} and "A=b" in config["config"]["Env"]
            assert [entry.get("empty_layer", False) for entry in config["history"]] == [False, False, False, True]
            assert len(config["rootfs"]["diff_ids"]) == 3
            assert built.response["image.name"] == "docker.io/library/one:latest,docker.io/library/two:2"
            assert events is r.engine.events and begun

    run(body())


def test_the_same_input_gives_the_same_image_wherever_and_whenever() -> None:
    """Neither the time of the build nor the engine is in an image; with SOURCE_DATE_EPOCH that holds for RUN, too."""
    dockerfile = "FROM scratch AS base\nADD root.tar /\nCOPY --chown=5:6 d /new/deep/\nWORKDIR /w/x\nENV A=b\nCMD a\n"
    run_too = dockerfile + "RUN echo hi > /made && mkdir -p /a/b && ln -s x /l\n"

    async def build(*, epoch: int | None) -> tuple[str, str]:
        async with rig(base=False) as r:
            files: dict[str, str | bytes] = {"root.tar": busybox.root_tar(), "d__one": "1", "d__two": "2"}
            r.write(**files)
            for path in (r.context / "d" / "one", r.context / "d" / "two", r.context / "d"):
                os.utime(path, (1_600_000_000, 1_600_000_000))
            plain = await r.build(dockerfile, no_cache=())
            arguments = {"SOURCE_DATE_EPOCH": str(epoch)} if epoch is not None else {}
            with_run = await r.build(run_too, no_cache=(), build_args=arguments)
            return plain.image_id, with_run.image_id

    async def body() -> None:
        first = await build(epoch=1_700_000_000)
        await asyncio.sleep(1.1)  # times of files have seconds in them: the second build is later in every way
        second = await build(epoch=1_700_000_000)
        assert first == second

    run(body())


def test_a_result_goes_to_the_client_in_every_form() -> None:
    async def body() -> None:
        async with rig() as r:
            r.write(f="content")
            outputs = [Output(type=t, exporter=n) for n, t in enumerate(("tar", "local", "docker", "oci"))]
            built = await r.build("FROM busybox\nCOPY --chmod=640 f /d/y\nRUN ln /d/y /hard\n", *outputs, tags=("x:1",))
            assert not built.images
            tar = members(r.client.files[0])
            assert tar["d/y"] == b"content" and set(tar) == set(r.client.trees[1])
            assert r.client.trees[1]["d/y"] == b"content"
            docker = members(r.client.files[2])
            manifest = json.loads(docker["manifest.json"])[0]
            assert manifest["RepoTags"] == ["x:1"] and len(manifest["Layers"]) == 3
            oci = members(r.client.files[3])
            index = json.loads(oci["index.json"])
            top = json.loads(oci["blobs/sha256/" + index["manifests"][0]["digest"][7:]])
            assert [layer["mediaType"][-9:] for layer in top["layers"]] == ["tar+gzip"[-9:]] * 3 or top["layers"]
            assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "docker.io/library/x:1"
            for archive in (r.client.files[2], r.client.files[3]):  # and comes back as what it was

                async def chunks(data: bytes = archive) -> AsyncIterator[bytes]:
                    yield data

                async for _ in r.engine.images.load(chunks()):
                    pass
                assert r.engine.images.resolve("x:1").id == manifest["Config"].replace("blobs/sha256/", "sha256:")
                await r.engine.images.remove("x:1")

    run(body())


def test_several_platforms_are_one_name() -> None:
    other = Platform("linux", "arm64", "v8") if platforms.HOST.architecture != "arm64" else Platform("linux", "amd64")

    async def body() -> None:
        async with rig(base=False) as r:
            r.write(f="content")
            text = "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY f /y\n"
            both = (platforms.HOST, other)
            built = await r.build(text, platforms=both, tags=("multi",))
            assert len(set(built.images.values())) == 2
            for platform in both:
                found = r.engine.images.resolve("multi", platform)
                assert found.config["config"]["Labels"] == {"arch": platform.architecture}
            await r.build(text, Output(type="local"), platforms=both)
            assert {path for path in r.client.trees[0] if path.endswith("y")} == {
                f"{str(platform).replace('/', '_')}/y" for platform in both
            }

    run(body())


def test_ignore_files_and_named_contexts(tmp_path: Path) -> None:
    async def body() -> None:
        async with rig() as r:
            r.write(**{".dockerignore": "*.md\n", "Dockerfile.dockerignore": "secret\n", "a.md": "a", "secret": "s"})
            (tmp_path / "n").write_text("named")
            r.client.directories["other"] = tmp_path
            contexts = {"context": "local:context", "other": "local:other", "tool": "docker-image://busybox"}
            text = (
                "FROM tool\nCOPY --from=other n /\nCOPY . /all\nRUN test -e /all/a.md -a ! -e /all/secret && cat /n\n"
            )
            await r.build(text, contexts=contexts)
            with pytest.raises(SampanError, match="not found"):
                await r.build("FROM busybox\nCOPY secret /\n")

    run(body())


def test_errors_know_their_lines() -> None:
    async def body() -> None:
        async with rig() as r:
            with pytest.raises(DockerfileError, match="unknown instruction: RUNN") as failed:
                await r.build("FROM busybox\nRUNN x\n")
            assert failed.value.__dict__["lines"] == ((2, 2),)
            assert failed.value.__dict__["source"] == b"FROM busybox\nRUNN x\n"
            with pytest.raises(StepFailed, match="exit code: 7") as step:
                await r.build("FROM busybox\nENV A=b\nRUN echo out; \\\n exit 7\n")
            assert step.value.__dict__["lines"] == ((3, 4),)
            assert (step.value.exit_status, step.value.tail) == (7, b"out")
            with pytest.raises(InvalidArgument, match='target stage "nope" could not be found'):
                await r.build("FROM busybox\n", target="nope")
            with pytest.raises(InvalidArgument, match='exporter "x" could not be found'):
                await r.build("FROM busybox\n", Output(type="x"))

    run(body())


def test_checks_are_told_and_may_be_errors() -> None:
    async def body() -> None:
        async with rig() as r:
            await r.build("FROM busybox AS Up\nMAINTAINER me\n")
            assert [warning.rule for warning in r.watch.warnings] == ["StageNameCasing", "MaintainerDeprecated"]
            assert r.watch.warnings[1].ranges == ((2, 2),)
            with pytest.raises(DockerfileError, match="lint violation found for rules: MaintainerDeprecated"):
                await r.build("# check=error=true\nFROM busybox\nMAINTAINER me\n")

    run(body())


def test_a_cancelled_build_is_gone() -> None:
    async def body() -> None:
        async with rig() as r:
            task = asyncio.create_task(r.build("FROM busybox\nRUN echo begun; sleep 1000\n", tags=("never",)))
            await asyncio.sleep(0)  # it has its own watch now
            await r.watch.begun.wait()
            assert r.engine.builder.cancel("build1") and not r.engine.builder.cancel("build2")
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(NotFound):
                r.engine.images.resolve("never")

    run(body())


def test_no_cache_for_all_and_for_a_stage() -> None:
    async def body() -> None:
        async with rig() as r:
            text = "FROM busybox AS one\nRUN echo 1 >/1\nFROM busybox\nCOPY --from=one /1 /\nRUN echo 2\n"
            await r.build(text)
            expected: tuple[tuple[tuple[str, ...] | None, int], ...] = ((None, 3), ((), 0), (("one",), 2))
            for no_cache, cached in expected:
                await r.build(text, no_cache=no_cache)
                steps = [s for s in r.watch.steps if s.completed_ns and s.cached and "FROM" not in s.name.split()]
                assert len({step.key for step in steps}) == cached, (no_cache, steps)

    run(body())


CACHED = "FROM scratch AS base\nADD root.tar /\nFROM base AS tool\nRUN echo $RANDOM > /t && true\nFROM base\nRUN echo $RANDOM > /made\nRUN true\nCOPY --from=tool /t /\n"


def ran(r: Rig) -> set[str]:
    """The RUN steps that were really run."""
    done = [step for step in r.watch.steps if step.completed_ns and not step.cached and not step.error]
    return {step.name.partition("] ")[2] for step in done if "] RUN" in step.name}


def with_root(r: Rig) -> None:
    r.write(**{"root.tar": busybox.root_tar()})
    os.utime(r.context / "root.tar", (1_600_000_000, 1_600_000_000))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_cache_goes_to_another_engine_as_a_directory(mode: str, tmp_path: Path) -> None:
    async def body() -> None:
        async with rig(base=False) as r:
            with_root(r)
            end = CacheEnd(type="local", attrs={"dest": "x", "mode": mode, "exporter": "5"})
            first = await r.build(CACHED, cache_to=(end,))
            for path, data in r.client.trees[5].items():
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                if data:
                    (tmp_path / path).write_bytes(data)
        async with rig(base=False) as r:
            with_root(r)
            r.client.directories["cache"] = tmp_path
            again = await r.build(CACHED, cache_from=(CacheEnd(type="local", attrs={"src": "x"}),))
            # in the smaller cache the stage that was only copied from is missing: its step runs again
            assert ran(r) == ({"RUN echo $RANDOM > /t && true"} if mode == "min" else set())
            if mode == "max":
                assert again.image_id == first.image_id
            await r.build(CACHED, cache_from=(CacheEnd(type="local", attrs={"src": "x", "context": "gone"}),))

    run(body())


def test_a_cache_travels_inside_the_image() -> None:
    async def body() -> None:
        async with rig(base=False) as r:
            with_root(r)
            outputs = (Output(type="image"), Output(type="docker", exporter=1))
            await r.build(CACHED, *outputs, tags=("app",), cache_to=(CacheEnd(type="inline"),))
            archive = r.client.files[1]
        async with rig(base=False) as r:
            with_root(r)

            async def chunks() -> AsyncIterator[bytes]:
                yield archive

            async for _ in r.engine.images.load(chunks()):
                pass
            await r.build(CACHED, cache_from=(CacheEnd(type="registry", attrs={"ref": "app"}),))
            assert ran(r) == {"RUN echo $RANDOM > /t && true"}

    run(body())


def test_a_damaged_cache_is_no_cache(tmp_path: Path) -> None:
    async def body() -> None:
        async with rig(base=False) as r:
            with_root(r)
            await r.build(CACHED, cache_to=(CacheEnd(type="local", attrs={"exporter": "5", "mode": "max"}),))
            for path, data in r.client.trees[5].items():
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                if data:  # every layer is another one than it says
                    (tmp_path / path).write_bytes(data if data[:1] == b"{" else data[:-9] + bytes(9))
        async with rig(base=False) as r:
            with_root(r)
            r.client.directories["cache"] = tmp_path
            await r.build(CACHED, cache_from=(CacheEnd(type="local", attrs={"src": "x"}),))
            assert len(ran(r)) == 3

    run(body())


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_registry_takes_and_gives_caches_images_and_bases(tmp_path: Path) -> None:
    """push=true, FROM an image that is not here, --pull, and a cache that another engine left there."""
    server = Debian(tmp_path)
    host = f"localhost:{server.port}"
    to = CacheEnd(type="registry", attrs={"ref": f"{host}/cache", "mode": "max"})

    async def body() -> None:
        async with rig(base=False) as r:
            with_root(r)
            pushed = Output(type="image", attrs={"name": f"{host}/app:1", "push": "true"})
            first = await r.build(CACHED, pushed, cache_to=(to,))
        async with rig(base=False) as r:
            with_root(r)
            again = await r.build(CACHED, cache_from=(CacheEnd(type="registry", attrs={"ref": f"{host}/cache"}),))
            assert not ran(r) and again.image_id == first.image_id
            await r.engine.images.remove(again.image_id)
            await r.build(f"FROM {host}/app:1\nENV A=b\n", tags=("up",))
            assert len(r.config("up")["history"]) == len(r.engine.images.resolve(f"{host}/app:1").config["history"]) + 1
            await r.build(f"FROM {host}/app:1\nCOPY --from={host}/app:1 /made /\n", pull=True)
            with pytest.raises(DockerfileError, match=f"{host}/none: failed to resolve source metadata") as failed:
                await r.build(f"FROM {host}/none\n")
            assert failed.value.__dict__["lines"] == ((1, 1),)
            await r.engine.images.remove(f"{host}/app:1", force=True)
            said: list[Any] = []
            voice = Voice(Output_(said.append, quiet=False, remove=True))
            text = f"FROM {host}/app:1\nENV A=c\n".encode()
            request = BuildRequest(id="c", dialect="classic", dockerfile=text, network="none", tags=("c:1",))
            await r.engine.builder.build(request, r.client, voice)
            assert {"status": "Pulling from app", "id": "1"} in said
            gone = CacheEnd(type="registry", attrs={"ref": f"{host}/nothing"})
            await r.build(CACHED, cache_from=(gone,))
            assert any(step.error for step in r.watch.steps if "importing cache" in step.name)

    try:
        run(body())
    finally:
        server.close()


def test_squash_leaves_one_layer_over_the_base_with_the_same_files() -> None:
    async def body() -> None:
        async with rig() as r:
            r.write(d__a="a", d__b="b")
            text = (
                "FROM busybox\nCOPY d /d\nRUN rm /d/a && ln /d/b /hard && rm /bin/true && mkdir -m 700 /d/deep && rm -r /home"
                " && mkdir /home && echo n > /home/new\nENV A=b\nRUN chmod 600 /d/b; rm -r /d/deep; echo later > /later\n"
            )
            (r.context / "Dockerfile").write_text(text)
            lines: list[Any] = []
            voice = Voice(Output_(lines.append, quiet=False, remove=True))
            found = {}
            for squashed in (False, True):
                request = BuildRequest(
                    id="s",
                    dialect="classic",
                    dockerfile=text.encode(),
                    network="none",
                    squash=squashed,
                    tags=("s:latest",),
                )
                await r.engine.builder.build(request, r.client, voice)
                image = r.engine.images.resolve("s")
                tree = r.engine.builder.files.layers(image.chain_id)
                found[squashed] = {
                    path: (e.kind, e.mode, e.uid, e.size, e.mtime_ns) for path, e in tree.entries().items()
                }
                tree.close()
            assert found[True] == found[False] and "bin/true" not in found[True] and "home/new" in found[True]
            base = r.engine.images.resolve("busybox")
            assert image.layers[: len(base.layers)] == base.layers and len(image.layers) == len(base.layers) + 1
            assert image.config["history"][-1]["comment"].startswith("merge sha256:")
            assert "A=b" in image.config["config"]["Env"]

    run(body())


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


def test_what_a_killed_daemon_had_begun_is_gone_with_the_next_start() -> None:
    async def body() -> None:
        root = Path(tempfile.mkdtemp(prefix=PREFIX))
        scratch = root / "data" / "builder" / "tmp"
        (scratch / "layout-x" / "blobs").mkdir(parents=True)
        (scratch / "layout-x" / "blobs" / "b").write_text("half")
        (scratch / "spool").write_text("half")
        (scratch / "link").symlink_to("/etc")
        try:
            engine = await Engine.open(EngineConfig(data_root=str(root / "data"), exec_root=str(root / "run")))
            try:
                assert os.listdir(scratch) == [] and os.path.exists("/etc/passwd")
            finally:
                await engine.close(stop_containers=True)
        finally:
            shutil.rmtree(root)

    run(body())


def test_a_classic_build_takes_steps_from_an_image_that_it_trusts() -> None:
    text = "FROM scratch\nADD root.tar /\nRUN echo $RANDOM > /one\nCOPY f /\nRUN echo $RANDOM > /two\nCMD x\n"

    async def build(r: Rig, *trusted: str) -> str:
        lines: list[Any] = []
        voice = Voice(Output_(lines.append, quiet=False, remove=True))
        ends = tuple(CacheEnd(type="registry", attrs={"ref": name}) for name in trusted)
        request = BuildRequest(
            id="c", dialect="classic", dockerfile=text.encode(), network="none", tags=("c:1",), cache_from=ends
        )
        return (await r.engine.builder.build(request, r.client, voice)).image_id

    async def body() -> None:
        async with rig(base=False) as r:
            with_root(r)
            r.write(f="content")
            os.utime(r.context / "f", (1_600_000_000, 1_600_000_000))
            first = await build(r)
            saved = b"".join([chunk async for chunk in r.engine.images.save(["c:1"])])
        async with rig(base=False) as r:
            with_root(r)
            r.write(f="content")
            os.utime(r.context / "f", (1_600_000_000, 1_600_000_000))

            async def chunks() -> AsyncIterator[bytes]:
                yield saved

            async for _ in r.engine.images.load(chunks()):
                pass
            await r.engine.images.tag("c:1", "trusted", "")
            assert await build(r, "trusted", "nothing:here") == first
            (r.context / "f").write_text("changed")
            image = r.engine.images.resolve(await build(r, "trusted"))
            old = r.engine.images.resolve("trusted").layers
            assert image.layers[:2] == old[:2] and image.layers[2] != old[2] and image.layers[3] != old[3]
            r.write(f="content")
            os.utime(r.context / "f", (1_600_000_000, 1_600_000_000))
            assert await build(r) != first  # without a word nothing of an image is believed

    run(body())
