"""RUN on a real engine: what a step sees, what it leaves, its mounts, its failures, and that nothing else stays."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.builder.failures import BuildFailure, NotAllowed, StepFailed
from sampan.engine.builder.files.tartree import TarTree
from sampan.engine.builder.ops import Copy, FileOp, LocalOp, Mkdir, Mkfile, RunMount, RunOp, ScratchOp, Vertex
from sampan.engine.builder.session import LocalRequest
from sampan.engine.builder.state import LayerChain
from sampan.engine.builder.trees import Tree
from sampan.engine.builder.uploaded import UploadedSession
from sampan.errors import InvalidArgument, NotFound, SampanError
from sampan.spec import oci_image
from sampan.spec.engine_api.network import NetworkCreateRequest
from tests.kernel.builder.bench import ENV, Bench, Client, Watch, bench, failing, mount_points

pytestmark = pytest.mark.root

ALLOWED = {"entitlements": {"security-insecure": True}}
SECRET = b"correct-horse-battery-staple"


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test gives back its mounts; `bench` looks after networks and tasks."""
    mounts = set(mount_points())
    yield
    assert not [path for path in set(mount_points()) - mounts if "sampan-builder" in path]


async def output(b: Bench, script: str, *, client: Client | None = None, serial: bool = False, **fields: Any) -> str:
    """What a RUN of the script says."""
    _, watch = await b.solve(b.run(script, **fields), client=client, serial=serial)
    return watch.output.decode()


def test_a_step_sees_what_buildkits_and_the_classic_builders_see() -> None:
    async def body() -> None:
        async with bench() as b:
            script = "hostname; cat /etc/hosts; env; grep CapEff /proc/self/status; cat /etc/resolv.conf >/dev/null"
            _, watch = await b.solve(b.run(script))
            text = watch.output.decode()
            assert text.startswith("buildkitsandbox\n127.0.0.1\tlocalhost buildkitsandbox\n")
            assert "00000000a80425fb" in text and "HOSTNAME" not in text
            _, watch = await b.solve(b.run(script + " #", extra_hosts=(("db", "10.1.2.3"),)), serial=True)
            lines = watch.output.decode().splitlines()
            assert len(lines[0]) == 12 and f"HOSTNAME={lines[0]}" in lines and "10.1.2.3\tdb" in lines
            assert any(line.endswith(f"\t{lines[0]}") for line in lines), "its own address is in /etc/hosts"

    run(body())


def test_buildkits_steps_have_nothing_of_a_container_around_them() -> None:
    async def body() -> None:
        async with bench() as b:
            assert ".dockerenv" not in await output(b, "ls -a /; ls /etc")
            hosts = await output(b, "cat /etc/hosts", extra_hosts=(("host", "host-gateway"), ("v6", "::1")))
            assert hosts.splitlines()[2].endswith("\thost") and hosts.splitlines()[3] == "::1\tv6"
            assert "host-gateway" not in hosts
            assert ".dockerenv" in await output(b, "ls -a / #", serial=True)
            tool = FileOp(base=ScratchOp(), actions=(Copy(source=b.base, patterns=("/bin/busybox",), dest="/busybox"),))
            step = RunOp(base=tool, args=("/busybox", "sh", "-c", "/busybox ls /; /busybox touch /x"), env=ENV)
            (state,), watch = await b.solve(step)
            assert watch.output.split() == [b"busybox", b"dev", b"etc", b"proc", b"sys"]
            assert b.names(state) == ["x"], "what was only made to mount upon does not stay"

    run(body())


def test_only_what_a_step_changed_is_in_its_layer() -> None:
    async def body() -> None:
        async with bench() as b:
            mounts = (
                RunMount(kind="cache", target="/root/.cache/tool"),
                RunMount(kind="tmpfs", target="/scratch", size_bytes=1 << 20),
                RunMount(kind="secret", target="/run/secrets/s", id="s"),
            )
            script = "echo x > /root/.cache/tool/x; echo y > /scratch/y; cat /run/secrets/s; echo made > /tmp/made"
            (state,), watch = await b.solve(b.run(script, mounts=mounts), client=Client(secrets={"s": SECRET}))
            assert watch.output == SECRET
            assert b.names(state) == ["tmp", "tmp/made"]
            (kept,), _ = await b.solve(
                b.run("cat /run/secrets/s > /run/kept", mounts=mounts[2:]), client=Client(secrets={"s": b"k"})
            )
            assert b.names(kept) == ["run", "run/kept"]

    run(body())


