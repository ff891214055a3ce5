"""One build through the classic door: receive the archive, find the Dockerfile, build, and say so line by line.

Not here: what the query means (api/handlers/build.py), the words (output.py), the steps (walk.py).
Source: moby's builder/remotecontext as observed on Docker Engine 28.5.2.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace

from sampan.engine.background import beside
from sampan.engine.builder import questions
from sampan.engine.builder.classic.failures import translated
from sampan.engine.builder.classic.outbox import Outbox
from sampan.engine.builder.classic.output import ClassicOutput, Message
from sampan.engine.builder.classic.trace import Trace
from sampan.engine.builder.classic.walk import Voice, dialect
from sampan.engine.builder.failures import BuildFailure, cause_of
from sampan.engine.builder.files import links
from sampan.engine.builder.files.spool import SpooledTree
from sampan.engine.builder.files.tartree import TarTree
from sampan.engine.builder.request import BuildRequest
from sampan.engine.builder.service import Builder
from sampan.engine.builder.session import Session
from sampan.engine.builder.solving import BUILDKIT
from sampan.engine.builder.trees import Tree
from sampan.engine.builder.uploaded import UploadedSession
from sampan.errors import Internal, InvalidArgument, NotFound, SampanError
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.ignore import read
from sampan.spec.dockerfile.stages import parse

_SCHEMES = ("http://", "https://", "git://", "git@", "github.com/", "ssh://")
CALLS = ("check", "outline", "targets")
DOCKERFILE_LIMIT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicOptions:
    """What the classic door alone knows of a request.

    session: id of a gRPC session for secrets and results. call: what to do with the Dockerfile, `build` or one of
    CALLS.
    """

    remote: str = ""
    quiet: bool = False
    remove: bool = True
    session: str = ""
    call: str = "build"


async def build(
    builder: Builder, request: BuildRequest, options: ClassicOptions, upload: AsyncIterator[bytes]
) -> AsyncIterator[Message]:
    """Yield Docker's messages. Raises: SampanError before the first one for a request that is wrong in itself.

    Whoever stops listening ends the build: its steps are killed and nothing of it is left.
    """
    tree: SpooledTree | None = None
    try:
        if options.remote:
            request = await _remote(request, options.remote, upload)
        else:
            tree = await _received(upload, builder.scratch)
            path, text, ignore = await asyncio.to_thread(_dockerfile, tree, request.filename)
            if request.dialect == "classic":
                ignore = _hidden(ignore, path)
            request = replace(request, dockerfile=text, ignore=ignore)
        connected = await builder.sessions.get(options.session) if options.session else None
        session = UploadedSession(request.id, tree, connected)
        outbox = Outbox()
        run = _traced if request.dialect == "buildkit" else _spoken
        work = run(builder, request, options, session, outbox)
        async with beside(work, f"build {request.id}", quiet=True) as task:
            task.add_done_callback(lambda _: outbox.close())
            while (message := await outbox.get()) is not None:
                yield message
            await task
    finally:
        if tree is not None:
            await asyncio.to_thread(tree.close)


async def _received(upload: AsyncIterator[bytes], scratch: str) -> SpooledTree:
    """Raises: Internal for an archive that cannot be read, as the reference."""
    try:
        return await TarTree.receive(upload, scratch)
    except InvalidArgument as e:
        raise Internal(e.message) from e


async def _spoken(
    builder: Builder, request: BuildRequest, options: ClassicOptions, session: Session, outbox: Outbox
) -> None:
    voice = Voice(ClassicOutput(outbox.send, quiet=options.quiet, remove=options.remove, room=outbox.room))
    try:
        await builder.build(request, session, voice, dialect(voice))
    except SampanError as e:
        cause = cause_of(e)
        if isinstance(cause, DockerfileError) and request.dockerfile:
            _point(voice.output, request.dockerfile, cause.line)
        elif isinstance(e, BuildFailure) and e.lines and request.dockerfile and not voice.output.begun:
            _point(voice.output, request.dockerfile, e.lines[0][0])  # an image that it names cannot be had
        voice.output.failed()
        raise translated(e) from e
    except Exception:
        voice.output.failed()
        raise


def _point(output: ClassicOutput, text: bytes, line: int) -> None:
    """Say which step cannot be done, when the Dockerfile can be read as such.

    Docker's classic builder would find out when it comes to that step; here nothing has been run yet.
    """
    try:
        found = parse(text)
    except DockerfileError:
        return
    steps = [*found.meta_args, *(step for stage in found.stages for step in (stage.start, *stage.instructions))]
    for number, step in enumerate(steps, 1):
        if step.range.start == line:
            output.step(number, len(steps), step.source)


async def _traced(
    builder: Builder, request: BuildRequest, options: ClassicOptions, session: Session, outbox: Outbox
) -> None:
    trace = Trace(outbox.send)
    try:
        if options.call != "build":
            trace.answer(await _answer(builder, request, options.call, session))
            return
        built = await builder.build(request, session, trace, BUILDKIT)
    except SampanError as e:
        trace.failed(e)
        raise
    trace.result(built)


async def _answer(builder: Builder, request: BuildRequest, call: str, session: Session) -> dict[str, bytes]:
    """What was asked about the Dockerfile."""
    if call == "check":
        return questions.lint(await builder.check(request, session))
    if call == "outline":
        return questions.outline(await builder.outline(request, session))
    return questions.targets(await builder.targets(request, session))


def _hidden(ignore: bytes, dockerfile: str) -> bytes:
    """What the classic builder leaves out: the ignore file and the Dockerfile, when the ignore file names them.

    All else it trusts the client to have left out.
    """
    try:
        patterns = read(ignore)
    except InvalidArgument:  # a client that got this far has read it otherwise
        return b""
    return "".join(f"{path}\n" for path in (dockerfile, ".dockerignore") if patterns.excludes(path)).encode()


def _dockerfile(tree: Tree, filename: str) -> tuple[str, bytes, bytes]:
    """(path, Dockerfile, ignore file).

    Raises: Internal when it is not in the context, InvalidArgument when it is empty.
    """
    path = posixpath.normpath(posixpath.join("/", filename))[1:]
    if posixpath.normpath(filename).startswith(".."):
        raise Internal(f"forbidden path outside the build context: {filename} ()")
    entries = tree.entries()
    if filename == "Dockerfile" and path not in entries and "dockerfile" in entries:
        path = "dockerfile"
    try:
        text = _read(tree, path)
    except NotFound:
        raise Internal(f"Cannot locate specified Dockerfile: {filename}") from None
    if not text.strip():
        raise InvalidArgument(f"the Dockerfile ({path}) cannot be empty")
    for name in (f"{path}.dockerignore", ".dockerignore"):
        with suppress(NotFound):
            return path, text, _read(tree, name)
    return path, text, b""


def _read(tree: Tree, path: str) -> bytes:
    with tree.open(links.real(tree.entries(), path)) as file:
        data = file.read(DOCKERFILE_LIMIT_BYTES + 1)
    if len(data) > DOCKERFILE_LIMIT_BYTES:
        raise InvalidArgument(f"{path} is larger than {DOCKERFILE_LIMIT_BYTES} bytes")
    return data


async def _remote(request: BuildRequest, remote: str, upload: AsyncIterator[bytes]) -> BuildRequest:
    """The request with its context elsewhere: a git repository, an archive, or a Dockerfile alone."""
    async for _ in upload:
        pass
    if remote == "client-session":
        return request
    if not remote.startswith(_SCHEMES):
        raise Internal(f"remoteURL ({remote}) could not be recognized as URL")
    return replace(request, contexts={**request.contexts, "context": remote})
