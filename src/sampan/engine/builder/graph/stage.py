"""One stage while it is converted: its file system so far, its configuration, its variables, its history.

`Common` is what all stages of one platform share. Both live for one conversion only; what comes out is frozen.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sampan.engine.builder.graph import args, contexts, history, names, reach
from sampan.engine.builder.graph.args import Scope
from sampan.engine.builder.graph.contexts import NamedContext
from sampan.engine.builder.graph.values import ClassicStep, HistoryEntry, ResolvedImage
from sampan.engine.builder.ops import Copy, FileOp, ImageOp, LocalOp, ScratchOp, Vertex, VertexLabel
from sampan.engine.builder.request import BuildRequest, is_true
from sampan.engine.platforms import Platform
from sampan.errors import InvalidArgument, NotFound
from sampan.spec import reference
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.errors import DockerfileError, Range
from sampan.spec.dockerfile.stages import Dockerfile
from sampan.spec.dockerfile.words import Variables

Images = Mapping[tuple[str, Platform], ResolvedImage]


@dataclass(kw_only=True)
class Common:
    """What the stages of one platform share. ignores: the ignore patterns of each local context.

    paths: what is used of each local context, as far as known; "/" is all of it.
    """

    dockerfile: Dockerfile
    request: BuildRequest
    platform: Platform
    images: Images
    ignores: Mapping[str, tuple[str, ...]]
    several: bool = False  # platforms
    anonymous: frozenset[str] = frozenset()  # images that COPY --from or a mount names
    only_stage: bool = False
    stages: dict[int, DispatchState] = field(default_factory=dict)
    paths: dict[str, set[str]] = field(default_factory=dict)
    consumed: set[str] = field(default_factory=set)
    _bases: dict[str, ImageOp] = field(default_factory=dict)

    @property
    def classic(self) -> bool:
        return self.request.dialect == "classic"

    @property
    def shown_platform(self) -> Platform | None:
        return self.platform if self.several else None

    def image(self, name: str, platform: Platform, label: VertexLabel) -> ImageOp:
        """Return the vertex of an image; the first use names it."""
        found = self.images[name, platform]
        key = f"{found.id} {platform}"
        if key not in self._bases:
            if found.ref in self.anonymous:
                label = VertexLabel(name=f"FROM {found.ref}", ranges=label.ranges)
            self._bases[key] = ImageOp(ref=found.ref, image_id=found.id, platform=platform, label=label)
        return self._bases[key]

    def local(self, name: str, path: str) -> LocalOp:
        """Return a directory of the client, of which `path` is used."""
        self.paths.setdefault(name, set()).add(posixpath.normpath(posixpath.join("/", path)))
        shown = names.CONTEXT if name == contexts.MAIN else f"[context {name}] load from client"
        return LocalOp(context=name, exclude=self.ignores.get(name, ()), label=VertexLabel(name=shown, internal=True))

    def tree(self, source: NamedContext, path: str) -> Vertex:
        """Return the vertex of a context, an image's file system included."""
        if source.kind == "local":
            return self.local(source.value, path)
        if source.kind == "input":
            return self.input(source)[0]
        if source.kind in contexts.IMAGES:
            name = f"{source.kind}://{source.value}"
            return self.image(name, self.platform, VertexLabel(name=f"[context {source.value}] FROM {source.value}"))
        return contexts.remote_tree(source, keep_git_dir=self._flag("BUILDKIT_CONTEXT_KEEP_GIT_DIR"))

    def input(self, source: NamedContext) -> tuple[Vertex, Mapping[str, Any]]:
        """Another target's file system and configuration document. Raises: NotFound."""
        if source.value not in self.request.inputs:
            raise NotFound(f"the build has no input named {source.value}")
        return self.request.inputs[source.value]

    def main(self, path: str) -> Vertex:
        """Return the build context."""
        return self.tree(contexts.parse(self.request.contexts.get(contexts.MAIN, "local:context")), path)

    def source(self, wanted: reach.FromFlag, index: int, path: str) -> Vertex:
        """Return what `--from` and `from=` inside a stage mean. Raises: DockerfileError."""
        stage = reach.stage_of(self.dockerfile, wanted, index, classic=self.classic)
        if stage is not None:
            return self.stages[stage.index].state
        named = contexts.find(self.request.contexts, wanted.name, self.platform)
        if named is not None:
            return self.tree(named, path)
        if wanted.name == reach.SCRATCH:
            return ScratchOp()
        name = image_name(wanted.name, wanted.range, classic=self.classic)
        return self.image(name, self.platform, VertexLabel(ranges=lines(wanted.range)))

    def _flag(self, name: str) -> bool:
        return is_true(self.request.build_args.get(name))