def test_an_empty_step_is_an_empty_layer_for_buildkit_and_none_for_the_classic_builder() -> None:
    async def body() -> None:
        async with bench() as b:
            (base,), _ = await b.solve(b.base)
            (state,), _ = await b.solve(b.run("true"))
            assert state.diff_ids == (*base.diff_ids, oci_image.EMPTY_LAYER_DIFF_ID)
            (state,), watch = await b.solve(b.run("true"), serial=True)
            assert state == base and not watch.cached(), "a RUN of BuildKit's is none of the classic builder's"
            (state,), watch = await b.solve(b.run("true"), serial=True)
            assert state == base and watch.cached()

    run(body())


def test_mount_kinds() -> None:
    async def body() -> None:
        async with bench() as b:
            context = b.root / "context"
            (context / "sub").mkdir(parents=True)
            (context / "sub" / "file").write_text("from the context")
            local = LocalOp(context="context")
            client = Client(contexts={"context": str(context)}, secrets={"s": SECRET})
            stage = b.run("mkdir /out; echo built > /out/result")

            async def said(script: str, *mounts: RunMount) -> str:
                _, watch = await b.solve(b.run(script, mounts=mounts), client=client)
                return watch.output.decode()

            bind = RunMount(kind="bind", target="/ctx", source=local)
            assert await said("cat /ctx/sub/file; touch /ctx/x 2>&1 || true", bind) == (
                "from the contexttouch: /ctx/x: Read-only file system\n"
            )
            writable = RunMount(kind="bind", target="/ctx", source=local, writable=True)
            assert await said("echo 1 > /ctx/sub/file && cat /ctx/sub/file", writable) == "1\n"
            assert (context / "sub" / "file").read_text() == "from the context"
            one = RunMount(kind="bind", target="/one", source=local, path="sub/file")
            assert await said("cat /one", one) == "from the context"
            of_stage = RunMount(kind="bind", target="/s", source=stage, path="/out", writable=True)
            assert await said("cat /s/result; echo > /s/more", of_stage) == "built\n"
            assert await said("ls /s", of_stage) == "result\n"
            secret = RunMount(kind="secret", target="/deep/er/s", id="s", uid=65534, mode=0o440)
            assert await said("stat -c '%a %u' /deep/er/s; cat /deep/er/s", secret) == f"440 65534\n{SECRET.decode()}"
            variable = RunMount(kind="secret", id="s", env="TOKEN")
            assert await said('echo "$TOKEN"', variable) == SECRET.decode() + "\n"
            assert await said("ls /run || true", RunMount(kind="secret", target="/run/no", id="absent")) != ""
            with failing(NotFound, match="secret absent: not found"):
                await said("true", RunMount(kind="secret", target="/s", id="absent", required=True))
            with pytest.raises(SampanError, match="nope"):
                await said("true", RunMount(kind="bind", target="/s", source=stage, path="/nope"))

    run(body())


def test_cache_mounts_are_shared_private_or_locked_and_can_begin_with_something() -> None:
    async def body() -> None:
        async with bench() as b:
            seed = b.run("mkdir /seed; echo first > /seed/f; chown 65534 /seed/f")
            mount = RunMount(kind="cache", target="/c", id="k", source=seed, path="/seed", mode=0o700, uid=65534)
            assert (
                await output(b, "cat /c/f; echo more > /c/g; stat -c '%a %u' /c", mounts=(mount,))
                == "first\n700 65534\n"
            )
            assert await output(b, "ls /c", mounts=(mount,)) == "f\ng\n"
            own = RunMount(kind="cache", target="/c", id="p", sharing="private")
            script = "ls /c; touch /c/$RANDOM; until [ -e /both/1 -a -e /both/2 ]; do sleep 0.01; done"
            meet = RunMount(kind="cache", target="/both", id="both")
            await b.solve(*(b.run(f"touch /both/{n}; {script}", mounts=(own, meet)) for n in (1, 2)))
            assert sum(1 for r in await b.solver.disk_usage() if "id p" in r["Description"]) == 2
            locked = RunMount(kind="cache", target="/c", id="l", sharing="locked")
            alone = "mkdir /c/lock && sleep 0.1 && rmdir /c/lock"
            await b.solve(*(b.run(f"{alone} # {n}", mounts=(locked,)) for n in range(4)))

    run(body())


