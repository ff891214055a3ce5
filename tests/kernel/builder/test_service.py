"""Whole builds on a real engine in this process: from a Dockerfile to images, archives and directories."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.engine import platforms
from sampan.engine.builder.classic.output import ClassicOutput as Output_
from sampan.engine.builder.classic.walk import Voice, dialect
from sampan.engine.builder.failures import StepFailed
from sampan.engine.builder.request import BuildRequest, CacheEnd, Output
from sampan.engine.builder.solving import BUILDKIT
from sampan.engine.config import EngineConfig
from sampan.engine.engine import Engine
from sampan.engine.platforms import Platform
from sampan.errors import InvalidArgument, NotFound, SampanError
from sampan.spec.dockerfile.errors import DockerfileError
from tests.kernel.builder.bench import failing, mount_points
from tests.kernel.builder.files.test_git import served as repositories  # noqa: F401
from tests.kernel.builder.rig import PREFIX, gone, members, rig, run
from tests.support import busybox
from tests.support.engine import until

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert not [path for path in mount_points() if PREFIX in path]


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
            assert built.response["image.name"] == "docker.io/library/one,docker.io/library/two:2"
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

                async for _ in r.engine.images.transfer.load(chunks()):
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
            with failing(DockerfileError, match="unknown instruction: RUNN") as failed:
                await r.build("FROM busybox\nRUNN x\n")
            assert failed.failure.lines == ((2, 2),)
            assert failed.failure.source == b"FROM busybox\nRUNN x\n"
            with failing(StepFailed, match="exit code: 7") as step:
                await r.build("FROM busybox\nENV A=b\nRUN echo out; \\\n exit 7\n")
            assert step.failure.lines == ((3, 4),)
            assert (step.cause.exit_status, step.cause.tail) == (7, b"out")
            with failing(InvalidArgument, match='target stage "nope" could not be found'):
                await r.build("FROM busybox\n", target="nope")
            wrong: list[tuple[str, Output, dict[str, Any]]] = [
                ('exporter "x" could not be found', Output(type="x"), {}),
                ("must be lowercase", Output(type="image", attrs={"name": "Up"}), {}),
                ("invalid tag", Output(type="image"), {"tags": ("a@sha256:" + "0" * 64,)}),
                ("unsupported layer compression", Output(type="oci", attrs={"compression": "lz9"}), {}),
                ("manifest lists", Output(type="docker"), {"platforms": (platforms.HOST, Platform("linux", "s390x"))}),
                ("push-by-digest", Output(type="image", attrs={"push-by-digest": "true"}), {}),
                ("unknown cache exporter: x", Output(type="image"), {"cache_to": (CacheEnd(type="x"),)}),
                ("requires ref", Output(type="image"), {"cache_to": (CacheEnd(type="registry"),)}),
                ("invalid SOURCE_DATE_EPOCH", Output(type="image"), {"build_args": {"SOURCE_DATE_EPOCH": "soon"}}),
            ]
            for message, output, more in wrong:
                with pytest.raises(InvalidArgument, match=message):
                    await r.build("FROM busybox\nRUN false\n", output, **more)
                assert not r.watch.steps  # refused before anything was begun

    run(body())


def test_checks_are_told_and_may_be_errors() -> None:
    async def body() -> None:
        async with rig() as r:
            await r.build("FROM busybox AS Up\nMAINTAINER me\n")
            assert [warning.rule for warning in r.watch.warnings] == ["StageNameCasing", "MaintainerDeprecated"]
            assert r.watch.warnings[1].ranges == ((2, 2),)
            with failing(DockerfileError, match="lint violation found for rules: MaintainerDeprecated"):
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


def test_squash_leaves_one_layer_over_the_base_with_the_same_files() -> None:
    async def body() -> None:
        async with rig() as r:
            r.write(d__a="a", d__b="b")
            text = (
                "FROM busybox\nCOPY d /d\nRUN rm /d/a && ln /d/b /hard && rm /bin/true && mkdir -m 700 /d/deep"
                " && rm -r /home"
                " && mkdir /home && echo n > /home/new\nENV A=b\n"
                "RUN chmod 600 /d/b; rm -r /d/deep; echo later > /later\n"
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
                await r.engine.builder.build(request, r.client, voice, dialect(voice))
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
            until(lambda: gone(root), 10, f"{root} is gone")

    run(body())


@pytest.mark.parametrize("link", ["real/rules", "/real/rules", "real/../real/./second"])
def test_an_ignore_file_and_a_dockerfile_that_are_links_are_followed(link: str) -> None:
    """What they hide stays out of the image: also by a link of links, and by an absolute one, inside the context."""

    async def body() -> None:
        async with rig() as r:
            r.write(
                secret="s", kept="k", real__rules="secret\nreal\n", real__text="FROM busybox\nCOPY . /c/\nRUN ls /c\n"
            )
            (r.context / "real" / "second").symlink_to("rules")
            (r.context / ".dockerignore").symlink_to(link)
            (r.context / "Dockerfile").symlink_to("real/text")
            request = BuildRequest(
                id="b", dialect="buildkit", network="none", outputs=(Output(type="tar", exporter=1),)
            )
            await r.engine.builder.build(request, r.client, r.watch, BUILDKIT)
            found = {name for name in members(r.client.files[1]) if name.startswith("c/")}
            assert "c/kept" in found and not any("secret" in name or "real" in name for name in found)

    run(body())


def test_a_loop_of_links_is_no_dockerfile() -> None:
    async def body() -> None:
        async with rig() as r:
            (r.context / "Dockerfile").symlink_to("other")
            (r.context / "other").symlink_to("Dockerfile")
            request = BuildRequest(id="b", dialect="buildkit", network="none")
            with pytest.raises(InvalidArgument, match="too many links"):
                await r.engine.builder.build(request, r.client, r.watch, BUILDKIT)

    run(body())


def test_copy_link_leaves_directories_that_are_there_as_they_are() -> None:
    dockerfile = (
        "FROM busybox\nRUN mkdir -p /tmp /home/u /sub/x && chmod 1777 /tmp && chmod 700 /home/u "
        "&& chown 1000:1000 /home/u && chmod 2775 /sub && chown 5:6 /sub\nCOPY --link f /tmp/f\n"
        "COPY --link --chown=1000 f /home/u/new/f\nCOPY --link d /sub\nCOPY --link --chmod=600 f /sub/x/f\n"
        "RUN stat -c '%n %a %u:%g' /tmp /home/u /home/u/new /sub /sub/x /sub/x/f > /n\n"
    )
    want = (
        "/tmp 1777 0:0\n/home/u 700 1000:1000\n/home/u/new 755 1000:1000\n/sub 2775 5:6\n/sub/x 755 0:0\n"
        "/sub/x/f 600 0:0\n"
    )

    async def body() -> None:
        async with rig() as r:
            r.write(f="x", d__g="y")
            first = await r.build(dockerfile, Output(type="image"), Output(type="tar", exporter=1))
            assert members(r.client.files[1])["n"].decode() == want
            again = await r.build(dockerfile)
            assert again.image_id == first.image_id
            saved = b"".join([chunk async for chunk in r.engine.images.transfer.save([first.image_id])])
            assert saved

    run(body())


def test_a_classic_copy_of_a_pattern_without_a_match_beside_another_source() -> None:
    async def body() -> None:
        async with rig() as r:
            r.write(**{"a.txt": "a"})
            voice = Voice(Output_(lambda _: None, quiet=False, remove=True))
            for sources in ("*.none a.txt", "a.txt *.none"):
                text = f"FROM busybox\nCOPY {sources} /d/\n".encode()
                request = BuildRequest(id="c", dialect="classic", dockerfile=text, network="none")
                built = await r.engine.builder.build(request, r.client, voice, dialect(voice))
                image = r.engine.images.resolve(built.image_id)
                assert "COPY file:" in image.config["history"][-1]["created_by"]

    run(body())
