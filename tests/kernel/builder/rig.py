"""One engine in this process and one context: what tests of whole builds stand on."""

from __future__ import annotations

import asyncio
import io
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sampan.engine.builder.files.dirtree import DirTree
from sampan.engine.builder.files.filtered import Filtered
from sampan.engine.builder.progress import BuildWarning, Quiet, Step
from sampan.engine.builder.request import BuildRequest, Built, Output
from sampan.engine.builder.session import LocalRequest
from sampan.engine.builder.solving import BUILDKIT
from sampan.engine.builder.trees import Tree
from sampan.engine.config import EngineConfig
from sampan.engine.engine import Engine
from sampan.errors import NotFound
from tests.kernel.builder.files.test_git import served as repositories  # noqa: F401
from tests.support import busybox
from tests.support.engine import until

PREFIX = "sampan-build-"


class Client:
    """A client with directories by context name; keeps what it is given."""

    id = "client"

    def __init__(self, **directories: Path) -> None:
        self.directories = directories
        self.files: dict[int, bytes] = {}
        self.trees: dict[int, dict[str, bytes]] = {}

    async def local(self, wanted: LocalRequest) -> Tree:
        if wanted.name not in self.directories:
            raise NotFound(f"no context {wanted.name}")
        tree = DirTree(str(self.directories[wanted.name]))
        return Filtered(tree, include=wanted.include, exclude=wanted.exclude, owned=True)

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
        self.warnings: list[BuildWarning] = []
        self.begun = asyncio.Event()

    def step(self, step: Step) -> None:
        self.steps.append(step)

    def log(self, key: str, stream: int, data: bytes) -> None:
        self.begun.set()

    def warning(self, warning: BuildWarning) -> None:
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
        if outputs:
            more["outputs"] = outputs
        request = BuildRequest(id=f"build{self._number}", dialect="buildkit", network="none", **more)
        return await self.engine.builder.build(request, self.client, self.watch, BUILDKIT)

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
                async for _ in engine.images.transfer.import_(archive(), repo="busybox"):
                    pass
            yield Rig(engine, root)
        finally:
            await engine.close(stop_containers=True)
    finally:
        until(lambda: gone(root), 10, f"{root} is gone")  # the supervisor ends a moment after the engine


def gone(path: Path) -> bool:
    """Delete a directory, if nobody writes to it any more."""
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member) if member.isfile() or member.islnk() else None
            found[member.name] = file.read() if file is not None else b""
        return found