def test_a_cache_mount_travels_as_an_archive() -> None:
    async def body() -> None:
        async with bench() as b:
            mount = RunMount(kind="cache", target="/c", id="k")
            await b.solve(b.run("echo kept > /c/f; ln -s f /c/l", mounts=(mount,)))
            data = b"".join([chunk async for chunk in b.solver.mounts.export("k")])

            async def chunks() -> Any:
                yield data

            await b.solver.mounts.import_("other", chunks())
            other = RunMount(kind="cache", target="/c", id="other")
            assert await output(b, "cat /c/l", mounts=(other,)) == "kept\n"
            with pytest.raises(NotFound):
                _ = [chunk async for chunk in b.solver.mounts.export("nope")]

    run(body())


def test_a_cache_mount_with_an_owner_or_a_mode_is_another_cache() -> None:
    async def body() -> None:
        async with bench() as b:

            async def said(script: str, **fields: Any) -> str:
                return await output(b, script, mounts=(RunMount(kind="cache", target="/c", id="i", **fields),))

            assert await said("echo root > /c/f; stat -c '%a %u' /c") == "755 0\n"
            assert await said("ls /c; stat -c '%a %u' /c; touch /c/g", uid=1000, mode=0o700) == "700 1000\n"
            assert await said("ls /c; #", uid=1000, mode=0o700) == "g\n"
            assert await said("cat /c/f") == "root\n"
            assert "Read-only" in await said("touch /c/x 2>&1; true", read_only=True)

    run(body())


def test_what_one_step_has_for_itself_is_nobody_elses() -> None:
    async def body() -> None:
        async with bench() as b:
            mounts = b.solver.mounts

            def mount(sharing: str) -> RunMount:
                return RunMount(kind="cache", target="/c", id="i", sharing=sharing)

            for exclusive in ("locked", "private"):
                async with mounts.use(mount(exclusive), "", None) as mine:
                    async with mounts.use(mount("shared"), "", None) as other:
                        assert other != mine, f"a {exclusive} directory is not shared"
                        async with mounts.use(mount("shared"), "", None) as same:
                            assert same == other
                    async with mounts.use(mount("private"), "", None) as third:
                        assert third != mine
            async with mounts.use(mount("shared"), "", None):
                async with mounts.use(mount("locked"), "", None):
                    pass  # another one is free

    run(body())


def test_a_build_without_cache_begins_its_cache_mounts_anew_once() -> None:
    async def body() -> None:
        async with bench() as b:
            mount = RunMount(kind="cache", target="/c", id="n")

            def step(name: str, base: Vertex | None = None, *, no_cache: bool = False) -> RunOp:
                script = f"ls /c; echo .; touch /c/{name}"
                return b.run(script, base, mounts=(mount,), no_cache=no_cache)

            _, watch = await b.solve(step("1"))
            _, watch = await b.solve(step("2"))
            assert watch.output == b"1\n.\n"
            _, watch = await b.solve(step("4", step("3", no_cache=True), no_cache=True), serial=True)
            assert watch.output == b".\n3\n.\n", "empty for the first step of the build, kept for the next one"
            _, watch = await b.solve(step("5"))
            assert watch.output == b"3\n4\n.\n"

    run(body())


@pytest.mark.parametrize("name", [".wh.x", "d/.wh.y", "d/.wh..wh..opq"])
def test_a_name_that_no_layer_can_hold_is_refused(name: str) -> None:
    """Docker keeps it until the image is saved and loaded: then it has vanished."""

    async def body() -> None:
        async with bench() as b:
            with failing(InvalidArgument, match=rf"/{name}"):
                await b.solve(b.run(f"mkdir -p /d; echo a > /{name}"))
            await b.solve(b.run("echo a > /a.wh.x"))

    run(body())


