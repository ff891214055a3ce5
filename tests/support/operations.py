"""Every verb of the API as an operation on a few shared objects, with the errors that a client may get for it.

    OPERATIONS["container: remove"].run(world)

The world is: image `img` with two names, volume `vol`, networks `net` and `net2`, container `one` on `net` with `vol`
and an anonymous volume, a container `two` that some operations make, and an exec of `one`. What an operation needs may
be gone. An operation's route is one of api/routes.py, which says whether it goes on when its client hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan.api import routes
from sampan.engine.builder.request import BuildRequest
from sampan.engine.builder.solving import BUILDKIT
from sampan.engine.containers.attaching import AttachOptions
from sampan.engine.engine import Engine
from sampan.errors import Conflict, Forbidden, InvalidArgument, NotFound, SampanError
from sampan.spec import codec
from sampan.spec.engine_api.container import CreateRequest, ExecConfig, RestartPolicy, UpdateConfig
from sampan.spec.engine_api.network import EndpointSettings, NetworkCreateRequest, NetworkingConfig
from tests.kernel.builder.rig import Client, Watch
from tests.kernel.images.archives import archive, directory, member, stream
from tests.support.one_process import of_a_forced_removal, tasks_of

Kind = type[SampanError]
ANONYMOUS = "/anonymous"


@dataclass
class World:
    """The shared objects, and what an operation has kept for another one. random: of the seed."""

    engine: Engine
    directory: Path
    exec_id: str = ""
    saved: bytes = b""
    builds: int = 0
    states: dict[str, str] = field(default_factory=dict)


Work = Callable[[World], Awaitable[object]]


@dataclass(frozen=True)
class Operation:
    """may: the kinds of errors that a client may get; words: of messages of other kinds that Docker has too."""

    name: str
    noun: str
    route: str
    run: Work
    may: tuple[Kind, ...] = ()
    words: str = ""

    @property
    def detached(self) -> bool:
        """Whether it goes on when its client hangs up."""
        return any(f"{row[0]} {row[1]}" == self.route and len(row) > 3 for row in routes.TABLE)

    def allows(self, error: SampanError) -> bool:
        """Whether a client may be told this."""
        if isinstance(error, self.may):
            return True
        return bool(self.words) and bool(re.search(self.words, error.message))


OPERATIONS: dict[str, Operation] = {}


def operation(name: str, route: str, *may: Kind, words: str = "") -> Callable[[Work], Work]:
    """Note a function as an operation. name: `<noun>: <what it does>`."""

    def note(work: Work) -> Work:
        OPERATIONS[name] = Operation(name, name.partition(":")[0], route, work, may, words)
        return work

    return note


# ── the world ───────────────────────────────────────────────────────────────────────────────────────────────────────

STATES = ("created", "running", "paused", "exited", "always", "temporary")


async def import_image(engine: Engine, content: bytes = b"x") -> None:
    """Make image `img` with some files; it is made again with the same id by a second call."""
    members = [
        directory("etc"),
        member("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
        directory("data"),
        member("data/f", content),
    ]
    await drained(
        engine.images.transfer.import_(stream(archive(*members)), repo="img", tag="1", changes=["CMD /bin/sh"])
    )


async def build_world(engine: Engine, scratch: Path, state: str) -> World:
    """Make the shared objects that are not there; the container is in `state`, of STATES."""
    world = World(engine, scratch)
    if not {"img:1", "also:1"} <= {tag.id.rpartition("/")[2] for tag in engine.images.catalog.tags.all()}:
        await import_image(engine)
        await engine.images.tag("img:1", "also", "1")
    await engine.volumes.get_or_create("vol")
    there = {network["Name"] for network in engine.networks.list()}
    for name in {"net", "net2"} - there:
        await make_network(engine, name)
    host: dict[str, Any] = {}
    if state == "always":
        host["RestartPolicy"] = {"Name": "always"}
    if state == "temporary":
        host["AutoRemove"] = True
    await create(engine, "one", **host)
    if state != "created":
        await engine.containers.start("one")
    if state == "paused":
        await engine.containers.pause("one")
    elif state == "exited":
        await engine.containers.stop("one")
    elif state not in ("created",):
        world.exec_id = await engine.containers.exec_create("one", ExecConfig(cmd=["true"], tty=True))
    return world


async def end_world(engine: Engine, *, whole: bool = True) -> None:
    """Remove containers, volumes and all images but `img`, as a user would; whole: and all the rest."""
    for c in engine.containers._table.all():
        with contextlib.suppress(NotFound):
            await engine.containers.remove(c.id, force=True, volumes=True)
    await engine.volumes.prune(named=True)
    await engine.builder.prune(all=True)
    for tag in engine.images.catalog.tags.all():
        if tag.id.rpartition("/")[2] not in ("img:1", "also:1"):
            await engine.images.remove(tag.id, force=True)
    if not whole:
        await engine.images.prune({})
        with contextlib.suppress(NotFound):
            await engine.networks.remove("net3")
        return
    await engine.networks.prune()
    while records := engine.images.catalog.images.all():
        for record in records:
            with contextlib.suppress(NotFound, Conflict):  # gone with its child, or its child comes first
                await engine.images.remove(record.id, force=True)


async def make_network(engine: Engine, name: str) -> None:
    await engine.networks.create(NetworkCreateRequest(name=name))


async def create(engine: Engine, name: str, **host: Any) -> str:
    """Make a container on network `net` with volume `vol` and an anonymous one."""
    document: dict[str, Any] = {
        "Image": "img:1",
        "Cmd": ["/bin/sh"],
        "Volumes": {ANONYMOUS: {}},
        "HostConfig": {"NetworkMode": "net", "Binds": ["vol:/data"], **host},
    }
    asked = codec.convert(CreateRequest, document)
    networking = NetworkingConfig(endpoints_config={document["HostConfig"]["NetworkMode"]: EndpointSettings()})
    return (await engine.containers.create(name, asked.config, asked.host_config, networking))[0]


async def drained(messages: AsyncIterator[Any]) -> None:
    """Read an answer to its end; an error in it is raised as what the client is told, without a kind."""
    async with aclosing(messages) as all:  # type: ignore[type-var]
        async for message in all:
            if isinstance(message, dict) and "error" in message:
                raise Conflict(str(message["error"]))


# ── containers ──────────────────────────────────────────────────────────────────────────────────────────────────────


@operation("container: create one of the same name", "POST /containers/create", NotFound, Conflict)
async def _(w: World) -> object:
    return await create(w.engine, "one")


@operation("container: create another", "POST /containers/create", NotFound, Conflict)
async def _(w: World) -> object:
    return await create(w.engine, "two")


@operation("container: run another", "POST /containers/{id}/start", NotFound, Conflict)
async def _(w: World) -> object:
    id = await create(w.engine, "two", AutoRemove=True)
    return await w.engine.containers.start(id)


@operation("container: start", "POST /containers/{id}/start", NotFound, Conflict)
async def _(w: World) -> object:
    return await w.engine.containers.start("one")


@operation("container: stop", "POST /containers/{id}/stop", NotFound)
async def _(w: World) -> object:
    return await w.engine.containers.stop("one")


@operation("container: kill", "POST /containers/{id}/kill", NotFound, Conflict)
async def _(w: World) -> None:
    await w.engine.containers.kill("one")


@operation("container: signal", "POST /containers/{id}/kill", NotFound, Conflict)
async def _(w: World) -> None:
    await w.engine.containers.kill("one", "TERM")


@operation("container: pause", "POST /containers/{id}/pause", NotFound, Conflict)
async def _(w: World) -> None:
    await w.engine.containers.pause("one")


@operation("container: unpause", "POST /containers/{id}/unpause", NotFound, Conflict, words="is not paused$")
async def _(w: World) -> None:
    await w.engine.containers.unpause("one")


@operation("container: restart", "POST /containers/{id}/restart", NotFound, Conflict)
async def _(w: World) -> None:
    await w.engine.containers.restart("one")


@operation("container: rename", "POST /containers/{id}/rename", NotFound, Conflict, words="same name as its current")
async def _(w: World) -> None:
    await w.engine.containers.rename("one", "two")


@operation("container: update", "POST /containers/{id}/update", NotFound, Conflict)
async def _(w: World) -> object:
    return await w.engine.containers.update(
        "one", UpdateConfig(cpu_shares=512, restart_policy=RestartPolicy(name="no"))
    )


@operation("container: remove", "DELETE /containers/{id}", NotFound, Conflict)
async def _(w: World) -> None:
    await w.engine.containers.remove("one")


@operation("container: remove by force", "DELETE /containers/{id}", NotFound, Conflict)
async def _(w: World) -> None:
    await w.engine.containers.remove("one", force=True)


@operation("container: remove with volumes", "DELETE /containers/{id}", NotFound, Conflict)
async def _(w: World) -> None:
    await w.engine.containers.remove("one", force=True, volumes=True)


@operation("container: prune", "POST /containers/prune")
async def _(w: World) -> object:
    return await w.engine.containers.prune()


@operation("container: wait", "POST /containers/{id}/wait", NotFound)
async def _(w: World) -> object:
    waiting = w.engine.containers.wait("one")
    with contextlib.suppress(TimeoutError):
        return await asyncio.wait_for(waiting, 5)
    return None


@operation("container: end by itself", "")
async def _(w: World) -> object:
    await asyncio.sleep(0)
    c = w.engine.containers._table.find("one")
    tasks = tasks_of(w.engine)
    if c is not None and c.id in tasks.tasks and tasks.tasks[c.id].status == "running":
        tasks.end(c.id, 3)
    return None


@operation("container: commit", "POST /commit", NotFound, Conflict)
async def _(w: World) -> object:
    return await w.engine.containers.commit("one", None, repo="made", tag="1")


@operation("container: attach", "POST /containers/{id}/attach", NotFound, Conflict)
async def _(w: World) -> object:
    session = await w.engine.containers.attach("one", AttachOptions(stream=True, stdout=True))
    try:
        with contextlib.suppress(TimeoutError):
            output = bytearray()
            await asyncio.wait_for(session.collect(output, 100), 1)
    finally:
        await session.close()
    return None


@operation("container: put an archive", "PUT /containers/{id}/archive", NotFound, Conflict)
async def _(w: World) -> None:
    await w.engine.containers.archive_put("one", "/etc", stream(archive(member("put", b"put"))))


@operation("container: get an archive", "GET /containers/{id}/archive", NotFound, Conflict)
async def _(w: World) -> None:
    _, chunks = await w.engine.containers.archive_get("one", "/etc")
    await drained(chunks)


@operation("container: get an archive of a volume", "GET /containers/{id}/archive", NotFound, Conflict)
async def _(w: World) -> None:
    _, chunks = await w.engine.containers.archive_get("one", "/data")
    await drained(chunks)


@operation("container: look at a path", "HEAD /containers/{id}/archive", NotFound, Conflict)
async def _(w: World) -> object:
    return await w.engine.containers.archive_stat("one", "/etc/passwd")


@operation("container: export", "GET /containers/{id}/export", NotFound, Conflict)
async def _(w: World) -> None:
    await drained(await w.engine.containers.export("one"))


@operation("container: changes", "GET /containers/{id}/changes", NotFound)
async def _(w: World) -> object:
    return await w.engine.containers.changes("one")


@operation("container: inspect", "GET /containers/{id}/json", NotFound)
async def _(w: World) -> object:
    return await w.engine.containers.inspect("one", size=True)


@operation("container: list", "GET /containers/json")
async def _(w: World) -> object:
    return await w.engine.containers.list(all=True, size=True)


@operation("container: stats", "GET /containers/{id}/stats", NotFound)
async def _(w: World) -> object:
    samples = w.engine.containers.stats("one", stream=False, one_shot=True)
    async for _sample in samples:
        return _sample
    return None


@operation("container: top", "GET /containers/{id}/top", NotFound, Conflict)
async def _(w: World) -> object:
    return await w.engine.containers.top("one", "")


@operation("container: resize", "POST /containers/{id}/resize", NotFound, Conflict)
async def _(w: World) -> None:
    await w.engine.containers.resize("one", 20, 80)


# ── execs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@operation("exec: run one", "POST /exec/{id}/start", NotFound, Conflict)
async def _(w: World) -> object:
    id = await w.engine.containers.exec_create("one", ExecConfig(cmd=["true"]))
    return await w.engine.containers.exec_start(id, detach=True)


@operation("exec: create", "POST /containers/{id}/exec", NotFound, Conflict)
async def _(w: World) -> object:
    return await w.engine.containers.exec_create("one", ExecConfig(cmd=["true"]))


@operation("exec: start", "POST /exec/{id}/start", NotFound, Conflict)
async def _(w: World) -> object:
    return await w.engine.containers.exec_start(w.exec_id, detach=True)


@operation("exec: start with a client", "POST /exec/{id}/start", NotFound, Conflict)
async def _(w: World) -> object:
    session = await w.engine.containers.exec_start(w.exec_id, detach=False, tty=True)
    assert session is not None
    try:
        await session.collect(bytearray(), 100)
    finally:
        await session.close()
    return None


@operation("exec: resize", "POST /exec/{id}/resize", NotFound, Conflict, InvalidArgument, words="waiting for exec")
async def _(w: World) -> None:
    await w.engine.containers.exec_resize(w.exec_id, 20, 80)


@operation("exec: inspect", "GET /exec/{id}/json", NotFound)
async def _(w: World) -> object:
    await asyncio.sleep(0)
    return w.engine.containers.exec_inspect(w.exec_id)


# ── volumes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@operation("volume: create", "POST /volumes/create")
async def _(w: World) -> object:
    return await w.engine.volumes.get_or_create("vol")


@operation("volume: create another", "POST /volumes/create")
async def _(w: World) -> object:
    return await w.engine.volumes.get_or_create("vol2")


@operation("volume: remove", "DELETE /volumes/{name}", NotFound, Conflict)
async def _(w: World) -> None:
    await w.engine.volumes.remove("vol")


@operation("volume: remove another by force", "DELETE /volumes/{name}", Conflict)
async def _(w: World) -> None:
    await w.engine.volumes.remove("vol2", force=True)


@operation("volume: prune", "POST /volumes/prune")
async def _(w: World) -> object:
    return await w.engine.volumes.prune(named=True)


@operation("volume: inspect", "GET /volumes/{name}", NotFound)
async def _(w: World) -> object:
    return await w.engine.volumes.describe(w.engine.volumes.lookup("vol"))


@operation("volume: list", "GET /volumes")
async def _(w: World) -> object:
    await asyncio.sleep(0)
    return w.engine.volumes.list({"dangling": ["true"]})


# ── networks ────────────────────────────────────────────────────────────────────────────────────────────────────────


@operation("network: create", "POST /networks/create", Conflict)
async def _(w: World) -> None:
    await make_network(w.engine, "net")


@operation("network: remove", "DELETE /networks/{id}", NotFound, Forbidden)
async def _(w: World) -> None:
    await w.engine.networks.remove("net")


@operation("network: remove another", "DELETE /networks/{id}", NotFound, Forbidden)
async def _(w: World) -> None:
    await w.engine.networks.remove("net2")


@operation("network: connect", "POST /networks/{id}/connect", NotFound, Forbidden, Conflict)
async def _(w: World) -> None:
    await w.engine.containers.connect("one", "net2", EndpointSettings())


@operation("network: disconnect", "POST /networks/{id}/disconnect", NotFound, Conflict, words="is not connected to")
async def _(w: World) -> None:
    await w.engine.containers.disconnect("one", "net")


@operation(
    "network: disconnect another", "POST /networks/{id}/disconnect", NotFound, Conflict, words="is not connected to"
)
async def _(w: World) -> None:
    await w.engine.containers.disconnect("one", "net2", force=True)


@operation("network: create another", "POST /networks/create", Conflict)
async def _(w: World) -> None:
    await make_network(w.engine, "net3")


@operation("network: connect to another", "POST /networks/{id}/connect", NotFound, Forbidden, Conflict)
async def _(w: World) -> None:
    await w.engine.containers.connect("one", "net3", EndpointSettings())


@operation("network: run on another", "POST /containers/{id}/start", NotFound, Conflict)
async def _(w: World) -> object:
    id = await create(w.engine, "two", NetworkMode="net3")
    return await w.engine.containers.start(id)


@operation("network: remove the other", "DELETE /networks/{id}", NotFound, Forbidden)
async def _(w: World) -> None:
    await w.engine.networks.remove("net3")


@operation("network: prune", "POST /networks/prune")
async def _(w: World) -> object:
    return await w.engine.networks.prune()


@operation("network: inspect", "GET /networks/{id}", NotFound)
async def _(w: World) -> object:
    await asyncio.sleep(0)
    return w.engine.networks.inspect("net")


@operation("network: list", "GET /networks")
async def _(w: World) -> object:
    await asyncio.sleep(0)
    return w.engine.networks.list({"dangling": ["true"]})


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@operation("image: import", "POST /images/create")
async def _(w: World) -> None:
    await import_image(w.engine, b"y")


@operation("image: tag", "POST /images/{name}/tag", NotFound)
async def _(w: World) -> None:
    await w.engine.images.tag("img:1", "other", "1")


@operation("image: remove", "DELETE /images/{name}", NotFound, Conflict)
async def _(w: World) -> object:
    return await w.engine.images.remove("img:1", running=w.engine.containers.running())


@operation("image: remove by force", "DELETE /images/{name}", NotFound, Conflict)
async def _(w: World) -> object:
    id = w.engine.images.resolve("also:1").id
    await asyncio.sleep(0)
    return await w.engine.images.remove(id, force=True, running=w.engine.containers.running())


@operation("image: prune", "POST /images/prune", Conflict)
async def _(w: World) -> object:
    return await w.engine.images.prune({"dangling": ["false"]}, running=w.engine.containers.running())


@operation("image: save", "GET /images/{name}/get", NotFound)
async def _(w: World) -> object:
    async with aclosing(w.engine.images.transfer.save(["img:1"])) as chunks:  # type: ignore[type-var]
        w.saved = b"".join([bytes(chunk) async for chunk in chunks])
    return None


@operation("image: save and load", "POST /images/load", NotFound, Conflict)
async def _(w: World) -> None:
    await OPERATIONS["image: save"].run(w)
    await drained(w.engine.images.transfer.load(stream(w.saved)))


@operation("image: history", "GET /images/{name}/history", NotFound)
async def _(w: World) -> object:
    await asyncio.sleep(0)
    return await w.engine.images.history("img:1")


@operation("image: inspect", "GET /images/{name}/json", NotFound)
async def _(w: World) -> object:
    await asyncio.sleep(0)
    return await w.engine.images.inspect("img:1")


@operation("image: list", "GET /images/json")
async def _(w: World) -> object:
    await asyncio.sleep(0)
    return await w.engine.images.list(all=True, shared_size=True)


# ── builds ──────────────────────────────────────────────────────────────────────────────────────────────────────────

DOCKERFILE = b"FROM img:1\nCOPY f /copied\nRUN something\n"


async def build(w: World, *, id: str) -> object:
    """Build on `img`, if it is there."""
    context = w.directory / "context"
    context.mkdir(exist_ok=True)
    (context / "f").write_bytes(b"f")
    request = BuildRequest(id=id, dialect="buildkit", network="none", dockerfile=DOCKERFILE, tags=("built:1",))
    return await w.engine.builder.build(request, Client(context=context, dockerfile=context), Watch(), BUILDKIT)


@operation("build: build", "POST /build", NotFound, Conflict, words="registry-1.docker.io")
async def _(w: World) -> object:
    w.builds += 1
    return await build(w, id=f"build{w.builds}")


@operation("build: cancel", "POST /build/cancel")
async def _(w: World) -> object:
    for _ in range(10):
        await asyncio.sleep(0)
    return w.engine.builder.cancel("build1")


@operation("build: prune", "POST /build/prune")
async def _(w: World) -> object:
    return await w.engine.builder.prune(all=True)


# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────────


@operation("system: df", "GET /system/df")
async def _(w: World) -> object:
    return await w.engine.system.disk_usage()


@operation("system: fsck", "POST /system/fsck")
async def _(w: World) -> object:
    found = await w.engine.disk.fsck(repair=True)
    lost = [f for f in found if not of_a_forced_removal(f)]
    assert not lost, lost
    return found


@operation("system: info", "GET /info")
async def _(w: World) -> object:
    return await w.engine.system.info()


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory for what clients send."""
    return tempfile.TemporaryDirectory(prefix="sampan-clients-")
