"""A Dockerfile, a request and what its images say → vertices and image configurations, per platform.

    bases      what every FROM says, its variables replaced
    reach      which stages the target needs; what their images' ONBUILD adds may need more: again, until nothing is new
    stages     one after the other, each instruction by `dispatch`

Pure but for the `Resolver`. Not here: what instructions do (dispatch.py, running.py, copying.py), running anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sampan.engine import platforms
from sampan.engine.builder.failures import BuildFailure
from sampan.engine.builder.graph import args, contexts, dispatch, names, reach
from sampan.engine.builder.graph.args import PREDEFINED, Scope
from sampan.engine.builder.graph.contexts import NamedContext
from sampan.engine.builder.graph.stage import Common, DispatchState, files_of, image_name, lines, with_path
from sampan.engine.builder.graph.values import ClassicStep, ForeignBase, ResolvedImage, Resolver, Target
from sampan.engine.builder.ops import ScratchOp, Vertex, VertexLabel
from sampan.engine.builder.request import BuildRequest
from sampan.engine.platforms import HOST, Platform
from sampan.errors import Internal, InvalidArgument, SampanError
from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.gotext import nearest
from sampan.spec.dockerfile.stages import Dockerfile, parse_trigger
from sampan.spec.dockerfile.stages import Stage as Written
from sampan.spec.dockerfile.words import Variables

Ignores = Callable[[], Awaitable[Mapping[str, tuple[str, ...]]]]


async def convert(
    dockerfile: Dockerfile,
    request: BuildRequest,
    resolver: Resolver,
    *,
    ignores: Ignores | None = None,
) -> dict[Platform, Target]:
    """Return the targets of a build.

    ignores: gives the ignore patterns by name of local context, asked when images are known.

    Raises: DockerfileError, SampanError.
    """
    wanted = request.platforms or (HOST,)
    made = [_Conversion(dockerfile, request, resolver, ignores, platform) for platform in wanted]
    return {one.platform: await one.run() for one in made}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What one FROM says: another stage, a context, an image (its full name), or nothing (scratch)."""

    platform: Platform
    text: str
    stage: Written | None = None
    context: NamedContext | None = None
    image: str = ""


def _check_names(stages: Sequence[Written]) -> None:
    """Refuse a stage name that is given twice, which BuildKit only warns of. Raises: DockerfileError."""
    seen: set[str] = set()
    for stage in stages:
        if stage.name and stage.name in seen:
            raise DockerfileError(f"{stage.name} stage name already used", [stage.range])
        seen.add(stage.name)