def test_an_agent_is_forwarded(tmp_path: Path) -> None:
    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if data := await reader.read(100):
            writer.write(b"agent:" + data)
        writer.close()

    async def body() -> None:
        async with bench() as b:
            server = await asyncio.start_unix_server(agent, tmp_path / "agent")
            mounts = (RunMount(kind="ssh", required=True), RunMount(kind="cache", target="/c", id="c"))
            script = 'stat -c "%F %a" "$SSH_AUTH_SOCK"; until [ -e /c/go ]; do sleep 0.01; done'
            watch, client = Watch(), Client(agent=str(tmp_path / "agent"))
            task = asyncio.create_task(b.solver.solve([b.run(script, mounts=mounts)], session=client, progress=watch))
            await watch.said.wait()
            (path,) = (b.root / "run" / "builder").glob("*/ssh-*")
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello")
            assert await reader.read() == b"agent:hello"
            writer.close()
            (cache,) = (b.root / "data" / "builder" / "cache-mounts").iterdir()
            (cache / "data" / "go").touch()
            await task
            assert watch.output == b"socket 600\n"
            await b.solver.release(client)
            assert not path.exists()
            server.close()
            with failing(NotFound, match="unset ssh forward key default"):
                await b.solve(b.run("true", mounts=mounts[:1]))

    run(body())


def test_failures_say_what_happened() -> None:
    async def body() -> None:
        async with bench() as b:
            with failing(StepFailed) as failed:
                await b.solve(b.run("echo one; echo two >&2; exit 7"))
            assert failed.cause.exit_status == 7 and failed.cause.tail == b"one\ntwo"
            assert failed.failure.message == (
                'process "/bin/sh -c echo one; echo two >&2; exit 7" did not complete successfully: exit code: 7'
            )
            with failing(StepFailed) as failed:
                await b.solve(b.run("sh -c 'kill -9 $$'; exit $?"))
            assert failed.cause.exit_status == 137
            with failing(StepFailed, match="unable to find user nope: no matching entries in passwd file"):
                await b.solve(b.run("true", user="nope"))
            with failing(NotAllowed, match=r"security\.insecure is not allowed"):
                await b.solve(b.run("true", security="insecure"))
            with failing(NotAllowed, match=r"network\.host is not allowed"):
                await b.solve(b.run("true", network="host"))
            assert not await b.solver.disk_usage() and len(b.engine.images.layers.all()) == 1

    run(body())


def test_a_failed_step_can_be_kept() -> None:
    async def body() -> None:
        async with bench() as b:
            with failing(StepFailed) as failed:
                await b.solve(b.run("echo half > /half; exit 1"), on_error="keep")
            image = b.engine.images.resolve(failed.cause.image_id)
            assert len(image.layers) == 2 and image.config["config"]["Env"] == ["PATH=/bin"]

    run(body())


def test_privilege_and_limits() -> None:
    async def body() -> None:
        from sampan.engine.builder.ops import Limits

        async with bench(builder=ALLOWED) as b:
            script = "grep CapEff /proc/self/status; mount -t tmpfs t /tmp && echo mounted"
            _, watch = await b.solve(b.run(script, security="insecure"), entitlements=("security.insecure",))
            assert b"mounted" in watch.output
            limits = Limits(ulimits=(("nofile", 100, 200),), shm_size_bytes=1 << 20, memory_bytes=64 << 20)
            said = await output(b, "ulimit -n; df -k /dev/shm | tail -1", limits=limits)
            assert said.startswith("100\n") and " 1024 " in said
            hungry = "dd if=/dev/zero of=/dev/null bs=200M count=1"
            with failing(StepFailed) as failed:
                await b.solve(b.run(hungry, limits=Limits(memory_bytes=32 << 20, memory_swap_bytes=32 << 20)))
            assert failed.cause.exit_status == 137 and failed.cause.oom_killed

    run(body())


def test_networks() -> None:
    async def body() -> None:
        async with bench() as b:
            assert "eth0" in await output(b, "ip link")
            assert "eth0" not in await output(b, "ip link #", network="none")
            _, watch = await b.solve(b.run("ip link", network="host"), entitlements=("network.host",))
            assert watch.output.decode().count("\n") > 2 and b"lo:" in watch.output
            await b.engine.networks.create(NetworkCreateRequest(name="own-of-builds"))
            assert "eth0" in await output(b, "ip link # own", network="own-of-builds")
            await b.solver.close()
            await b.engine.networks.remove("own-of-builds")
        async with bench(bridge="none") as b:
            assert "eth0" not in await output(b, "ip link")

    run(body())


