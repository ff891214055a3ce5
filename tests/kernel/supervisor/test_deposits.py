"""Mount sources that are descriptors: past gRPC to the mount in the container, and nothing of them stays."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.errors import InvalidArgument
from sampan.linux import mounts
from sampan.linux.syscalls import AT_EMPTY_PATH, AT_RECURSIVE
from sampan.supervisor import deposits, layout
from sampan.supervisor.client import MountSource, NamespaceSource, TaskFailed, TaskRequest
from sampan.supervisor.deposits import MAX_DEPOSITS, MAX_DESCRIPTORS, Deposits, UnknownDeposit
from tests.kernel.supervisor.bench_of_tasks import Bench
from tests.support.engine import until

pytestmark = [pytest.mark.root, pytest.mark.asyncio]

RUNC = shutil.which("runc") or ""
needs_runc = pytest.mark.skipif(not RUNC, reason="needs the Debian package runc")


def clone(path: Path) -> int:
    """A detached mount of a file or directory, as the engine makes it."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return mounts.open_tree(fd, b"", mounts.OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE)
    finally:
        os.close(fd)


@contextmanager
def bound(request: TaskRequest, places: dict[str, Path], *options: str) -> Iterator[TaskRequest]:
    """The request with sources bound at places, by descriptor alone: the names in the spec exist nowhere."""
    spec = json.loads(request.spec)
    sources: list[MountSource] = []
    with ExitStack() as opened:
        for destination, path in places.items():
            fd = clone(path)
            opened.callback(os.close, fd)
            sources.append(MountSource(index=len(spec["mounts"]), fd=fd))
            nowhere = {"type": "bind", "source": "/no/such/name", "destination": destination}
            spec["mounts"].append({**nowhere, "options": ["rbind", *options]})
        yield replace(request, spec=json.dumps(spec).encode(), sources=tuple(sources))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "inside").write_text("it\n")
    return tmp_path / "data"


@pytest.mark.parametrize("runtime", ["", pytest.param(RUNC, marks=needs_runc)])
async def test_a_source_is_mounted_by_descriptor_and_no_name_is_opened(bench: Bench, data: Path, runtime: str) -> None:
    request = bench.request("sh", "-c", "cat /m/inside /f; echo new > /m/new", runtime=runtime)
    with bound(request, {"/m": data, "/f": data / "inside"}) as with_sources:
        os.rename(data, moved := data.with_name("moved"))  # what is held stays what it is
        data.symlink_to("/")
        await bench.supervisor.create(with_sources, start=True)
    assert (await bench.supervisor.wait(request.id)).status == 0
    assert bench.lines(request) == ["it", "it"]
    assert (moved / "new").read_text() == "new\n"


async def test_options_are_those_of_the_spec(bench: Bench, data: Path) -> None:
    request = bench.request("sh", "-c", "cat /m/inside; echo x > /m/new")
    with bound(request, {"/m": data}, "ro") as with_sources:
        await bench.supervisor.create(with_sources, start=True)
    assert (await bench.supervisor.wait(request.id)).status == 1
    assert bench.lines(request)[0] == "it" and "Read-only" in bench.lines(request)[1]


@pytest.mark.parametrize("runtime", ["", pytest.param(RUNC, marks=needs_runc)])
@pytest.mark.parametrize(("options", "tag"), [((), "master:"), (("rprivate",), ""), (("rslave",), "master:")])
async def test_a_source_is_no_peer_of_the_hosts_mount(
    bench: Bench, tmp_path: Path, runtime: str, options: tuple[str, ...], tag: str
) -> None:
    """What the container mounts below it must not appear on the host."""
    place = tmp_path / "shared"
    place.mkdir()
    mounts.mount("tmpfs", str(place), "tmpfs", 0)
    try:
        mounts.mount(None, str(place), None, mounts.MS_SHARED)
        request = bench.request("cat", "/proc/self/mountinfo", runtime=runtime)
        with bound(request, {"/m": place}, *options) as with_sources:
            await bench.supervisor.create(with_sources, start=True)
        await bench.supervisor.wait(request.id)
        (line,) = [line.split() for line in bench.lines(request) if line.split()[4] == "/m"]
        tags = line[6 : line.index("-")]
        assert [t[: len(tag)] for t in tags] == ([tag] if tag else [])
    finally:
        mounts.umount2(str(place), mounts.MNT_DETACH)


