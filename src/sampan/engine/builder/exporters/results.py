"""Exporting: each output of a request gets the result of the build. One place decides which exporter that is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sampan.engine.builder.bases import Bases
from sampan.engine.builder.exporters import archive, cache, files, image, layout
from sampan.engine.builder.files.service import FileService
from sampan.engine.builder.graph import document
from sampan.engine.builder.graph.values import Target
from sampan.engine.builder.ops import Vertex
from sampan.engine.builder.progress import Progress
from sampan.engine.builder.request import BuildRequest, Built, CacheEnd, Output, is_true
from sampan.engine.builder.session import Session
from sampan.engine.builder.solver.records import CacheRecord
from sampan.engine.builder.state import Solved
from sampan.engine.builder.steps import Shown, shown
from sampan.engine.images.service import Images
from sampan.engine.platforms import Platform
from sampan.errors import InvalidArgument, SampanError
from sampan.spec import oci_image

TITLES = {
    "image": "exporting to image",
    "docker": "exporting to docker image format",
    "oci": "exporting to oci image format",
    "tar": "exporting to client tarball",
    "local": "exporting to client directory",
}


def validate(request: BuildRequest) -> None:
    """Refuse, before anything is built, what cannot be exported. Raises: InvalidArgument."""
    for output in request.outputs:
        if output.type != "cacheonly" and output.type not in TITLES:
            raise InvalidArgument(f'exporter "{output.type}" could not be found')
        image.names(request.tags, output)
        if output.type == "image" and is_true(output.attrs.get("push-by-digest")):
            raise InvalidArgument("push-by-digest is not supported: a push needs a name with a tag")
        if output.type == "docker" and len(request.platforms) > 1:
            raise InvalidArgument("docker exporter does not currently support exporting manifest lists")
        layout.check_compression(output.attrs.get("compression", "gzip"))
    for end in request.cache_to:
        if end.type not in ("inline", "registry", "local"):
            raise InvalidArgument(f"unknown cache exporter: {end.type}")
        if end.type == "registry" and not end.attrs.get("ref"):
            raise InvalidArgument("registry cache requires ref")


@dataclass(kw_only=True)
class Result:
    """What was built. documents: the image document of each platform."""

    images: Images
    files: FileService
    request: BuildRequest
    session: Session
    progress: Progress
    bases: Bases
    scratch: str
    targets: Mapping[Platform, Target]
    solved: Mapping[Vertex, Solved]
    made: Mapping[Vertex, CacheRecord] = field(default_factory=dict)
    documents: dict[Platform, dict[str, Any]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    response: dict[str, str] = field(default_factory=dict)

    async def export(self) -> Built:
        """Write every output (`validate` has seen them). Raises: what the client or a registry raises."""
        for platform, target in self.targets.items():
            found = document.of_target(target, self.solved, dialect=self.request.dialect, epoch_s=self.request.epoch_s)
            if self._inline():
                found |= cache.inline(self.made, oci_image.diff_ids(found))
            self.documents[platform] = found
        for output in self.request.outputs:
            if output.type == "cacheonly":
                continue
            with shown(self.progress, f"{self.request.id}/{output.exporter}", TITLES[output.type]) as step:
                await self._one(output, step)
        for number, end in enumerate(self.request.cache_to):
            if end.type != "inline":
                await self._cache(number, end)
        return Built(images=self.ids, response=self.response)

    def _several(self) -> bool:
        """Whether the result is for several platforms, or shall look as if it were."""
        asked = is_true(self.request.build_args.get("BUILDKIT_MULTI_PLATFORM"))
        return asked or len(self.targets) > 1

    def _inline(self) -> bool:
        """Whether the image shall hold its cache."""
        asked = any(end.type == "inline" for end in self.request.cache_to)
        return asked or is_true(self.request.build_args.get("BUILDKIT_INLINE_CACHE"))

    async def _cache(self, number: int, end: CacheEnd) -> None:
        """One --cache-to. Raises: what the registry or the client raises."""
        chains = [
            chain_id for found in self.documents.values() for chain_id in oci_image.chain_ids(oci_image.diff_ids(found))
        ]
        try:
            with shown(self.progress, f"{self.request.id}/cache{number}", f"exporting cache to {end.type}") as step:
                if end.type == "registry":
                    await cache.to_registry(self.images, self.made, chains, end, self.bases, step)
                else:
                    scratch = self.scratch
                    await cache.to_directory(self.images, self.made, chains, end, self.session, step, scratch=scratch)
        except SampanError:
            if not is_true(end.attrs.get("ignore-error")):
                raise

    async def _one(self, output: Output, step: Shown) -> None:
        written = image.names(self.request.tags, output)
        named = [name.tagged() for name in written]
        match output.type:
            case "image":
                ids = await image.publish(self.images, self.documents, written, step)
                self.ids |= {str(platform): image_id for platform, image_id in ids.items()}
                self._answer(next(iter(ids.values())), next(iter(ids.values())))
                if is_true(output.attrs.get("push")):
                    for name in named:
                        await image.send(self.images, name, await self.bases.credentials(name.domain), step)
            case "docker":
                digest = await archive.docker(self.images, self.documents, named, output, self.session, step)
                self._answer(digest, digest)
            case "oci":
                digest = await archive.oci(
                    self.images,
                    self.documents,
                    named,
                    output,
                    self.session,
                    step,
                    scratch=self.scratch,
                    indexed=self._several(),
                )
                self._answer(digest, "")
            case _:
                await self._files(output, step)
        if named and output.type in ("image", "docker", "oci"):
            self.response["image.name"] = ",".join(map(str, written))

    def _answer(self, digest: str, config: str) -> None:
        self.response["containerimage.digest"] = digest
        if config:
            self.response["containerimage.config.digest"] = config

    async def _files(self, output: Output, step: Shown) -> None:
        """The file systems themselves."""
        names = files.directory_names(list(self.targets), output, several=self._several())
        trees = {}
        for name, target in zip(names, self.targets.values()):
            state = self.solved[target.vertex].state
            chain_id = state.chain_id if state is not None else ""
            trees[name] = await asyncio.to_thread(self.files.layers, chain_id)
        tree = files.Exported(trees, self.request.epoch_s)
        try:
            if output.type == "tar":
                await files.tar(self.images, tree, output, self.session, step)
            else:
                await files.local(tree, output, self.session, step)
        finally:
            await asyncio.to_thread(tree.close)