def test_what_was_done_before_is_not_done_again() -> None:
    async def body() -> None:
        async with bench() as b:
            one = b.run("echo 1 > /1")
            two = b.run("cat /1 > /2; date +%N > /n", one)
            (first,), _ = await b.solve(two)
            (again,), watch = await b.solve(two)
            assert again == first and watch.cached() == ["RUN echo 1 > /1", "RUN cat /1 > /2; date +%N > /n"]
            fresh = b.run("cat /1 > /2; date +%N > /n", one, no_cache=True)
            (other,), watch = await b.solve(fresh)
            assert other != first and watch.cached() == ["RUN echo 1 > /1"]
            (now,), _ = await b.solve(two)
            assert now == other, "the record is replaced"

    run(body())


def test_one_build_runs_a_step_once_even_without_the_cache() -> None:
    async def body() -> None:
        async with bench() as b:
            client = Client()
            one = b.run("date +%N > /n", no_cache=True)
            (first,), _ = await b.solve(one, client=client, release=False, serial=True)
            (second,), _ = await b.solve(b.run("true", one), client=client, release=False, serial=True)
            assert second == first
            await b.solver.release(client)

    run(body())


def test_equal_steps_of_concurrent_builds_run_once() -> None:
    async def body() -> None:
        async with bench() as b:
            step = b.run("sleep 0.3; date +%N > /n; echo said")
            found = await asyncio.gather(*(b.solve(step) for _ in range(3)))
            assert len({states[0] for states, _ in found}) == 1
            assert all(watch.output == b"said\n" for _, watch in found)

    run(body())


class TarClient(Client):
    """A client whose context came as one archive; its descriptor is gone with it."""

    def __init__(self, archive: Path, **more: Any) -> None:
        super().__init__(**more)
        self.tree = TarTree.open_file(str(archive), str(archive.parent))
        self.session = UploadedSession("tar", self.tree)

    async def local(self, wanted: LocalRequest) -> Tree:
        return await self.session.local(wanted)


@pytest.mark.parametrize("clients", [2, 3])
@pytest.mark.parametrize("kind", ["bind", "copy", "layers", "secret"])
def test_a_step_goes_on_for_others_when_the_build_that_began_it_gives_up(
    kind: str, clients: int, tmp_path: Path
) -> None:
    """What the step reads is the step's: the first build's trees, layers and session may go at any await."""
    context = tmp_path / "context"
    context.mkdir()
    for number in range(40):
        (context / f"file{number}").write_text(f"content {number}\n" * 1000)
    with tarfile.open(tmp_path / "context.tar", "w") as archive:
        archive.add(context, "")
    want = sorted(path.name for path in context.iterdir())

    async def body() -> None:
        async with bench() as b:

            def step(number: int) -> Vertex:
                local = LocalOp(context="context")
                if kind == "copy":
                    return FileOp(base=b.base, actions=(Copy(source=local, patterns=("/",), dest=f"/ctx{number}/"),))
                if kind == "layers":
                    made = b.run(f"mkdir -p /d/dir{number}; for i in $(seq 40); do echo x > /d/$i; done")
                    return FileOp(base=b.base, actions=(Copy(source=made, patterns=("/d",), dest=f"/ctx{number}/"),))
                if kind == "secret":
                    mounts = (RunMount(kind="secret", id="s", target="/s", required=True),)
                    return b.run(f"sleep 0.1; cat /s > /got{number}", mounts=mounts)
                bind = RunMount(kind="bind", target="/ctx", source=local, path="/")
                return b.run(f"sleep 0.1; ls /ctx > /got{number}; cat /ctx/* > /dev/null", mounts=(bind,))

            async def build(client: TarClient, vertex: Vertex) -> LayerChain:
                try:
                    solved = await b.solver.solve([vertex], session=client, progress=Watch())
                    return solved[vertex].state or LayerChain()
                finally:
                    await b.solver.release(client)
                    client.tree.close()

            chance = random.Random(clients)
            for number in range(12):
                vertex = step(number)
                tasks = []
                for _ in range(clients):
                    client = TarClient(tmp_path / "context.tar", secrets={"s": SECRET})
                    tasks.append(asyncio.create_task(build(client, vertex)))
                    await asyncio.sleep(chance.choice([0, 0, 0.001, 0.01, 0.05]))
                for task in tasks[:-1]:
                    await asyncio.sleep(chance.choice([0, 0.001, 0.005, 0.02, 0.06]))
                    task.cancel()
                *given_up, state = await asyncio.gather(*tasks, return_exceptions=True)
                assert isinstance(state, LayerChain), state
                assert all(isinstance(one, LayerChain | asyncio.CancelledError) for one in given_up), given_up
                names = b.names(state)
                if kind == "copy":
                    assert sorted(name.partition("/")[2] for name in names if "/" in name) == want
                elif kind == "layers":
                    assert len([name for name in names if "/" in name]) == 41
                elif kind == "bind":
                    place = b.engine.images.driver.path(b.engine.images.layers.numbers(state.chain_id)[0])
                    assert Path(f"{place}/fs/got{number}").read_text().split() == sorted(want)
            await until_done(lambda: not len(b.solver.trees))

    run(body())


