"""A solver on an engine of its own, in this process: what the builder's kernel tests stand on."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from sampan.engine import platforms
from sampan.engine.builder.failures import BuildFailure
from sampan.engine.builder.files.dirtree import DirTree
from sampan.engine.builder.ops import FileOp, ImageOp, RunOp, Vertex, VertexLabel
from sampan.engine.builder.progress import Quiet, Step
from sampan.engine.builder.session import LocalRequest
from sampan.engine.builder.solver.solver import Solver
from sampan.engine.builder.state import LayerChain
from sampan.engine.builder.trees import Tree
from sampan.engine.config import EngineConfig
from sampan.engine.engine import Engine
from sampan.errors import NotFound, SampanError
from tests.support import busybox

E = TypeVar("E", bound=SampanError)
ENV = ("PATH=/bin",)


class Client:
    """A client that gives directories, secrets and an agent."""

    def __init__(
        self,
        *,
        contexts: Mapping[str, str] | None = None,
        secrets: Mapping[str, bytes] | None = None,
        agent: str = "",
    ) -> None:
        self.id = "test"
        self.contexts, self.secrets, self.agent = contexts or {}, secrets or {}, agent

    async def local(self, wanted: LocalRequest) -> Tree:
        return DirTree(self.contexts[wanted.name])

    async def secret(self, id: str) -> bytes:
        if id not in self.secrets:
            raise NotFound(f"secret {id}")
        return self.secrets[id]

    async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self.agent:
            raise NotFound(f"agent {id}")
        return await asyncio.open_unix_connection(self.agent)

    async def credentials(self, host: str) -> tuple[str, str]:
        return "", ""

    async def put_tree(self, tree: Tree, *, exporter: int = 0) -> None:
        raise NotImplementedError

    async def put_file(self, chunks: AsyncIterator[bytes], metadata: Mapping[str, str], *, exporter: int = 0) -> None:
        raise NotImplementedError


class Watch(Quiet):
    """Progress that a test reads."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.output = b""
        self.said = asyncio.Event()

    def step(self, step: Step) -> None:
        self.steps.append(step)

    def log(self, key: str, stream: int, data: bytes) -> None:
        self.output += data
        self.said.set()

    def cached(self) -> list[str]:
        return [step.name for step in self.steps if step.cached and isinstance(step.vertex, RunOp | FileOp)]


@dataclass(slots=True)
class Bench:
    engine: Engine
    solver: Solver
    base: ImageOp
    root: Path
    runs: list[Vertex] = field(default_factory=list)

    def run(self, script: str, base: Vertex | None = None, **fields: Any) -> RunOp:
        """A RUN vertex of a shell script."""
        return RunOp(
            base=base or self.base,
            args=("/bin/sh", "-c", script),
            env=ENV,
            label=VertexLabel(name=f"RUN {script}", text=f"RUN {script}"),
            **fields,
        )

    async def solve(
        self, *vertices: Vertex, client: Client | None = None, release: bool = True, **options: Any
    ) -> tuple[list[LayerChain], Watch]:
        """Solve on a session of its own."""
        watch = Watch()
        session = client or Client()
        try:
            solved = await self.solver.solve(vertices, session=session, progress=watch, **options)
        finally:
            if release:
                await self.solver.release(session)
        return [solved[vertex].state or LayerChain() for vertex in vertices], watch

    def names(self, state: LayerChain) -> list[str]:
        """The members of a state's top layer."""
        import io
        import tarfile

        record = self.engine.images.layers.get(state.chain_id)
        data = b"".join(self.engine.images.layers.replay(record))
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return archive.getnames()


async def _tar() -> AsyncIterator[bytes]:
    yield busybox.root_tar()


@asynccontextmanager
async def engine_and_solver(root: Path, **config: Any) -> AsyncIterator[tuple[Engine, Solver]]:
    engine = await Engine.open(EngineConfig(data_root=str(root / "data"), exec_root=str(root / "run"), **config))
    try:
        yield engine, engine.builder.solver
        await engine.builder.solver.close()
        assert not engine.networks._sandboxes.all(), "a step's network was not given back"
        assert not await engine.supervisor.list(), "a step's task was not taken away"
    finally:
        await engine.close(stop_containers=True)


@asynccontextmanager
async def bench(root: Path | None = None, **config: Any) -> AsyncIterator[Bench]:
    """An engine with busybox as base image; gone without a trace, unless `root` is the caller's."""
    own = root is None
    root = root or Path(tempfile.mkdtemp(prefix="sampan-builder-"))
    try:
        async with engine_and_solver(root, **config) as (engine, solver):
            async for _ in engine.images.transfer.import_(_tar(), repo="base"):
                pass
            image = engine.images.resolve("base")
            base = ImageOp(ref="base", image_id=image.id, platform=platforms.HOST)
            yield Bench(engine, solver, base, root)
    finally:
        if own:
            shutil.rmtree(root, ignore_errors=True)


@dataclass(slots=True)
class Caught(Generic[E]):
    """What `failing` caught: the failure, and its cause."""

    failure: BuildFailure = field(init=False)
    cause: E = field(init=False)


@contextmanager
def failing(kind: type[E], match: str | None = None) -> Iterator[Caught[E]]:
    """Expect a BuildFailure in the block whose cause is of this kind and whose message matches."""
    caught = Caught[E]()
    with pytest.raises(BuildFailure, match=match) as info:
        yield caught
    caught.failure, cause = info.value, info.value.cause
    assert isinstance(cause, kind), repr(cause)
    caught.cause = cause


def mount_points() -> Sequence[str]:
    """What is mounted on this host."""
    with open("/proc/self/mountinfo") as file:
        return [line.split()[4] for line in file]