@dataclass
class _Conversion:
    """One platform."""

    dockerfile: Dockerfile
    request: BuildRequest
    resolver: Resolver
    ignores: Ignores | None
    platform: Platform
    images: dict[tuple[str, Platform], ResolvedImage] = field(default_factory=dict)
    outer: dict[str, str] = field(default_factory=dict)

    @property
    def classic(self) -> bool:
        return self.request.dialect == "classic"

    async def run(self) -> Target:
        target = reach.target_of(self.dockerfile, self.request.target, classic=self.classic)
        stage_name = target.name or f"stage-{target.index}"
        scope, own = args.global_scope(
            self.dockerfile.meta_args, self.request.build_args, self.platform, stage_name, escape=self.dockerfile.escape
        )
        self.outer = own if self.classic else scope
        if self.classic:
            _check_names(self.dockerfile.stages[: target.index + 1])
        last = target.index + 1 if self.classic else len(self.dockerfile.stages)
        bases = {stage.index: self._base(stage, scope) for stage in self.dockerfile.stages[:last]}
        needed, triggers = await self._resolve(target, bases)
        common = self._common(needed, triggers, await self.ignores() if self.ignores is not None else {})
        for index in needed:
            common.stages[index] = self._stage(common, index, bases[index], triggers.get(index, []), target.index)
        return self._target(common, common.stages[target.index], needed, bases)

    # -- what stands below the stages ---------------------------------------------------------------------------

    def _base(self, stage: Written, scope: Mapping[str, str]) -> Base:
        """FROM with its variables replaced. Raises: DockerfileError."""
        variables = Variables(scope, self.dockerfile.escape)
        try:
            text = variables.word(stage.base)
            platform = variables.word(stage.platform)
        except DockerfileError as e:
            raise e.at(stage.range) from e
        if not text:
            raise DockerfileError(f"base name ({stage.base}) should not be blank", [stage.range])
        if stage.platform and not platform:
            raise DockerfileError(f"empty platform value from expression {stage.platform}", [stage.range])
        own = self._platform(platform, stage) if platform else self.platform
        replaced = contexts.find(self.request.contexts, stage.name, own) if stage.name else None
        if replaced is not None:
            return self._context(replaced, text, own)
        earlier = reach.earlier(self.dockerfile, text, stage.index, numbers=False)
        if earlier is not None:
            return Base(platform=own, text=text, stage=earlier)
        named = contexts.find(self.request.contexts, text, own)
        if named is not None:
            return self._context(named, text, own)
        if text == reach.SCRATCH:
            return Base(platform=own, text=text)
        return Base(platform=own, text=text, image=image_name(text, stage.range, classic=self.classic))

    def _platform(self, text: str, stage: Written) -> Platform:
        try:
            return platforms.parse(text)
        except InvalidArgument as e:
            reason = e.message
            if text.count("/") > 2:
                reason = f'"{text}": cannot parse platform specifier: invalid argument'
            raise DockerfileError(f"failed to parse platform {text}: {reason}", [stage.range]) from e

    @staticmethod
    def _context(named: NamedContext, text: str, platform: Platform) -> Base:
        image = f"{named.kind}://{named.value}" if named.kind in contexts.IMAGES else ""
        return Base(platform=platform, text=text, context=named, image=image)

    async def _resolve(
        self, target: Written, bases: Mapping[int, Base]
    ) -> tuple[list[int], dict[int, list[i.Instruction]]]:
        """The stages that are needed, and the triggers that each begins with; all images are known then."""
        triggers: dict[int, list[i.Instruction]] = {}
        while True:
            needed = self._needed(target, bases, triggers)
            wanted = self._wanted(needed, bases, triggers)
            missing = {key: stage for key, stage in wanted.items() if key not in self.images}
            found = await asyncio.gather(*(self._image(*key, stage) for key, stage in missing.items()))
            self.images.update(zip(missing, found))
            news = {index: self._triggers(bases[index]) for index in needed if index not in triggers}
            triggers.update(news)
            if not any(news.values()) and not missing:
                return needed, triggers

    def _needed(
        self, target: Written, bases: Mapping[int, Base], triggers: Mapping[int, Sequence[i.Instruction]]
    ) -> list[int]:
        if self.classic:
            return list(range(target.index + 1))
        texts = {index: base.text if base.context is None else "" for index, base in bases.items()}
        return reach.needed(self.dockerfile, target, texts, triggers)

    def _wanted(
        self, needed: Sequence[int], bases: Mapping[int, Base], triggers: Mapping[int, Sequence[i.Instruction]]
    ) -> dict[tuple[str, Platform], Written]:
        """The images to look at, each with the stage that asks."""
        wanted: dict[tuple[str, Platform], Written] = {}
        for index in needed:
            stage = self.dockerfile.stages[index]
            if bases[index].image:
                named = replace(stage, start=replace(stage.start, base=bases[index].text))
                wanted.setdefault((bases[index].image, bases[index].platform), named)
            for source in reach.sources([*triggers.get(index, ()), *stage.instructions]):
                name = self._anonymous(source, index)
                if name:
                    wanted.setdefault((name, self.platform), replace_range(stage, source))
        return wanted

    def _anonymous(self, source: reach.FromFlag, index: int) -> str:
        """The image that `--from` names, "" when it is something else."""
        if reach.stage_of(self.dockerfile, source, index, classic=self.classic) is not None:
            return ""
        named = contexts.find(self.request.contexts, source.name, self.platform)
        if named is not None:
            return f"{named.kind}://{named.value}" if named.kind in contexts.IMAGES else ""
        return "" if source.name == reach.SCRATCH else image_name(source.name, source.range, classic=self.classic)

    async def _image(self, name: str, platform: Platform, stage: Written) -> ResolvedImage:
        """Ask the resolver. Raises: DockerfileError at the line that names the image, in the dialect's words."""
        try:
            return await self.resolver.image(name, platform, pull=self.request.pull)
        except SampanError as e:
            if self.classic:
                asked = stage.range == self.dockerfile.stages[stage.index].range  # by FROM, and not by --from
                cause = e if asked else Internal(f"invalid from flag value {stage.base}: {e.message}")
                raise BuildFailure(cause, lines=((stage.range.start, stage.range.end),)) from e
            near = nearest(stage.base, [other.name for other in self.dockerfile.stages if other.name])
            hint = f" (did you mean {near}?)" if near else ""
            message = f"{stage.base}: failed to resolve source metadata for {name}: {e.message}{hint}"
            raise DockerfileError(message, [stage.range]) from e

    def _triggers(self, base: Base) -> list[i.Instruction]:
        """What ONBUILD of the base adds to the stage. Raises: DockerfileError."""
        if base.stage is not None:
            texts = [one.expression for one in base.stage.instructions if isinstance(one, i.Onbuild)]
        elif base.image:
            texts = (self.images[base.image, base.platform].config.get("config") or {}).get("OnBuild") or []
        else:
            texts = []
        return [parse_trigger(text) for text in texts]

    # -- stages ---------------------------------------------------------------------------------------------------

    def _common(
        self,
        needed: Sequence[int],
        triggers: Mapping[int, Sequence[i.Instruction]],
        ignores: Mapping[str, tuple[str, ...]],
    ) -> Common:
        anonymous: set[str] = set()
        states = len(self.dockerfile.stages)
        for index in needed:
            instructions = [*triggers.get(index, ()), *self.dockerfile.stages[index].instructions]
            named = [name for source in reach.sources(instructions) if (name := self._anonymous(source, index))]
            anonymous.update(self.images[name, self.platform].ref for name in named)
            caches = [m for one in instructions if isinstance(one, i.Run) for m in one.mounts if m.type == "cache"]
            states += len(named) + len([mount for mount in caches if not mount.from_])
        return Common(
            dockerfile=self.dockerfile,
            request=self.request,
            platform=self.platform,
            images=self.images,
            ignores=ignores,
            several=len(self.request.platforms) > 1,
            anonymous=frozenset(anonymous),
            only_stage=states == 1,
        )

    def _stage(
        self, common: Common, index: int, base: Base, triggers: Sequence[i.Instruction], target: int
    ) -> DispatchState:
        """One stage from its FROM to its end."""
        written = self.dockerfile.stages[index]
        stage = self._begin(common, written, base)
        if self.classic:
            first = stage.step(written.start, None, ())
            parent = base.stage.index if base.stage is not None else None
            stage.steps.append(replace(first, triggers=len(triggers), parent_stage=parent))
        stage.config.pop("OnBuild", None)
        stage.total += len(triggers)
        stage.trigger = True
        for instruction in triggers:
            dispatch.dispatch(stage, replace(instruction, range=written.range))
        stage.trigger = False
        for instruction in written.instructions:
            dispatch.dispatch(stage, instruction)
        if index == target:
            _label(stage)
        if stage.steps:
            stage.steps[-1] = replace(stage.steps[-1], stage_end=True)
        return stage

    def _begin(self, common: Common, written: Written, base: Base) -> DispatchState:
        """The stage right after FROM."""
        total = sum(isinstance(one, i.Run | i.FilesInstruction | i.Workdir) for one in written.instructions)
        begun: dict[str, Any] = {
            "common": common,
            "index": written.index,
            "name": written.name,
            "platform": base.platform,
            "total": total,
        }
        if base.stage is not None:
            below = common.stages[base.stage.index]
            scope = below.scope.continued(below.config.get("Env") or [])
            begun |= {"state": below.state, "config": dict(below.config), "base": below.base, "author": below.author}
            return DispatchState(**begun, scope=scope, history=list(below.history))
        resolved: ResolvedImage | None = None
        document: Mapping[str, Any] = {}
        if base.image:
            resolved = self.images[base.image, base.platform]
            document = resolved.config
        elif base.context is not None and base.context.kind == "input":
            document = common.input(base.context)[1]
        config = with_path(document.get("config") or {})
        if resolved is None and not document and not self.classic:
            config["WorkingDir"] = "/"
        scope = Scope(config["Env"], self.request.build_args, self.outer, classic=self.classic)
        stage = DispatchState(
            **begun, state=ScratchOp(), config=config, scope=scope, base=resolved, author=document.get("author") or ""
        )
        stage.state = self._below(stage, written, base, resolved)
        return stage

    def _below(self, stage: DispatchState, written: Written, base: Base, resolved: ResolvedImage | None) -> Vertex:
        """The file system that FROM names."""
        common = stage.common
        if not base.image and base.context is None:
            return ScratchOp()
        stage.total += 1
        stage.number += 1
        named = "" if common.only_stage else stage.name or f"stage-{stage.index}"
        shown = f"FROM {resolved.ref}" if resolved is not None else f"FROM {base.text}"
        step = (stage.number, stage.total)
        label = VertexLabel(
            name=names.in_stage(shown, named, step, common.shown_platform),
            text=written.start.source,
            ranges=lines(written.range),
            stage=stage.name or f"stage-{stage.index}",
            step=step,
        )
        if base.image:
            return common.image(base.image, base.platform, label)
        assert base.context is not None
        tree = common.tree(base.context, "/")
        return tree if base.context.kind == "input" else files_of(tree, label)

    # -- the result -----------------------------------------------------------------------------------------------

    def _target(self, common: Common, stage: DispatchState, needed: Sequence[int], bases: Mapping[int, Base]) -> Target:
        request = self.request
        config = dict(stage.config)
        if not self.classic and request.labels:
            config["Labels"] = {**(config.get("Labels") or {}), **request.labels}
        declared = {argument.key for line in self.dockerfile.meta_args for argument in line.arguments}
        unused = [name for name in request.build_args if name not in common.consumed | declared | PREDEFINED]
        steps: list[ClassicStep] = []
        if self.classic:
            steps = [_meta(line) for line in self.dockerfile.meta_args]
            steps += [step for index in needed for step in common.stages[index].steps]
        return Target(
            vertex=stage.state,
            platform=stage.platform,
            config=config,
            base=stage.base,
            history=tuple(stage.history),
            author=stage.author,
            steps=tuple(steps),
            unused_args=tuple(sorted(unused)),
            paths={name: tuple(sorted(paths)) for name, paths in common.paths.items()},
            stages=tuple(needed),
            environments={index: self._environment(bases[index]) for index in needed if bases[index].image},
            foreign=tuple(self._foreign(needed, bases)),
        )

    def _foreign(self, needed: Sequence[int], bases: Mapping[int, Base]) -> Iterator[ForeignBase]:
        """Bases that a registry had for another platform only."""
        for index in needed:
            base = bases[index]
            if not base.image:
                continue
            found = self.images[base.image, base.platform]
            own = platforms.of(found.config)
            if own.architecture and not base.platform.runs(own):
                range_ = self.dockerfile.stages[index].range
                yield ForeignBase(ref=found.ref, found=own, wanted=base.platform, range=(range_.start, range_.end))

    def _environment(self, base: Base) -> dict[str, str]:
        """What the image of a base sets."""
        env = (self.images[base.image, base.platform].config.get("config") or {}).get("Env") or []
        pairs = (entry.partition("=") for entry in env)
        return {args.PATH.partition("=")[0]: "", **{name: value for name, _, value in pairs}}


def replace_range(stage: Written, source: reach.FromFlag) -> Written:
    """Return the stage as it would be if its FROM said what `source` says: for the error that names the line."""
    return replace(stage, start=replace(stage.start, base=source.name, range=source.range))


def _label(stage: DispatchState) -> None:
    """`--label`: in the classic dialect steps at the end of the target."""
    if not stage.common.classic:
        return
    for key, value in sorted(stage.common.request.labels.items()):
        source = f"LABEL {key}={value}"
        dispatch.configure(stage, i.Label(pairs=(i.Pair(key, value),), source=source, written="LABEL"))


def _meta(line: i.Arg) -> ClassicStep:
    """ARG before the first FROM: shown, and nothing else."""
    return ClassicStep(
        text=line.source, keyword="ARG", stage=-1, range=(line.range.start, line.range.end), base=None, config={}
    )