async def until_done(condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it is still held")


def test_independent_steps_run_at_the_same_time() -> None:
    async def body() -> None:
        async with bench() as b:
            meet = RunMount(kind="cache", target="/m", id="m")
            wait = "i=0; until [ -e /m/1 -a -e /m/2 ]; do sleep 0.01; i=$((i+1)); [ $i -lt 1000 ] || exit 1; done"
            await b.solve(*(b.run(f"touch /m/{n}; {wait}", mounts=(meet,)) for n in (1, 2)))

    run(body())


def test_a_cancelled_build_leaves_nothing_and_ends_at_once() -> None:
    async def body() -> None:
        async with bench() as b:
            step = b.run("echo begun; sleep 100")
            watch, client = Watch(), Client()
            task = asyncio.create_task(b.solver.solve([step], session=client, progress=watch))
            await watch.said.wait()
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 1
            await b.solver.release(client)
            assert not await b.engine.supervisor.list()
            assert len(b.engine.images.driver.numbers()) == 1 and not await b.solver.disk_usage()
            assert watch.steps[-1].error == "context canceled"

    run(body())


def test_a_step_goes_on_for_the_builds_that_still_want_it() -> None:
    async def body() -> None:
        async with bench() as b:
            step = b.run("echo begun; sleep 0.5; echo done")
            watch, client = Watch(), Client()
            task = asyncio.create_task(b.solver.solve([step], session=client, progress=watch))
            await watch.said.wait()
            other = asyncio.create_task(b.solve(step))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            _, seen = await other
            assert seen.output == b"begun\ndone\n", "who joins late hears what was said before"
            await b.solver.release(client)

    run(body())


def test_a_step_that_is_being_cancelled_is_begun_anew_for_who_comes_then() -> None:
    async def body() -> None:
        async with bench() as b:
            step = b.run("echo begun; sleep 0.4; echo done")
            for _ in range(3):
                watch, client = Watch(), Client()
                task = asyncio.create_task(b.solver.solve([step], session=client, progress=watch))
                await watch.said.wait()
                task.cancel()
                await asyncio.sleep(0)
                other = asyncio.create_task(b.solve(step))
                await asyncio.gather(task, return_exceptions=True)
                _, seen = await other
                assert seen.output == b"begun\ndone\n"
                await b.solver.release(client)
                await b.solver.prune(all=True)

    run(body())


def test_what_the_cache_takes_is_told_and_given_back() -> None:
    async def body() -> None:
        async with bench() as b:
            mount = RunMount(kind="cache", target="/c", id="k")
            image = b.run("echo 1 > /1")
            await b.solve(
                b.run("dd if=/dev/zero of=/c/big bs=1M count=2 2>/dev/null; echo 2 > /2", image, mounts=(mount,))
            )
            rows = {row["Type"]: row for row in await b.solver.disk_usage() if row["Type"] != "regular"}
            assert rows["exec.cachemount"]["Size"] == 2 << 20 and not rows["exec.cachemount"]["InUse"]
            assert len(await b.solver.disk_usage()) == 3
            assert (await b.engine.disk.usage()).builder > 2 << 20
            stray = b.root / "data" / "builder" / "cache-mounts" / "stray"
            stray.mkdir()
            (finding,) = await b.engine.disk.fsck(repair=True)
            assert finding["Kind"] == "cache mount" and finding["Repaired"] and not stray.exists()
            removed, reclaimed = await b.solver.prune({"type": ["exec.cachemount"]})
            assert len(removed) == 1 and reclaimed == 2 << 20
            removed, _ = await b.solver.prune()
            assert len(removed) == 2 and not await b.solver.disk_usage()
            assert len(b.engine.images.layers.all()) == 1 and not await b.engine.disk.fsck(repair=False)

    run(body())


def test_a_start_takes_away_what_a_killed_daemons_steps_left_mounted(tmp_path: Path) -> None:
    root = tmp_path / "root"
    left = [root / "run" / "builder" / "secrets", root / "run" / "builder" / "build-x" / "mount-1"]
    for path in left:
        path.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "left", str(path)], check=True)
        (path / "file").write_bytes(SECRET)

    async def body() -> None:
        async with bench(root):
            assert not set(map(str, left)) & set(mount_points())
            assert not list((root / "run" / "builder").iterdir())

    run(body())


