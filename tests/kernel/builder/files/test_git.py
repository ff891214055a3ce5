"""Git sources by the real git in a real task of the supervisor, from a git daemon and a web server on loopback."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sampan.engine.builder.files.git import Git
from sampan.engine.builder.files.hosttask import HostTask
from sampan.engine.builder.ops import GitOp
from sampan.engine.builder.trees import Tree
from sampan.engine.config import EngineConfig
from sampan.engine.hostpaths import HostPaths
from sampan.engine.tasks.seccomp import Filters
from sampan.errors import Internal, InvalidArgument, NotFound
from tests.kernel.supervisor.bench_of_tasks import bench

pytestmark = pytest.mark.root
TIME = 1_600_000_000


class Secrets:
    """A session that has secrets only."""

    id = "test"

    def __init__(self, **secrets: bytes) -> None:
        self._secrets = secrets

    async def secret(self, id: str) -> bytes:
        if id not in self._secrets:
            raise NotFound(f"secret {id} not found")
        return self._secrets[id]

    async def ssh_agent(self, id: str) -> Any:
        raise NotFound("no agent")


def git(directory: Path, *args: str, when: int = TIME) -> str:
    env = {
        **os.environ,
        "GIT_AUTHOR_DATE": f"{when} +0000",
        "GIT_COMMITTER_DATE": f"{when} +0000",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ALLOW_PROTOCOL": "file",
    }
    config = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", *config, *args], cwd=directory, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(repository: Path, message: str, when: int = TIME, **files: str) -> str:
    for name, content in files.items():
        path = repository / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", message, when=when)
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def served(tmp_path: Path, root: None) -> Iterator[tuple[Path, str]]:
    """A directory of repositories and the git:// URL that it is served at."""
    base = tmp_path / "served"
    base.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "git",
        "daemon",
        f"--base-path={base}",
        "--export-all",
        "--listen=127.0.0.1",
        f"--port={port}",
        str(base),
    ]
    env = {**os.environ, "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, process_group=0)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        yield base, f"git://127.0.0.1:{port}"
    finally:
        os.killpg(daemon.pid, 15)
        daemon.wait(10)


@asynccontextmanager
async def repositories(tmp_path: Path) -> AsyncIterator[Git]:
    """What an engine has."""
    (tmp_path / "scratch").mkdir()
    async with bench(tmp_path) as tasks:
        config = EngineConfig(data_root=str(tmp_path / "data"), exec_root=str(tasks.exec_root))
        os.makedirs(f"{tasks.exec_root}/builder", exist_ok=True)
        host_paths = HostPaths()
        task = HostTask(config, tasks.supervisor, Filters(host_paths))
        try:
            yield Git(task, str(tmp_path / "data" / "git"), str(tmp_path / "scratch"))
        finally:
            host_paths.close()
        assert os.listdir(f"{tasks.exec_root}/builder") == []


def read(tree: Tree, path: str) -> str:
    with tree.open(path) as file:
        return file.read().decode()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_a_branch_is_checked_out_as_old_as_its_commit(tmp_path: Path, served: tuple[Path, str]) -> None:
    base, url = served
    project = base / "project.git"
    project.mkdir()
    git(project, "init", "-q", "-b", "main")
    first = commit(project, "one", Dockerfile="FROM scratch\n", sub__file="1")
    git(project, "tag", "v1")
    second = commit(project, "two", when=TIME + 60, sub__file="2")
    (project / ".git/hooks/post-checkout").write_text("#!/bin/sh\ntouch /work/OUT/hooked\n")

    async def body() -> None:
        async with repositories(tmp_path) as repos:
            for ref, content, at, commit_id in (
                ("", "2", TIME + 60, second),
                ("v1", "1", TIME, first),
                ("main", "2", TIME + 60, second),
                (first, "1", TIME, first),
                (first[:12], "1", TIME, first),
            ):
                tree = await repos.checkout(GitOp(remote=f"{url}/project.git", ref=ref, checksum=commit_id[:10]))
                entries = tree.entries()
                assert sorted(entries) == ["Dockerfile", "sub", "sub/file"]
                assert read(tree, "sub/file") == content
                assert {e.mtime_ns // 10**9 for e in entries.values()} == {at}
                assert {(e.uid, e.gid) for e in entries.values()} == {(0, 0)}
                tree.close()
            tree = await repos.checkout(GitOp(remote=f"{url}/project.git?ref=v1&subdir=sub&keep-git-dir=1"))
            assert sorted(tree.entries()) == ["file"]
            tree.close()
            tree = await repos.checkout(GitOp(remote=f"{url}/project.git", keep_git_dir=True))
            assert ".git/HEAD" in tree.entries()
            tree.close()
            assert os.listdir(tmp_path / "scratch") == []

    run(body())


def test_what_cannot_be_had_is_said_and_leaves_nothing(tmp_path: Path, served: tuple[Path, str]) -> None:
    base, url = served
    project = base / "project.git"
    project.mkdir()
    git(project, "init", "-q", "-b", "main")
    (project / "escape").symlink_to("/etc")
    head = commit(project, "one", a="1")

    async def refused(repos: Git, kind: type[Exception], words: str, **op: Any) -> None:
        with pytest.raises(kind, match=words):
            await repos.checkout(GitOp(**{"remote": f"{url}/project.git", **op}))

    async def body() -> None:
        async with repositories(tmp_path) as repos:
            await refused(repos, Internal, '^repository does not contain ref nope, output: ""$', ref="nope")
            await refused(repos, Internal, r"unable to read tree \(a{40}\)\n: exit status 128$", ref="a" * 40)
            await refused(repos, Internal, "access denied or repository not exported", remote=f"{url}/none.git")
            await refused(repos, InvalidArgument, f"expected checksum to match 1234567, got {head}", checksum="1234567")
            await refused(repos, InvalidArgument, "no such file or directory", subdir="missing")
            await refused(repos, InvalidArgument, "no such file or directory|non-directory", subdir="escape/ssl")
            await refused(repos, InvalidArgument, '^invalid subdir /a: git subpath "/a" contains non-dir', subdir="a")
            await refused(repos, InvalidArgument, '^invalid subdir /up: failed to lstat "up": ', subdir="../up")
            await refused(repos, InvalidArgument, "should be http, https, git or ssh", remote="ext::sh -c id")
            await refused(repos, InvalidArgument, "should be http, https, git or ssh", remote="file:///etc/.git")
            await refused(repos, InvalidArgument, "invalid git address", ref="--upload-pack=id")
            await refused(repos, Internal, "Connection refused", remote="ssh://git@127.0.0.1:1/x.git")
            assert os.listdir(tmp_path / "scratch") == []

    run(body())


def test_submodules_come_along_but_never_from_a_path_of_the_host(tmp_path: Path, served: tuple[Path, str]) -> None:
    base, url = served
    for name in ("inner.git", "outer.git", "evil.git"):
        (base / name).mkdir()
        git(base / name, "init", "-q", "-b", "main")
    commit(base / "inner.git", "in", data="inside")
    git(base / "outer.git", "submodule", "add", "-q", f"{base}/inner.git", "dep")
    git(base / "outer.git", "config", "-f", ".gitmodules", "submodule.dep.url", "../inner.git")
    commit(base / "outer.git", "out", own="1")
    git(base / "evil.git", "submodule", "add", "-q", f"{base}/inner.git", "dep")
    git(base / "evil.git", "config", "-f", ".gitmodules", "submodule.dep.url", "file:///usr/share/inner.git")
    commit(base / "evil.git", "out", own="1")

    async def body() -> None:
        async with repositories(tmp_path) as repos:
            tree = await repos.checkout(GitOp(remote=f"{url}/outer.git"))
            assert sorted(tree.entries()) == [".gitmodules", "dep", "dep/data", "own"]
            assert read(tree, "dep/data") == "inside"
            tree.close()
            with pytest.raises(Internal, match="transport 'file' not allowed"):
                await repos.checkout(GitOp(remote=f"{url}/evil.git"))

    run(body())


def test_the_clients_token_goes_to_its_host(tmp_path: Path, root: None) -> None:
    """And stands neither in what is kept nor in the error."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.Response(status=403, text="no")

    async def body() -> None:
        app = web.Application()
        app.router.add_get("/{rest:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with repositories(tmp_path) as repos:
                with pytest.raises(Internal, match="403") as caught:
                    await repos.checkout(
                        GitOp(remote=f"http://127.0.0.1:{port}/private.git"),
                        Secrets(GIT_AUTH_TOKEN=b"hush-hush\n"),  # type: ignore[arg-type]
                    )
                assert "hush" not in caught.value.message
        finally:
            await runner.cleanup()

    run(body())
    assert seen and set(seen) == {"basic " + base64.b64encode(b"x-access-token:hush-hush").decode()}
    encoded = base64.b64encode(b"x-access-token:hush-hush")
    for directory, _, names in os.walk(tmp_path):
        for name in names:
            if os.path.isfile(f"{directory}/{name}"):
                content = Path(directory, name).read_bytes()
                assert b"hush-hush" not in content and encoded not in content