@dataclass(kw_only=True)
class DispatchState:
    """One stage. state: the file system so far. total, number: of its steps, for names."""

    common: Common
    index: int
    name: str
    platform: Platform
    state: Vertex
    config: dict[str, Any]
    scope: Scope
    base: ResolvedImage | None = None
    author: str = ""
    history: list[HistoryEntry] = field(default_factory=list)
    steps: list[ClassicStep] = field(default_factory=list)
    cmd_set: bool = False
    total: int = 0
    number: int = 0
    trigger: bool = False

    @property
    def shell(self) -> tuple[str, ...]:
        return tuple(self.config.get("Shell") or history.SHELL)

    @property
    def cwd(self) -> str:
        return self.config.get("WorkingDir") or "/"

    @property
    def no_cache(self) -> bool:
        chosen = self.common.request.no_cache
        return chosen is not None and (not chosen or self.name in {name.lower() for name in chosen})

    def variables(self) -> Variables:
        return Variables(self.scope.variables(), self.common.dockerfile.escape)

    def label(self, instruction: i.Instruction) -> VertexLabel:
        """Return how the next step of this stage is called."""
        self.number += 1
        shown = names.shown(instruction, self.scope.variables(), self.common.dockerfile.escape)
        if self.trigger:
            shown = f"ONBUILD {shown}"
        named = "" if self.common.only_stage else self.name or f"stage-{self.index}"
        step = (self.number, self.total)
        return VertexLabel(
            name=names.in_stage(shown, named, step, self.common.shown_platform),
            text=instruction.source,
            ranges=lines(instruction.range),
            stage=self.name or f"stage-{self.index}",
            step=step,
        )

    def did(self, instruction: i.Instruction, entry: HistoryEntry, command: Sequence[str] = ()) -> None:
        """Note what an instruction did: its history, and in the classic dialect its step."""
        common = self.common
        if common.classic:
            entry = replace(entry, author=self.author)
        elif isinstance(instruction, i.Onbuild):
            return
        self.history.append(entry)
        if common.classic:
            self.steps.append(self.step(instruction, entry, tuple(command)))

    def step(self, instruction: i.Instruction, entry: HistoryEntry | None, command: tuple[str, ...]) -> ClassicStep:
        return ClassicStep(
            text="" if self.trigger else instruction.source,
            keyword=instruction.keyword,
            stage=self.index,
            range=(instruction.range.start, instruction.range.end),
            base=self.base,
            config=dict(self.config),
            history=tuple(self.history),
            author=self.author,
            vertex=entry.vertex if entry is not None else None,
            command=command,
            runs=not isinstance(instruction, i.From | i.FilesInstruction),
            trigger=self.trigger,
            state=self.state,
        )


def lines(range_: Range) -> tuple[tuple[int, int], ...]:
    return ((range_.start, range_.end),) if range_.start else ()


def image_name(text: str, at: Range, *, classic: bool) -> str:
    """Return the full name of an image; an id stays as it is. Raises: DockerfileError."""
    try:
        parsed = reference.parse_any(text)
    except InvalidArgument as e:
        message = e.message if classic else f'failed to parse stage name "{text}": {e.message}'
        raise DockerfileError(message, [at]) from e
    return parsed if isinstance(parsed, str) else str(parsed.tagged())


def files_of(tree: Vertex, label: VertexLabel) -> Vertex:
    """Return a tree as a file system: for FROM a context that is no image."""
    return FileOp(base=ScratchOp(), actions=(Copy(source=tree, patterns=("/",), dest="/"),), label=label)


def with_path(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a base's configuration with a PATH."""
    env = list(config.get("Env") or [])
    if not any(entry.startswith("PATH=") for entry in env):
        env.append(args.PATH)
    return {**config, "Env": env}
