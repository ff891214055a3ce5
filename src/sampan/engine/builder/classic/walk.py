"""The classic builder: one instruction after the other, an image after each.

All stages up to the target are built, used or not, as Docker's classic builder does. What a step gives is an image
whose parent is the step before: `docker history` shows them, `docker run` enters them. "Using cache" is said when the
image of a step was there already; steps that make files have the solver's cache besides.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sampan.engine.builder import failures
from sampan.engine.builder.classic import fromhistory
from sampan.engine.builder.classic.output import ClassicOutput
from sampan.engine.builder.dialect import ConvertedBuild, Dialect
from sampan.engine.builder.exporters.squash import squash
from sampan.engine.builder.graph import copied
from sampan.engine.builder.graph.document import document
from sampan.engine.builder.graph.values import ClassicStep, HistoryEntry
from sampan.engine.builder.ops import Vertex
from sampan.engine.builder.progress import BuildWarning, Step, StepStatus
from sampan.engine.builder.request import Built
from sampan.engine.builder.state import Solved
from sampan.engine.builder.trees import Tree
from sampan.errors import Internal
from sampan.spec import oci_image, reference


class Voice:
    """Progress as the classic builder's lines: of a step's vertex its begin, its output and its cache hit are told."""

    def __init__(self, output: ClassicOutput) -> None:
        self.output = output
        self._key = ""
        self._runs = False
        self._said = True

    def follow(self, vertex: Vertex, *, runs: bool) -> None:
        """From now on tell of this vertex. runs: it says `Running in`."""
        self._key, self._runs, self._said = vertex.digest, runs, False

    def step(self, step: Step) -> None:
        if self._said or step.key != self._key:
            return
        if step.cached:
            self._said = True
            self.output.cached()
        elif step.started_ns and not step.completed_ns:
            self._said = True
            if self._runs:
                self.output.running()

    def status(self, status: StepStatus) -> None:
        return None

    def log(self, key: str, stream: int, data: bytes) -> None:
        if key == self._key:
            self.output.output(stream, data)

    def warning(self, warning: BuildWarning) -> None:
        return None

    async def room(self) -> None:
        await self.output.room()


def dialect(voice: Voice) -> Dialect:
    """Return the classic builder, as a build uses it whose progress is this voice."""

    async def finish(build: ConvertedBuild) -> Built:
        with failures.located(build.definition.text, build.request.filename):
            return await Walk(build, voice).run()

    return Dialect(name="classic", finish=finish, lenient=True, told=voice.output.passed_on)


class Walk:
    """One build. `run` is called once."""

    def __init__(self, build: ConvertedBuild, voice: Voice) -> None:
        self._target = next(iter(build.targets.values()))
        self._request = build.request
        self._solver = build.solver
        self._files = build.files
        self._images = build.images
        self._session = build.session
        self._voice = voice
        self._say = voice.output
        self._solved: dict[Vertex, Solved] = {}
        self._named: dict[HistoryEntry, HistoryEntry] = {}
        self._ends: dict[int, str] = {}  # the image that each stage has come to
        self._trusted = fromhistory.trusted(build.images, build.request.cache_from)

    async def run(self) -> Built:
        """Walk the steps, then name the image. Raises: what a step raises; Internal when there is no image at all."""
        steps = self._target.steps
        total = sum(1 for step in steps if step.text)
        number, image_id, triggers = 0, "", 0
        for step in steps:
            if step.text:
                number += 1
                self._say.step(number, total, step.text)
            if step.stage < 0:
                continue
            if step.keyword == "FROM":
                image_id = self._begin(step)
                triggers = step.triggers
                if triggers:
                    self._say.triggers(triggers)
            else:
                image_id = await self._take(step, image_id)
                triggers -= step.trigger
            if not triggers:
                self._say.result(image_id)
            self._ends[step.stage] = image_id
            if step.stage_end and image_id:
                self._say.image(image_id)
        if not image_id:
            raise Internal("No image was generated. Is your Dockerfile empty?")
        await self._images.publisher.make_durable(image_id)
        if self._target.unused_args:
            self._say.unused(list(self._target.unused_args))
        if self._request.squash:
            base = self._images.resolve(self._target.base.id) if self._target.base is not None else None
            image_id = await squash(self._images, self._files, image_id, base)
        self._say.built(image_id)
        for tag in self._request.tags:
            name = reference.parse(tag)
            await self._images.publisher.tag_image(image_id, name)
            self._say.tagged(name.familiar())
        return Built(images={str(self._target.platform): image_id})

    def _begin(self, step: ClassicStep) -> str:
        """The image that a stage starts from, "" for scratch."""
        if step.parent_stage is not None:
            return self._ends[step.parent_stage]
        return step.base.id if step.base is not None else ""

    async def _take(self, step: ClassicStep, parent: str) -> str:
        """Do one instruction; returns the id of the image that it makes."""
        if step.vertex is not None:
            self._voice.follow(step.vertex, runs=step.runs)
            if not await self._reuse(step, step.vertex):
                self._solved |= await self._solver.solve(
                    [step.vertex],
                    session=self._session,
                    progress=self._voice,
                    serial=True,
                    no_cache=bool(self._request.cache_from),  # then nothing counts but what these images have
                )
            encoded = await self._document(step)
        else:
            encoded = await self._document(step)
            known = oci_image.digest(encoded) in self._images.catalog.images
            if self._request.cache_from:
                known = await self._offered(step) is not None
            if known and self._request.no_cache is None:
                self._say.cached()
            else:
                self._say.running()
        image_id = oci_image.digest(encoded)
        if image_id not in self._images.catalog.images:
            await self._images.publisher.publish_image(
                encoded, parent=parent, durable=False
            )  # the last one brings all to the disk
        self._say.removed()
        return image_id

    async def _reuse(self, step: ClassicStep, vertex: Vertex) -> bool:
        """Take a step from an image of --cache-from, if one has it."""
        if not self._trusted or vertex.no_cache:
            return False
        sources = list({copy.source for copy in step.history[-1].copied} - self._solved.keys())
        if sources:
            self._solved |= await self._solver.solve(sources, session=self._session, progress=self._voice, serial=True)
        found = await self._offered(step)
        if found is None:
            return False
        self._solver.give(self._session, vertex, found)
        self._solved[vertex] = found
        self._say.cached()
        return True

    async def _offered(self, step: ClassicStep) -> Solved | None:
        """What an image of --cache-from has after this step."""
        return fromhistory.find(self._trusted, step.base, [await self._entry(entry) for entry in step.history])

    async def _document(self, step: ClassicStep) -> bytes:
        found: dict[str, Any] = document(
            step.base,
            [await self._entry(entry) for entry in step.history],
            step.config,
            self._solved,
            platform=self._target.platform,
            dialect="classic",
            author=step.author,
            epoch_s=self._request.epoch_s,
        )
        return oci_image.encode(found)

    async def _entry(self, entry: HistoryEntry) -> HistoryEntry:
        """The entry with what it copied named; each is named once."""
        if not entry.copied:
            return entry
        known = self._named.get(entry)
        if known is None:
            known = self._named[entry] = await asyncio.to_thread(self._name, entry)
        return known

    def _name(self, entry: HistoryEntry) -> HistoryEntry:
        """Thread: hash what was copied; the files of an earlier stage are read where its layers are."""
        trees: dict[Vertex, Tree] = {}
        opened: list[Tree] = []
        try:
            for source in {copy.source for copy in entry.copied}:
                solved = self._solved[source]
                if solved.tree is not None:
                    trees[source] = solved.tree
                elif solved.state is not None:
                    trees[source] = self._files.layers(solved.state.chain_id)
                    opened.append(trees[source])
            return copied.named(entry, trees)
        finally:
            for tree in opened:
                tree.close()
