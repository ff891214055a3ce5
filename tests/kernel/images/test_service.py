"""The image service on a data root of its own: import, roots, commit, save, load, remove, and what failures leave."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sampan.engine import platforms
from sampan.engine.images.service import Images
from sampan.engine.layers import flush
from sampan.engine.store import Ref, Store
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound, SampanError
from sampan.linux import filesystems, mounts, namespaces
from tests.kernel.images.archives import archive, directory, member, stream, symlink
from tests.support.deaths import deaths
from tests.support.images import discard, prepare
from tests.support.images import open_images as service

pytestmark = pytest.mark.root

ROOTFS = archive(
    directory("./", 0o755), directory("etc"), member("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), directory("bin", 0o755),
    member("bin/sh", b"#!" + bytes(5000), mode=0o755), symlink("sh", "bin/sh"), directory("tmp", 0o1777),
)  # fmt: skip


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


async def imported(images: Images, data: bytes = ROOTFS, repo: str = "app", **options: Any) -> str:
    """Import an archive; the image's id."""
    messages = [m async for m in images.transfer.import_(stream(data), repo=repo, **options)]
    return str(messages[-1]["status"])


async def collected(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([bytes(chunk) async for chunk in chunks])


def write(images: Images, container: str, work: Callable[[Path], object]) -> None:
    """Do something in a container's root, through a detached overlay mount."""
    fd = images.roots.open_root(container, writable=True)
    try:
        work(Path(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


def directories(root: Path) -> set[str]:
    return {p.name for p in (root / "snapshots").iterdir()} - {"init", "step"}


def emptied(root: Path) -> bool:
    """Wait for the reaper: the trash is an intermediate state."""
    deadline = time.monotonic() + 60
    while os.listdir(root / "trash") and time.monotonic() < deadline:
        time.sleep(0.01)
    return not os.listdir(root / "trash")


# -- import, names, snapshots -----------------------------------------------------------------------------------------


def test_import_resolve_inspect_history_list(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            id = await imported(
                images,
                tag="1",
                message="hello",
                changes=['CMD ["/bin/sh"]', "ENV A=b\nLABEL x=<y>"],
                platform="linux/arm64/v8",
            )
            hexadecimal = id.removeprefix("sha256:")
            for name in ("app:1", "docker.io/library/app:1", id, hexadecimal, hexadecimal[:7], id[:15]):
                assert images.resolve(name).id == id, name
            for name, message in (
                ("app", "No such image: app:latest"),
                ("nope:2", "No such image: nope:2"),
                ("sha256:" + "0" * 64, "No such image: sha256:" + "0" * 64),
            ):
                with pytest.raises(NotFound, match=f"^{message}$"):
                    images.resolve(name)
            image = images.resolve("app:1")
            assert (image.architecture, image.config["variant"], image.repo_tags) == ("arm64", "v8", ("app:1",))
            assert image.config["config"]["Cmd"] == ["/bin/sh"] and image.config["config"]["Env"] == ["A=b"]
            blob = (tmp_path / "d/content/blobs/sha256" / hexadecimal).read_bytes()
            assert rb'"x":"\u003cy\u003e"' in blob, "as Go writes it"
            assert list(json.loads(blob)) == sorted(json.loads(blob))
            shown = await images.inspect("app:1")
            assert shown["Comment"] == "hello" and shown["Size"] == image.size > 5000 and shown["RootFS"]["Layers"]
            assert shown["GraphDriver"]["Data"]["UpperDir"].endswith("/fs")
            assert (await images.history("app:1"))[0]["Tags"] == ["app:1"]
            [row] = await images.list(shared_size=True)
            assert (row["RepoTags"], row["Labels"], row["SharedSize"]) == (["app:1"], {"x": "<y>"}, 0)
            await images.tag(id, "other/name", "")
            assert images.resolve("other/name").repo_tags == ("app:1", "other/name:latest")
            assert await imported(images, archive(member("f", b"1")), tag="1") != id, "a name moves"
            assert images.resolve(id).repo_tags == ("other/name:latest",)

    run(main())


def test_cve_2021_41091_nobody_else_walks_the_data_root(tmp_path: Path) -> None:
    async def main() -> None:
        before = os.umask(0)
        try:
            async with service(tmp_path / "d") as images:
                await imported(images)
                await prepare(images, "c", images.resolve("app"))
        finally:
            os.umask(before)
        for name in ("", "content", "content/blobs", "content/blobs/sha256", "content/ingest", "snapshots", "trash"):
            assert stat.S_IMODE((tmp_path / "d" / name).stat().st_mode) == 0o700, name
        for number in directories(tmp_path / "d"):
            assert stat.S_IMODE((tmp_path / "d/snapshots" / number).stat().st_mode) == 0o700

    run(main())


def test_a_data_root_that_cannot_hold_snapshots_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(
            Internal, match=r"overlay2 does not work on .*/ram/d/snapshots: .*choose another --data-root"
        ):
            async with service(tmp_path / "ram/d"):
                pass

    def work() -> None:
        (tmp_path / "ram").mkdir()
        mounts.mount("ramfs", str(tmp_path / "ram"), "ramfs", 0)
        asyncio.run(main())

    in_child(work)


def test_a_container_that_changes_while_it_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            await imported(images)
            await prepare(images, "c", images.resolve("app"))
            upper = next(o for o in images.roots.mounts("c")[0].options if o.startswith("upperdir=")).removeprefix(
                "upperdir="
            )
            stop = threading.Event()

            def churn() -> None:
                while not stop.is_set():
                    os.makedirs(f"{upper}/a/b")
                    Path(f"{upper}/a/b/f").write_bytes(b"x" * 10_000)
                    os.symlink("f", f"{upper}/a/s")
                    os.truncate(f"{upper}/a/b/f", 10)
                    shutil.rmtree(f"{upper}/a")

            thread = threading.Thread(target=churn)
            thread.start()
            try:
                for turn in range(40):
                    await images.roots.changes("c")
                    await images.roots.usage("c")
                    if turn % 4 == 0:
                        await images.commit(
                            "c", config=None, container_config={}, parent=images.resolve("app"), repo=f"k{turn}"
                        )
            finally:
                stop.set()
                thread.join()
            for turn in range(0, 40, 4):
                assert len(await collected(images.transfer.save([f"k{turn}"]))) > 1024

    run(main())


def test_a_restart_finds_everything(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            id = await imported(images)
            await prepare(images, "c1", images.resolve(id))
            before = images.roots.mounts("c1"), await images.inspect(id), directories(tmp_path / "d")
        async with service(tmp_path / "d") as images:
            assert (images.roots.mounts("c1"), await images.inspect(id), directories(tmp_path / "d")) == before

    run(main())


def test_container_snapshots(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            await imported(images, archive(directory("./", 0o1751, uid=7, gid=8), member("etc/hosts", b"own")))
            image = images.resolve("app")
            await prepare(images, "c1", image)
            [mount] = images.roots.mounts("c1")
            assert mount.type == "overlay" and mount.target == "/"
            lower = mount.options[0].removeprefix("lowerdir=").split(":")
            assert len(lower) == 2 and lower[-1].endswith("/init/fs"), "the stubs lie at the bottom"
            upper = next(o for o in mount.options if o.startswith("upperdir=")).removeprefix("upperdir=")
            status = os.stat(upper)
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o755, 0, 0), "as with Docker"
            fd = images.roots.open_root("c1", writable=False)
            root = Path(f"/proc/self/fd/{fd}")
            assert (root / "etc/hosts").read_text() == "own", "a stub never hides what the image has"
            assert (root / "etc/resolv.conf").read_text() == "" and (root / ".dockerenv").exists()
            assert os.readlink(root / "etc/mtab") == "/proc/mounts"
            with pytest.raises(OSError, match="Read-only file system"):
                (root / "x").write_text("")
            os.close(fd)
            with pytest.raises(Conflict, match="container c1 is using its referenced image"):
                await images.remove("app")
            discard(images, "c1")
            discard(images, "c1")
            await prepare(images, "scratch", None)
            assert len(images.roots.mounts("scratch")) == 1 and (await images.roots.usage("scratch")) == (0, 0)
            with pytest.raises(NotFound):
                images.roots.mounts("c1")

    run(main())


@pytest.mark.parametrize("kernel", ["with lowerdir+", "before 6.8"])
def test_more_than_a_hundred_layers(tmp_path: Path, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "before 6.8":
        monkeypatch.setattr(mounts, "overlay_takes_layers", lambda: False)

    async def main() -> None:
        async with service(tmp_path / "d") as images:
            await imported(images)
            for n in range(130):
                image = images.resolve("app")
                await prepare(images, "c", image)
                write(images, "c", lambda root, n=n: (root / f"file{n}").write_text(str(n)))  # type: ignore[misc]
                await images.commit("c", config=None, container_config={}, parent=image, repo="app", tag="latest")
                discard(images, "c")
            assert len(images.resolve("app").layers) == 131
            await prepare(images, "c", images.resolve("app"))
            fd = images.roots.open_root("c", writable=True)
            try:
                assert {f"file{n}" for n in range(130)} <= set(os.listdir(f"/proc/self/fd/{fd}"))
            finally:
                os.close(fd)

    run(main())


# -- what a container changed -----------------------------------------------------------------------------------------


def test_changes_commit_export(tmp_path: Path) -> None:
    def work(root: Path) -> None:
        (root / "new/deep").mkdir(parents=True)
        (root / "new/deep/file").write_text("hello")
        (root / "etc/passwd").unlink()
        (root / "tmp").chmod(0o700)
        (root / "bin/sh").touch()
        shutil.rmtree(root / "opt")
        (root / "opt").mkdir()
        (root / "opt/b").write_text("2")
        os.utime(root / "new/deep/file", ns=(1_700_000_000_123_456_789,) * 2)
        os.link(root / "new/deep/file", root / "new/second")

    async def main() -> None:
        async with service(tmp_path / "d") as images:
            base = archive(directory("etc"), member("etc/passwd", b"x"), directory("tmp", 0o1777), directory("bin"))
            base = base[:-1024] + archive(member("bin/sh", b"s"), directory("opt"), member("opt/a", b"1"))
            id = await imported(images, base, changes=["ENV A=b", "CMD x"])
            await prepare(images, "c", images.resolve(id))
            assert await images.roots.changes("c") == []
            write(images, "c", work)
            assert await images.roots.changes("c") == [
                (0, "/bin"), (0, "/bin/sh"), (0, "/etc"), (2, "/etc/passwd"), (1, "/new"), (1, "/new/deep"),
                (1, "/new/deep/file"), (1, "/new/second"), (0, "/opt"), (2, "/opt/a"), (1, "/opt/b"), (0, "/tmp"),
            ]  # fmt: skip
            size_rw, size_root = await images.roots.usage("c")
            assert size_rw == len("hello") + 1 + 1 and size_root == size_rw + images.resolve(id).size
            new = await images.commit(
                "c", config={"Env": ["Z=1"]},
                container_config={"Cmd": ["run", "me"], "Env": ["A=c"], "Labels": {"l": "1"}},
                comment="why", author="who", parent=images.resolve(id), repo="app", tag="2", changes=["USER nobody"],
            )  # fmt: skip
            config = images.resolve(new).config
            assert config["config"]["Env"] == ["Z=1", "A=c"] and config["config"]["User"] == "nobody"
            assert config["config"]["Cmd"] == ["run", "me"] and config["config"]["Labels"] == {"l": "1"}
            assert config["history"][-1]["created_by"] == "run me" and config["author"] == "who"
            assert images.resolve(new).parent == id
            await prepare(images, "c2", images.resolve("app:2"))
            exported = [await collected(images.roots.export(name)) for name in ("c", "c2")]
            assert exported[0] == exported[1], "the committed image is what the container saw, to the nanosecond"
            with tarfile.open(fileobj=io.BytesIO(exported[0])) as tar:
                assert tar.getmember("new/deep/file").mtime == pytest.approx(1_700_000_000.123456789, abs=1e-6)
                assert tar.getmember("new/second").linkname == "new/deep/file"
                assert "etc/passwd" not in tar.getnames() and "opt/a" not in tar.getnames()
            assert await imported(images, exported[0], repo="flat")

    run(main())


def test_an_unchanged_container_commits_no_layer(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            id = await imported(images)
            await prepare(images, "c", images.resolve(id))
            new = await images.commit("c", config=None, container_config={}, parent=images.resolve(id))
            assert images.resolve(new).layers == images.resolve(id).layers
            assert images.resolve(new).config["history"][-1]["empty_layer"] is True
            assert len(directories(tmp_path / "d")) == 2, "one layer, one container"

    run(main())


def test_a_container_that_nests_directories_without_end(tmp_path: Path) -> None:
    def nest(root: Path, levels: int) -> None:
        fd = os.open(root, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open("leaf", os.O_CREAT, dir_fd=fd))
        os.close(fd)

    async def main() -> None:
        async with service(tmp_path / "d") as images:
            await imported(images)
            await prepare(images, "deep", images.resolve("app"))
            write(images, "deep", lambda root: nest(root, 390))
            assert len(await images.roots.changes("deep")) == 391
            await images.commit("deep", config=None, container_config={}, parent=images.resolve("app"), repo="deep")
            await prepare(images, "deeper", None)
            write(images, "deeper", lambda root: nest(root, 6000))
            with pytest.raises(InvalidArgument, match="nested deeper than 460 levels"):
                await images.roots.changes("deeper")
            with pytest.raises(InvalidArgument, match="nested deeper than 460 levels"):
                await collected(images.roots.export("deeper"))
            assert await images.roots.usage("deeper") == (0, 0)
            for name in ("deep", "deeper"):
                discard(images, name)
            await images.remove("deep")
            assert emptied(tmp_path / "d"), "removed all the same"

    run(main())


# -- archives ---------------------------------------------------------------------------------------------------------


async def three_images(images: Images) -> list[str]:
    first = await imported(images, repo="one", tag="a", changes=["LABEL n=1"])
    await prepare(images, "c", images.resolve(first))
    write(images, "c", lambda root: (root / "more").write_bytes(os.urandom(3_000_000)))
    second = await images.commit(
        "c", config=None, container_config={}, parent=images.resolve(first), repo="two", tag=""
    )
    discard(images, "c")
    await images.tag("two", "registry.example:5000/deep/two", "b")
    third = await imported(images, archive(member("alone", b"1")), repo="")
    return [first, second, third]


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            ids = await three_images(images)
            names = ["one:a", "two", "registry.example:5000/deep/two:b", ids[2]]
            saved = await collected(images.transfer.save(names))
            inspected = [await images.inspect(id) for id in ids]
        with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
        manifest = json.loads(files["manifest.json"])
        assert [m["RepoTags"] for m in manifest] == [
            ["one:a"],
            ["two:latest", "registry.example:5000/deep/two:b"],
            None,
        ]
        assert manifest[1]["Parent"] == ids[0]
        index = json.loads(files["index.json"])
        assert [(m.get("annotations") or {}).get("io.containerd.image.name") for m in index["manifests"]] == [
            "docker.io/library/one:a", "docker.io/library/two:latest", "registry.example:5000/deep/two:b", None,
        ]  # fmt: skip
        for name, data in files.items():
            if name.startswith("blobs/sha256/"):
                assert hashlib.sha256(data).hexdigest() == name.rpartition("/")[2]
        async with service(tmp_path / "e") as images:
            messages = [m async for m in images.transfer.load(stream(saved), quiet=False)]
            said = [m["stream"] for m in messages if "stream" in m]
            assert said == [
                "Loaded image: one:a\n", "Loaded image: two:latest\n",
                "Loaded image: registry.example:5000/deep/two:b\n", f"Loaded image ID: {ids[2]}\n",
            ]  # fmt: skip
            layers = [m for m in messages if m.get("status") == "Loading layer"]
            assert {len(m["id"]) for m in layers} == {12} and layers[-1]["progress"].startswith("[====")
            for id, before in zip(ids, inspected):
                after = await images.inspect(id)
                for key in ("Id", "RepoTags", "Parent", "Size", "RootFS", "Config", "Created"):
                    assert after[key] == before[key], key
            assert await collected(images.transfer.save(names)) is not None
            # the OCI layout alone does as well
            oci = archive(*(member(n, d) for n, d in files.items() if n not in ("manifest.json", "repositories")))
        async with service(tmp_path / "f") as images:
            assert [m async for m in images.transfer.load(stream(oci))]
            assert images.resolve("registry.example:5000/deep/two:b").id == ids[1]
            assert images.resolve(ids[2]).repo_tags == ()

    run(main())


def oci_archive(layers: dict[str, bytes]) -> bytes:
    """An OCI layout with one image for several platforms and an attestation, as buildx writes it."""
    blobs: dict[str, bytes] = {}

    def put(document: object) -> tuple[str, int]:
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        digest = hashlib.sha256(raw).hexdigest()
        blobs[digest] = raw
        return f"sha256:{digest}", len(raw)

    def described(media: str, document: object, **more: object) -> dict[str, object]:
        digest, size = put(document)
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": digest, "size": size, **more}

    entries = []
    for name, layer in layers.items():
        system, architecture, *variant = name.split("/")
        platform = {"os": system, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        content = described("layer.v1.tar", layer)
        config = {**platform, "rootfs": {"type": "layers", "diff_ids": [content["digest"]]}, "config": {}}
        manifest = {
            "schemaVersion": 2, "config": described("config.v1+json", config), "layers": [content],
        }  # fmt: skip
        entries.append(described("manifest.v1+json", manifest, platform=platform))
    unknown = {"os": "unknown", "architecture": "unknown"}
    entries.append(described("manifest.v1+json", {"schemaVersion": 2, "attestation": True}, platform=unknown))
    names = {"io.containerd.image.name": "docker.io/library/multi:1"}
    nested = described("index.v1+json", {"schemaVersion": 2, "manifests": entries}, annotations=names)
    index = json.dumps({"schemaVersion": 2, "manifests": [nested]}).encode()
    members = [member(f"blobs/sha256/{digest}", raw) for digest, raw in blobs.items()]
    return archive(member("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), *members, member("index.json", index))


def test_an_image_for_several_platforms_loads_the_one_that_suits(tmp_path: Path) -> None:
    layers = {name: archive(member(name.replace("/", "-"), b"1")) for name in
              ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6")}  # fmt: skip
    data = oci_archive(layers)

    async def main() -> None:
        async with service(tmp_path / "d") as images:
            [_ async for _ in images.transfer.load(stream(data))]
            loaded = images.resolve("multi:1")
            assert (loaded.os, loaded.architecture) == ("linux", platforms.HOST.architecture), "this machine's"
            assert len(await images.list(all=True)) == 1, "and no attestation"
            for asked, variant in (("linux/arm/v7", "v7"), ("linux/arm/v6", "v6"), ("linux/arm64", "")):
                [_ async for _ in images.transfer.load(stream(data), platform=platforms.parse(asked))]
                config = images.resolve("multi:1").config
                assert config["architecture"] == asked.split("/")[1] and config.get("variant", "") == variant
            assert [m async for m in images.transfer.load(stream(data), platform=platforms.parse("linux/s390x"))] == [
                {}
            ]
            with pytest.raises(Internal, match="no suitable export target found for platform linux/amd64"):
                await collected(images.transfer.save(["multi:1"], platform=platforms.parse("linux/amd64")))
            saved = await collected(images.transfer.save(["multi:1"], platform=platforms.parse("linux/arm64")))
            assert b"linux-arm64" in saved

    run(main())


def test_load_moves_a_name_and_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            await imported(images)
            saved = await collected(images.transfer.save(["app"]))
            await images.remove("app")
            other = await imported(images, archive(member("f", b"1")))
            said = [m["stream"] async for m in images.transfer.load(stream(saved))]
            assert said[0] == (
                f"The image app:latest already exists, renaming the old one with ID {other} to empty string\n"
            )
            with pytest.raises(NotFound, match=r"^No such image: nope$"):
                await collected(images.transfer.save(["app", "nope"]))

    run(main())


def docker_archive(config: bytes, layers: dict[str, bytes], **manifest: Any) -> bytes:
    item = {"Config": "c.json", "RepoTags": ["bad:1"], "Layers": list(layers), **manifest}
    return archive(
        member("manifest.json", json.dumps([item]).encode()), member("c.json", config),
        *(member(name, data) for name, data in layers.items()),
    )  # fmt: skip


def test_many_layers_are_put_on_the_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that takes a syncfs it is one, and no image is visible before it."""
    made = {f"{n}.tar": archive(member(f"f{n}", b"%d" % n)) for n in range(5)}
    ids = [f'"sha256:{hashlib.sha256(layer).hexdigest()}"' for layer in made.values()]
    data = docker_archive(b'{"rootfs": {"diff_ids": [%s]}}' % ",".join(ids).encode(), made, RepoTags=["a:1"])
    calls = []

    async def main() -> None:
        async with service(tmp_path / "d") as images:
            real = filesystems.syncfs

            def counted(fd: int) -> None:
                assert len(images.layers.all()) == 5 and not images.catalog.images.all()
                calls.append(fd)
                real(fd)

            monkeypatch.setattr(filesystems, "syncfs", counted)
            monkeypatch.setattr(flush, "commits_in_order", lambda fd: False)
            [m async for m in images.transfer.load(stream(data))]
            assert len(calls) == 1
            assert [record.unsynced for record in images.layers.all()] == [""] * 5

    run(main())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a tar", "unexpected EOF"),
        (archive(member("x", b"y")), "neither manifest.json nor index.json"),
        (archive(member("manifest.json", b"{")), "unexpected EOF"),
        (archive(member("manifest.json", b'{"a": 1}')), "invalid manifest.json: not a list of objects"),
        (archive(member("manifest.json", b'[{"Config": 5}]')), "wrong type"),
        (archive(member("manifest.json", b'[{"Config": "nope"}]')), "open nope: no such file or directory"),
        (docker_archive(b"{}", {}), "invalid image JSON, no RootFS key"),
        (docker_archive(b'{"rootfs": {"diff_ids": []}}', {"l": ROOTFS}), "layers length mismatch: expected 1, got 0"),
        (
            docker_archive(b'{"rootfs": {"diff_ids": ["sha256:%s"]}}' % (b"0" * 64), {"l": ROOTFS}),
            'invalid diffID for layer 0: expected "sha256:0000',
        ),
        (docker_archive(b'{"rootfs": {"diff_ids": ["a"]}}', {"l": b"junk" * 300}), "invalid tar header"),
        (docker_archive(b'{"rootfs": {"diff_ids": []}}', {}, RepoTags=["Bad Tag"]), "must be lowercase"),
        (docker_archive(b"", {}, Config="../../../../etc/passwd"), 'invalid entry name "../../../../etc/passwd"'),
        (archive(member("../../x", b"1")), 'invalid entry name "../../x"'),
        (
            archive(symlink("manifest.json", "/etc/passwd")),
            "open manifest.json: no such file or directory",
        ),
        (archive(member("index.json", b'{"manifests": [{"digest": "sha256:../../x"}]}')), "invalid digest"),
        (archive(member("index.json", b'{"manifests": [], "layers": []}')), "it is both an index and a manifest"),
        (archive(member("index.json", b'{"manifests": [{"digest": "sha256:%s"}]}' % (b"a" * 64),),
                 member("blobs/sha256/" + "a" * 64, b"{}")), "its content has another digest"),
    ],
)  # fmt: skip
def test_a_bad_archive_is_named_and_leaves_nothing(tmp_path: Path, data: bytes, message: str) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            with pytest.raises(InvalidArgument, match=message.replace("[", r"\[")):
                [m async for m in images.transfer.load(stream(data))]
            assert await images.list() == [] and images.layers.all() == []
            assert directories(tmp_path / "d") == set() and os.listdir(tmp_path / "d/content/ingest") == []
            assert os.listdir(tmp_path / "d/content/blobs/sha256") == [] and emptied(tmp_path / "d")

    run(main())


# -- removal ----------------------------------------------------------------------------------------------------------


def test_removal_follows_dockers_rules(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            id = await imported(images, tag="1")
            short = id[7:19]
            await images.tag(id, "app", "2")
            assert await images.remove("app:1") == [{"Untagged": "app:1"}]
            await prepare(images, "container0000", images.resolve(id))
            with pytest.raises(
                Conflict,
                match=r'unable to remove repository reference "app:2" \(must force\) - container container000 is '
                rf"using its referenced image {short}",
            ):
                await images.remove("app:2")
            with pytest.raises(
                Conflict,
                match=rf"unable to delete {short} \(must be forced\) - image is being used by stopped container",
            ):
                await images.remove(short)
            with pytest.raises(Conflict, match=r"\(cannot be forced\) - image is being used by running container"):
                await images.remove(id, force=True, running={"container0000"})
            await images.tag(id, "elsewhere/app", "3")
            with pytest.raises(Conflict, match=r"\(must be forced\) - image is (referenced|being used)"):
                await images.remove(id)
            await images.remove("elsewhere/app:3")
            records = await images.remove(id, force=True)
            assert records == [{"Untagged": "app:2"}, {"Deleted": id}], "the layer stays: a container stands on it"
            assert len(directories(tmp_path / "d")) == 2
            discard(images, "container0000")
            assert directories(tmp_path / "d") == set(), "and goes with the container"
            with pytest.raises(NotFound, match=r"^No such image: app:2$"):
                await images.remove("app:2")

    run(main())


def test_an_image_that_is_made_while_it_is_removed_is_whole(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            await imported(images)
            saved = await collected(images.transfer.save(["app"]))
            real, taken = images.content.put, 0

            def put(data: bytes, *, durable: bool = True) -> str:
                nonlocal taken
                digest = real(data, durable=durable)
                if not taken:
                    taken = 1
                    os.unlink(images.content.path(digest))  # as a removal that comes between
                return digest

            images.content.put = put  # type: ignore[method-assign]
            [_ async for _ in images.transfer.load(stream(saved))]
            assert taken and await collected(images.transfer.save(["app"]))
            for _ in range(5):
                loading = asyncio.create_task(anext_all(images.transfer.load(stream(saved))))
                await asyncio.gather(images.remove("app"), return_exceptions=True)
                await loading
                [_ async for _ in images.transfer.load(stream(saved))]
                assert await collected(images.transfer.save(["app"]))
        async with service(tmp_path / "d") as images:
            assert await collected(images.transfer.save(["app"])) and len(directories(tmp_path / "d")) == 1

    run(main())


async def anext_all(messages: AsyncIterator[Any]) -> None:
    async for _ in messages:
        pass


def test_parents_children_and_prune(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            ids = await three_images(images)
            assert (await images.remove("one:a")) == [{"Untagged": "one:a"}]
            with pytest.raises(Conflict, match=r"\(cannot be forced\) - image has dependent child images"):
                await images.remove(ids[0], force=True)
            assert {row["Id"] for row in await images.list()} == {ids[1], ids[2]}, "an intermediate image is not listed"
            assert len(await images.list(all=True)) == 3
            assert [r["Id"] for r in await images.list({"dangling": {"true"}})] == [ids[2]]
            layer = images.resolve(ids[2]).chain_id
            report = await images.prune()
            assert (
                report["ImagesDeleted"] == [{"Deleted": ids[2]}, {"Deleted": layer}] and report["SpaceReclaimed"] == 1
            )
            assert await images.prune() == {"ImagesDeleted": None, "SpaceReclaimed": 0}
            assert await images.remove("two") == [{"Untagged": "two:latest"}]
            records = await images.remove("registry.example:5000/deep/two:b")
            assert [next(iter(r)) for r in records] == ["Untagged", "Deleted", "Deleted", "Deleted", "Deleted"]
            assert await images.list(all=True) == [] and directories(tmp_path / "d") == set()
            assert os.listdir(tmp_path / "d/content/blobs/sha256") == [] and emptied(tmp_path / "d")

    run(main())


# -- what the start repairs and names ---------------------------------------------------------------------------------


def test_strays_are_reaped_at_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            id = await imported(images)
            keep = directories(tmp_path / "d")
        root = tmp_path / "d"
        (root / "snapshots/77/fs/half").mkdir(parents=True)
        (root / "trash/snapshot-3-ab/fs").mkdir(parents=True)
        (root / "content/blobs/sha256" / ("1" * 64)).write_text("unknown")
        (root / "content/ingest/tmp123").write_text("half")
        (root / "content/ingest/load-x").mkdir()
        async with service(tmp_path / "d") as images:
            assert directories(root) == keep and emptied(root)
            assert os.listdir(root / "content/blobs/sha256") == [id.removeprefix("sha256:")]
            assert os.listdir(root / "content/ingest") == []

    run(main())


def test_a_missing_blob_is_named_and_the_image_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            id = await imported(images, tag="1")
            other = await imported(images, archive(member("f", b"1")), repo="other")
        blob = tmp_path / "d/content/blobs/sha256" / id.removeprefix("sha256:")
        blob.write_bytes(blob.read_bytes().replace(b"linux", b"LINUX"))
        async with service(tmp_path / "d") as images:
            assert [row["Id"] for row in await images.list()] == [other]
            assert len(directories(tmp_path / "d")) == 1
        [said] = [r.getMessage() for r in caplog.records if "cannot be read" in r.getMessage()]
        assert f"image {id} (docker.io/library/app:1) cannot be read: content {id} is damaged" in said
        assert "import, load or pull it again" in said

    run(main())


def test_a_missing_directory_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            await imported(images)
            await prepare(images, "c1", images.resolve("app"))
        for name in directories(tmp_path / "d"):
            shutil.rmtree(tmp_path / "d/snapshots" / name)
        async with service(tmp_path / "d") as images:
            said = " ".join(r.getMessage() for r in caplog.records)
            assert "of layer sha256:" in said and "of container c1 is missing: the container cannot start" in said
            with pytest.raises((SampanError, OSError), match=r"No such file|missing"):
                await collected(images.transfer.save(["app"]))
            discard(images, "c1")
            await images.remove("app")
            assert await imported(images), "and the way out works"

    run(main())


def test_a_damaged_layer_is_found_when_saved(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            await imported(images)
            [number] = directories(tmp_path / "d")
            (tmp_path / "d/snapshots" / number / "fs/etc/passwd").write_bytes(b"r00t:x:0:0::/:/bin/sh\n")
            with pytest.raises(Internal, match=r"layer sha256:\w+ is damaged: its files in .* give sha256:\w+, not"):
                await collected(images.transfer.save(["app"]))

    run(main())


# -- failures on the way ----------------------------------------------------------------------------------------------


def test_a_client_that_hangs_up_leaves_no_trace(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield ROOTFS[:3000]
        raise ConnectionResetError("gone")

    async def endless() -> AsyncIterator[bytes]:
        yield ROOTFS[:3000]
        await asyncio.Event().wait()

    async def main() -> None:
        async with service(tmp_path / "d") as images:
            with pytest.raises(ConnectionResetError):
                [m async for m in images.transfer.import_(broken(), repo="app")]

            async def consume() -> None:
                [m async for m in images.transfer.import_(endless(), repo="app")]

            task = asyncio.create_task(consume())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert directories(tmp_path / "d") == set() and await images.list() == [] and emptied(tmp_path / "d")
            assert await imported(images)

    run(main())


def test_stalled_clients_hold_nobody_up(tmp_path: Path) -> None:
    stop = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield ROOTFS[:1000]
        await stop.wait()

    async def main() -> None:
        async with service(tmp_path / "d") as images:
            id = await imported(images, archive(member("f", os.urandom(30_000_000))))
            await prepare(images, "c", images.resolve(id))

            async def first(messages: AsyncIterator[object]) -> object:
                return await anext(messages)

            uploads = [asyncio.create_task(first(images.transfer.import_(stalled(), repo="x"))) for _ in range(10)]
            loads = [asyncio.create_task(first(images.transfer.load(stalled()))) for _ in range(10)]
            readers = [images.transfer.save([id]) for _ in range(10)]
            for reader in readers:
                await anext(reader)  # and never again
            await asyncio.wait_for(images.roots.usage("c"), 10)
            await asyncio.wait_for(imported(images, repo="other"), 10)
            for task in uploads + loads:
                task.cancel()
            cancelled = [asyncio.create_task(first(images.transfer.import_(stalled(), repo="x"))) for _ in range(5)]
            for task in cancelled:
                task.cancel()  # before its first step
            results = await asyncio.wait_for(asyncio.gather(*uploads, *loads, *cancelled, return_exceptions=True), 20)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            for reader in readers:
                await asyncio.wait_for(reader.aclose(), 10)  # type: ignore[attr-defined]
            assert len(directories(tmp_path / "d")) == 3 and os.listdir(tmp_path / "d/content/ingest") == []

    run(main())


def in_child(work: Callable[[], None]) -> None:
    """Run in a forked child with a mount namespace of its own; its failure is the test's."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            namespaces.unshare(namespaces.CLONE_NEWNS)
            mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
            work()
            status = 0
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, said


def test_enospc_is_named_and_nothing_partial_is_visible(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "full") as images:
            small = await imported(images, repo="small")
            big = archive(*(member(f"f{n}", os.urandom(500_000)) for n in range(60)))
            with pytest.raises((OSError, SampanError)) as failure:
                await imported(images, big, repo="big")
            assert getattr(failure.value, "errno", None) == errno.ENOSPC
            assert [row["Id"] for row in await images.list()] == [small] and len(directories(tmp_path / "full")) == 1
            assert emptied(tmp_path / "full")
            assert await imported(images, archive(member("f", b"fits")), repo="after"), "no wedge"

    def work() -> None:
        (tmp_path / "full").mkdir()
        mounts.mount("tmpfs", str(tmp_path / "full"), "tmpfs", 0, "size=12m")
        asyncio.run(main())

    in_child(work)


def test_emfile_is_an_error_and_not_a_wedge(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            await imported(images)
            hoard = []
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (60, limit[1]))
            while len(os.listdir("/proc/self/fd")) < 60:
                hoard.append(os.open("/dev/null", os.O_RDONLY))
            with pytest.raises(OSError, match="Too many open files"):
                await imported(images, archive(member("f", b"1")), repo="more")
            for fd in hoard:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            assert len(await images.list()) == 1 and len(directories(tmp_path / "d")) == 1
            assert await imported(images, archive(member("f", b"1")), repo="more")

    in_child(lambda: asyncio.run(main()))


def open_files() -> list[str]:
    """What this process has open, without the numbers."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(link).partition(":[")[0] for link in links if os.path.lexists(link))


def others() -> list[str]:
    """Threads beside the pool's, whose number is bounded, and the timer that gives buffers back a second later."""
    passing = ("images_", "images-buffers")
    return sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith(passing))


def mounted(below: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(below) in line]


def test_nothing_grows(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path / "d") as images:
            id = await imported(images)
            for turn in range(3):
                for n in range(100):
                    await prepare(images, f"c{n}", images.resolve(id))
                    os.close(images.roots.open_root(f"c{n}", writable=True))
                for n in range(100):
                    discard(images, f"c{n}")
                extra = await imported(images, archive(member("f", b"%d" % turn)), repo="x")
                await collected(images.transfer.save(["x", "app"]))
                await images.remove(extra, force=True)
                assert emptied(tmp_path / "d"), "the reaper is done, and holds nothing open"
                now = (
                    open_files(), others(), directories(tmp_path / "d"),
                    len(images.store.holders(Ref("image", id))), mounted(tmp_path),
                )  # fmt: skip
                if turn == 0:
                    first = now
            assert now == first

    run(main())


CRASHER = """
import asyncio, os, sys
from pathlib import Path
from tests.kernel.images.test_service import *
async def main():
    async with service(Path(sys.argv[1])) as images:
        base = images.resolve((await images.list(all=True))[0]["Id"]) if await images.list() else None
        if base is None:
            base = images.resolve(await imported(images, repo="base"))
        sys.stdout.write("ready\\n"); sys.stdout.flush()
        n = int(sys.argv[2]) * 1000
        while True:
            n += 1
            data = archive(*(member(f"f{k}", os.urandom(2000)) for k in range(40)))
            id = await imported(images, data, repo=f"i{n}")
            await prepare(images, f"c{n}", images.resolve(id))
            write(images, f"c{n}", lambda root: (root / "x").write_text("1"))
            image = images.resolve(id)
            made = await images.commit(f"c{n}", config=None, container_config={}, parent=image, repo=f"k{n}")
            sys.stdout.write(f"k{n} {made}\\n"); sys.stdout.flush()
            discard(images, f"c{n}")
            if n % 2:
                await images.remove(f"k{n}")
                await images.remove(f"i{n}", force=True)
                sys.stdout.write(f"k{n} gone\\n"); sys.stdout.flush()
asyncio.run(main())
"""


async def consistent(root: Path, acknowledged: dict[str, str]) -> int:
    """Start on what a crash left: everything visible is whole, everything on the disk has an owner.

    The number of images.
    """
    async with service(root) as images:
        for name, id in acknowledged.items():
            if id == "gone":
                with pytest.raises(NotFound):
                    images.resolve(name)
            elif name.endswith(tuple("02468")):  # the odd ones are removed again, unacknowledged perhaps
                assert images.resolve(name).id == id
        everything = await images.list(all=True)
        for row in everything:
            assert len(await collected(images.transfer.save([row["Id"]]))) > 1024, "every visible image is whole"
        wanted = {str(layer.snapshot) for layer in images.layers.all()}
        wanted |= {str(snapshot.snapshot) for snapshot in images.roots.all()}
        assert directories(root) == wanted
        used = {layer.id for row in everything for layer in images.layers.records(images.resolve(row["Id"]).chain_id)}
        used |= {layer.id for s in images.roots.all() for layer in images.layers.records(s.chain_id)}
        assert {layer.id for layer in images.layers.all()} == used, "no layer without a user"
        images.roots.retain((), images.unclaim)  # as the engine does for containers that it does not know
        assert images.roots.all() == []
        assert os.listdir(root / "content/ingest") == []
        assert len(os.listdir(root / "content/blobs/sha256")) == len(everything)
        return len(everything)


def test_kill_9_at_random_leaves_the_object_or_no_trace(tmp_path: Path) -> None:
    root = tmp_path / "d"
    acknowledged: dict[str, str] = {}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for turn in range(10):
        child = subprocess.Popen(
            [sys.executable, "-c", CRASHER, str(root), str(turn)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.013 * turn * turn % 0.37)  # any step will do
        child.send_signal(signal.SIGKILL)
        for line in child.stdout.read().splitlines():
            words = line.split()
            if len(words) == 2:
                acknowledged[words[0]] = words[1]
        child.wait()
        child.stdout.close()
        asyncio.run(consistent(root, acknowledged))
    assert any(id != "gone" for id in acknowledged.values()), "the test made something"


async def one_of_each(root: Path, saved: bytes) -> None:
    """Everything that changes the disk, once."""
    async with service(root) as images:
        id = await imported(images, repo="a")
        await imported(images, archive(member("f", b"1")), repo="a")
        await prepare(images, "c", images.resolve(id))
        write(images, "c", lambda root: (root / "x").write_text("1"))
        await images.commit("c", config=None, container_config={}, parent=images.resolve(id), repo="k")
        discard(images, "c")
        [message async for message in images.transfer.load(stream(saved))]
        await images.remove("k")
        await images.remove("loaded", force=True)
        await images.prune()


STEPS = ("rename", "mkdir", "unlink", "rmdir", "fsync", "setxattr", "chmod", "utime", "mkdtemp", "syncfs", "apply_now")
WATCHED = [(module, name) for name in STEPS for module in (os, tempfile, filesystems, Store) if hasattr(module, name)]


def die_at(step: int, work: Coroutine[Any, Any, None]) -> bool:
    """Run the work in a forked child that kills itself before its `step`th call of STEPS.

    Of apply_now also after the call.
    """
    pid = os.fork()
    if pid == 0:
        taken = 0

        def count() -> None:
            nonlocal taken
            taken += 1
            if taken == step:
                os.kill(os.getpid(), signal.SIGKILL)

        def counted(module: Any, name: str) -> None:
            real = getattr(module, name)

            def call(*args: Any, **options: Any) -> Any:
                count()
                result = real(*args, **options)
                if name == "apply_now":
                    count()
                return result

            setattr(module, name, call)

        try:
            for module, name in WATCHED:
                counted(module, name)
            asyncio.run(work)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    work.close()
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0


def test_kill_9_at_every_step_leaves_the_object_or_no_trace(tmp_path: Path) -> None:
    async def prepared() -> bytes:
        async with service(tmp_path / "source") as images:
            await imported(images, archive(directory("d"), member("d/f", b"1" * 3000)), repo="loaded")
            return await collected(images.transfer.save(["loaded"]))

    saved = asyncio.run(prepared())
    step, seen = 0, set()
    # death of the process, not of the machine: memory is as good as a disk, and flushes at once
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="sampan-images-") as place:
        root, left = Path(place) / "d", Path(place) / "left"
        for step in deaths(one_of_each(root, saved), WATCHED, root, left):
            try:
                seen.add(asyncio.run(consistent(left, {})))
            except BaseException as e:
                e.add_note(f"killed before step {step}")
                raise
    assert step > 60 and seen >= {0, 1, 2, 3}, (step, seen)


def test_images_of_one_time_are_listed_newest_first(tmp_path: Path) -> None:
    """Reproducible builds give many images one time: what came later is newer, a child always than its parent."""

    async def main() -> None:
        async with service(tmp_path / "d") as images:
            ids = []
            for number in range(5):
                layer = archive(member("f", b"%d" % number))
                found = archive(
                    member("config", b"x"), member("l.tar", layer), member("c.json", (config := json.dumps({
                        "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z", "config": {},
                        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
                    }).encode())),
                    member("manifest.json", json.dumps(
                        [{"Config": "c.json", "RepoTags": [f"app:{number}"], "Layers": ["l.tar"]}]
                    ).encode()),
                )  # fmt: skip
                assert [m async for m in images.transfer.load(stream(found))]
                ids.append("sha256:" + hashlib.sha256(config).hexdigest())

            async def shown(**filters: str) -> list[int]:
                rows = await images.list({name: [value] for name, value in filters.items()})
                return [ids.index(row["Id"]) for row in rows]

            assert await shown() == [4, 3, 2, 1, 0]
            assert (await shown(since="app:2"), await shown(before="app:2")) == ([4, 3], [1, 0])
            images.publisher.set_parent(ids[0], ids[3])
            assert await shown() == [4, 0, 3, 2, 1], "0 was made from 3"
            assert (await shown(since="app:3"), await shown(before="app:0")) == ([4, 0], [3, 2, 1])
            for row in await images.list():
                await images.remove(row["Id"], noprune=True)
            assert not images.layers.all()

    run(main())


def test_clients_that_stand_still_stop_nobody_else(tmp_path: Path) -> None:
    """Seventy that stop reading what save sends, and seventy that stop sending what load takes."""

    async def silent() -> AsyncIterator[bytes]:
        yield archive(member("f"))[:512]
        await asyncio.Event().wait()

    async def waiting() -> None:
        async for _ in images_.transfer.load(silent()):
            pass

    images_: Images

    async def main() -> None:
        nonlocal images_
        async with service(tmp_path / "d") as images:
            images_ = images
            big = archive(*(member(f"f{number}", bytes([number]) * 500_000) for number in range(8)))
            await imported(images, big)
            readers = [images.transfer.save(["app"]) for _ in range(70)]
            for reader in readers:
                assert await anext(reader)
            senders = [asyncio.create_task(waiting()) for _ in range(70)]
            await asyncio.sleep(0.1)
            try:
                async with asyncio.timeout(30):
                    saved = await collected(images.transfer.save(["app"]))
                    assert len(saved) > len(big)
                    async with images.layers.unpacking(lambda: iter([archive(member("x"))])) as staged:
                        assert staged.unpacked.diff_id
                    await prepare(images, "c", images.resolve("app"))
                    await images.commit("c", config=None, container_config={}, repo="made")
                    discard(images, "c")
            finally:
                for sender in senders:
                    sender.cancel()
                await asyncio.gather(*senders, return_exceptions=True)
                for reader in readers:
                    await reader.aclose()  # type: ignore[attr-defined]
            async with asyncio.timeout(30):
                await imported(images, archive(member("after")), repo="after")

    run(main())