@pytest.mark.parametrize("driver", ["", "vfs"])
def test_files_and_links(driver: str) -> None:
    async def body() -> None:
        async with bench(storage_driver=driver) as b:
            context = b.root / "context"
            context.mkdir()
            (context / "a").write_text("A")
            client = Client(contexts={"context": str(context)})
            local = LocalOp(context="context")
            copy = FileOp(base=b.base, actions=(Copy(source=local, patterns=("a",), dest="/opt/"),))
            (state,), _ = await b.solve(copy, client=client)
            assert b.names(state) == ["opt", "opt/a"]
            os.utime(context / "a", (5, 5))
            _, watch = await b.solve(copy, client=client)
            assert len(watch.cached()) == 1, "times are no part of a key"
            (context / "a").write_text("B")
            _, watch = await b.solve(copy, client=client)
            assert not watch.cached()
            linked = [
                FileOp(base=base, actions=(Copy(source=local, patterns=("a",), dest="/l/"),), link=True)
                for base in (b.base, copy, ScratchOp())
            ]
            states, watch = await b.solve(*linked, client=client)
            assert {state.diff_ids[-1] for state in states} == {states[2].diff_ids[-1]} and len(states[1].diff_ids) == 3
            said = b.run("cat /l/a /opt/a", linked[1])
            _, watch = await b.solve(said, client=client)
            assert watch.output == b"BB"
            stage = FileOp(
                base=ScratchOp(), actions=(Copy(source=said, patterns=("/l",), dest="/from/"), Mkdir(path="/w"))
            )
            (state,), _ = await b.solve(stage, client=client)
            assert b.names(state) == ["from", "from/a", "w"]
            text = FileOp(base=b.base, actions=(Mkfile(path="/script", name="EOF", data=b"echo hi", chmod="755"),))
            _, watch = await b.solve(b.run("/bin/sh /script", text))
            assert watch.output == b"hi\n"

    run(body())


def test_mount_stubs_never_lead_outside_the_root_cve_2024_23652() -> None:
    async def body() -> None:
        outside = Path("/tmp/sampan-stub-test")
        outside.mkdir(exist_ok=True)
        try:
            async with bench(builder=ALLOWED) as b:
                mount = RunMount(kind="tmpfs", target="/made/point")
                swap = f"umount /made/point; rmdir /made/point /made; ln -s {outside.parent} /made"
                script = f"{swap} 2>/dev/null; rm -rf /made 2>/dev/null; true"
                await b.solve(b.run(script, mounts=(mount,), security="insecure"), entitlements=("security.insecure",))
                evil = b.run(f"ln -s {outside.parent} /link")
                inner = RunMount(kind="tmpfs", target=f"/link/{outside.name}/x")
                (state,), _ = await b.solve(b.run("true", evil, mounts=(inner,)))
                assert outside.is_dir() and not list(outside.iterdir())
                assert state.diff_ids[-1] == oci_image.EMPTY_LAYER_DIFF_ID
        finally:
            outside.rmdir()

    run(body())