@pytest.mark.parametrize("runtime", ["", pytest.param(RUNC, marks=needs_runc)])
async def test_a_namespace_is_joined_by_descriptor_whatever_its_path_leads_to(bench: Bench, runtime: str) -> None:
    """A pid, or a descriptor's number, may have another owner by the time that it is looked at."""
    _, first = await bench.run("sleep", "1000")
    look = ("sh", "-c", "ls -l /proc/self/ns/net /proc/self/ns/ipc")
    request = bench.request(*look, namespaces=("pid", "mount", "uts"), runtime=runtime)
    spec = json.loads(request.spec)
    hosts = {"type": "network", "path": "/proc/self/ns/net"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}
    spec["linux"]["namespaces"] += hosts
    wanted = [os.readlink(f"/proc/{first.pid}/ns/{name}") for name in ("ipc", "net")]
    with ExitStack() as opened:
        sources = []
        for type_, name in (("network", "net"), ("ipc", "ipc")):
            fd = os.open(f"/proc/{first.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            sources.append(NamespaceSource(type=type_, fd=fd))
        joining = replace(request, spec=json.dumps(spec).encode(), sources=tuple(sources))
        await bench.supervisor.create(joining, start=True)
    assert (await bench.supervisor.wait(request.id)).status == 0
    assert [line.split()[-1] for line in bench.lines(request)] == wanted


async def test_more_sources_than_one_packet_takes(bench: Bench, data: Path) -> None:
    request = bench.request("sh", "-c", "ls /many | wc -l; cat /many/299/inside")
    with bound(request, {f"/many/{n}": data for n in range(300)}) as with_sources:
        await bench.supervisor.create(with_sources, start=True)
    await bench.supervisor.wait(request.id)
    assert bench.lines(request) == ["300", "it"]


async def test_nothing_stays_open_whatever_becomes_of_the_request(bench: Bench, data: Path) -> None:
    supervisor = bench.supervisor_pid()
    warm, _ = await bench.run("true")
    await bench.supervisor.wait(warm.id)
    await bench.supervisor.delete(warm.id)
    await asyncio.sleep(0.3)  # the reserve is full again
    before = descriptors(supervisor)
    request = bench.request("sleep", "1000")
    with bound(request, {"/m": data}) as good:
        info = await bench.supervisor.create(good, start=True)
        assert not [n for n in os.listdir(f"/proc/{info.shim_pid}/fd") if _is_mount(info.shim_pid, n, data)]
        with pytest.raises(InvalidArgument, match="1 places in the spec for 2 descriptors"):
            await bench.supervisor.create(replace(good, id="a" * 64, sources=good.sources * 2), start=True)
        fd = good.sources[0].fd
        nowhere: list[MountSource | NamespaceSource] = [MountSource(index=n, fd=fd) for n in (0, 99)]
        nowhere += [NamespaceSource(type=t, fd=fd) for t in ("network", "nope")]
        for source in nowhere:
            with pytest.raises(InvalidArgument, match=f"{source.place} of the spec takes no descriptor"):
                await bench.supervisor.create(replace(good, id="b" * 64, sources=(source,)), start=True)
        spec = json.loads(good.spec)
        refused = replace(
            good, id="c" * 64, spec=json.dumps({**spec, "process": {**spec["process"], "cwd": "x"}}).encode()
        )
        with pytest.raises(TaskFailed):
            await bench.supervisor.create(refused, start=True)
        with deposits.left(str(bench.exec_root), [good.sources[0].fd]):
            pass
    await bench.supervisor.delete(request.id)
    until(lambda: descriptors(supervisor) <= before, 5, "the supervisor has closed all that it was given")


def _is_mount(pid: int, name: str, data: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/fd/{name}") in (str(data), "/")
    except FileNotFoundError:
        return False


async def test_a_deposit_is_taken_once_and_by_its_token(tmp_path: Path) -> None:
    table = Deposits(str(tmp_path))
    reader, writer = os.pipe()
    try:
        with deposits.left(str(tmp_path), [reader, writer]) as token, deposits.left(str(tmp_path), [reader]) as other:
            for wrong in ("", "x", "0" * 32):
                with pytest.raises(UnknownDeposit):
                    table.take(wrong)
            taken = table.take(token)
            assert [os.fstat(fd).st_ino for fd in taken.fds] == [os.fstat(fd).st_ino for fd in (reader, writer)]
            assert not any(os.get_inheritable(fd) for fd in taken.fds)
            taken.close()
            with pytest.raises(UnknownDeposit):
                table.take(token)
            assert len(table) == 1
        await asyncio.sleep(0)
        with pytest.raises(UnknownDeposit):
            table.take(other)
        assert len(table) == 0
    finally:
        table.close()
        os.close(reader)
        os.close(writer)


async def test_what_breaks_the_rules_is_closed(tmp_path: Path) -> None:
    table = Deposits(str(tmp_path))
    reader, writer = os.pipe()
    try:
        before = descriptors(os.getpid())
        with deposits.left(str(tmp_path), [reader] * (MAX_DESCRIPTORS + 1)) as token, pytest.raises(UnknownDeposit):
            table.take(token)
        for packets in ([b"short"], [b"t" * 32, b"u" * 32], [b"t" * 33]):
            with layout.connect(str(tmp_path), deposits.NAME, socket.SOCK_SEQPACKET) as peer:
                for packet in packets:
                    socket.send_fds(peer, [packet], [reader])
                with pytest.raises(UnknownDeposit):
                    table.take(packets[0][:32].decode())
                assert peer.recv(1) == b""
        assert (len(table), descriptors(os.getpid())) == (0, before)
        with ExitStack() as many:
            tokens = [many.enter_context(deposits.left(str(tmp_path), [reader])) for _ in range(MAX_DEPOSITS + 1)]
            with pytest.raises(UnknownDeposit):
                table.take(tokens[-1])
            assert len(table) == MAX_DEPOSITS
            table.take(tokens[0]).close()
    finally:
        table.close()
        os.close(reader)
        os.close(writer)


async def test_a_supervisor_that_dies_meanwhile_is_asked_again(bench: Bench, data: Path) -> None:
    """The descriptors are left at the next one too."""
    with bound(bench.request("cat", "/m/inside"), {"/m": data}) as request:
        os.kill(bench.supervisor_pid(), 9)
        await bench.supervisor.create(request, start=True)
    assert (await bench.supervisor.wait(request.id)).status == 0
    assert bench.lines(request) == ["it"]
