"""Files of a build, as the solver asks for them: checksums and copies, the layers of a state, downloads, git."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from sampan.engine.builder.files import checksum, copy
from sampan.engine.builder.files.archives import FileReader
from sampan.engine.builder.files.git import Git
from sampan.engine.builder.files.hosttask import HostTask
from sampan.engine.builder.files.http import HttpDownloads
from sampan.engine.builder.files.layertree import Digests, LayerTree
from sampan.engine.builder.files.tartree import TarTree
from sampan.engine.builder.ops import ArchiveOp, Copy, FileOp, GitOp, HttpOp, Vertex
from sampan.engine.builder.session import Session
from sampan.engine.builder.trees import Tree
from sampan.engine.config import EngineConfig
from sampan.engine.images.service import Images
from sampan.engine.tasks.seccomp import Filters
from sampan.registry.outgoing import Proxies
from sampan.supervisor.client import Supervisor


class FileService:
    """The files of one engine's builds. Blocking methods are for threads; the caller owns the trees that it gets."""

    def __init__(self, config: EngineConfig, images: Images, supervisor: Supervisor, filters: Filters) -> None:
        self._images = images
        self._scratch = os.path.join(config.data_root, "builder", "tmp")
        os.makedirs(self._scratch, mode=0o700, exist_ok=True)
        self._digests = Digests()
        self.downloads = HttpDownloads(
            os.path.join(config.data_root, "builder", "http"),
            self._scratch,
            Proxies(http=config.http_proxy, https=config.https_proxy, no=config.no_proxy),
        )
        self.repositories = Git(
            HostTask(config, supervisor, filters), os.path.join(config.data_root, "builder", "git"), self._scratch
        )

    async def close(self) -> None:
        await self.downloads.close()

    def checksum(self, tree: Tree, action: Copy) -> str:
        """Return what a copy would copy, as a digest. Blocking. Raises: MissingSource, InvalidArgument."""
        return checksum.checksum(tree, action)

    def execute(self, op: FileOp, base_root_fd: int, trees: Mapping[Vertex, Tree], time_ns: int = 0) -> int:
        """Carry out file actions below a root (copy.py). Blocking."""
        return copy.execute(op, base_root_fd, trees, time_ns)

    def layers(self, chain_id: str) -> Tree:
        """Return the file system of a chain of layers, which the caller keeps. Blocking."""
        layers = self._images.layers
        parts = [(record.id, f"{self._images.driver.path(record.snapshot)}/fs") for record in layers.records(chain_id)]
        return LayerTree(parts, self._scratch, self._digests)

    async def http(self, op: HttpOp, session: Session) -> Tree:
        """Download a file (http.py)."""
        return await self.downloads.fetch(op, session)

    async def git(self, op: GitOp, session: Session) -> Tree:
        """Check a repository out (git.py)."""
        return await self.repositories.checkout(op, session)

    async def archive(self, op: ArchiveOp, session: Session) -> Tree:
        """Return what a downloaded archive holds, with its owners.

        Raises: as `http`, InvalidArgument for no archive.
        """
        download = await self.downloads.fetch(op.source, session)
        try:
            return await asyncio.to_thread(self._read_archive, download)
        finally:
            download.close()

    def _read_archive(self, download: Tree) -> Tree:
        (path,) = download.entries()
        with download.open(path) as file:
            return TarTree.read(FileReader(file), self._scratch, True)