def test_a_bind_source_that_is_a_link_stays_inside_its_tree_cve_2024_23651() -> None:
    async def body() -> None:
        async with bench() as b:
            context = b.root / "context"
            context.mkdir()
            (context / "evil").symlink_to("/etc")
            client = Client(contexts={"context": str(context)})
            for path in ("evil", "evil/passwd", "../../etc/passwd"):
                mount = RunMount(kind="bind", target="/m", source=LocalOp(context="context"), path=path)
                with pytest.raises(SampanError):
                    await b.solve(b.run("cat /m", mounts=(mount,)), client=client)

    run(body())


def test_privilege_is_asked_for_cve_2024_23653() -> None:
    async def body() -> None:
        async with bench(builder=ALLOWED) as b:
            step = b.run("true", security="insecure")
            await b.solve(step, entitlements=("security.insecure",))
            with failing(NotAllowed):
                await b.solve(step)  # not even what an allowed build has left in the cache
        async with bench() as b:
            with failing(NotAllowed, match="not allowed by build daemon configuration"):
                await b.solve(b.run("true", security="insecure"), entitlements=("security.insecure",))

    run(body())


def _holding(root: Path, text: bytes) -> list[str]:
    """The files below `root` that hold these bytes."""
    command = ["grep", "-rlF", text.decode(), str(root)]
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def test_a_secret_is_nowhere_in_the_data_root() -> None:
    async def body() -> None:
        async with bench() as b:
            mounts = (
                RunMount(kind="secret", target="/run/secrets/s", id="s"),
                RunMount(kind="secret", id="s", env="TOKEN"),
            )
            script = 'test "$(cat /run/secrets/s)" = "$TOKEN" && sha256sum /run/secrets/s > /sum'
            client = Client(secrets={"s": SECRET})
            step = b.run(script, mounts=mounts, proxy_env=("HTTP_PROXY=http://user:" + SECRET.decode() + "@proxy",))
            await b.solve(b.run("cat /sum", step), client=client)
            await b.solver.disk_usage()
            assert not await asyncio.to_thread(_holding, b.root, SECRET)
            assert not list((b.root / "run" / "builder" / "secrets").iterdir())

    run(body())


def test_a_key_covers_the_whole_instruction_cve_2024_24557() -> None:
    async def body() -> None:
        async with bench() as b:
            first = b.run("echo 1 > /x")
            await b.solve(first)
            for other in (
                b.run("echo 1 > /x", user="nobody"),
                b.run("echo 1 > /x", cwd="/tmp"),
                b.run("echo 1 > /x", network="none"),
                b.run("echo 1 > /x", hostname="h"),
                b.run("echo 1 > /x", extra_hosts=(("a", "10.0.0.1"),)),
                b.run("echo 1 > /x", b.run("true > /base")),
                b.run("echo 1 > /x", mounts=(RunMount(kind="tmpfs", target="/t"),)),
            ):
                watch = Watch()
                client = Client()
                try:
                    await b.solver.solve([other], session=client, progress=watch)
                except BuildFailure as e:
                    if not isinstance(e.cause, StepFailed):
                        raise
                finally:
                    await b.solver.release(client)
                assert "RUN echo 1 > /x" not in watch.cached()

    run(body())


def test_nothing_of_a_step_is_left_on_the_disk_that_a_step_filled(tmp_path: Path) -> None:
    image, disk = tmp_path / "disk", tmp_path / "mnt"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    disk.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    try:

        async def body() -> None:
            async with bench(disk / "root") as b:
                with pytest.raises(SampanError, match=r"(?i)no space left|exit code: 1"):
                    await b.solve(b.run("dd if=/dev/zero of=/big bs=1M count=100"))
                assert len(b.engine.images.driver.numbers()) == 1 and not await b.solver.disk_usage()
                (state,), _ = await b.solve(b.run("echo fits > /small"))
                assert b.names(state) == ["small"]

        run(body())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_modes_of_what_a_step_makes() -> None:
    async def body() -> None:
        async with bench() as b:
            (state,), _ = await b.solve(b.run("umask; touch /f; mkdir /d; chmod 4755 /f"))
            number = b.engine.images.layers.numbers(state.chain_id)[0]
            path = f"{b.engine.images.driver.path(number)}/fs"
            assert (
                stat.S_IMODE(os.stat(f"{path}/f").st_mode) == 0o4755
                and stat.S_IMODE(os.stat(f"{path}/d").st_mode) == 0o755
            )

    run(body())
