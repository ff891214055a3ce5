"""The builds that are under way: what a client began with Control.Solve and steers through the gateway.

    Control.Solve(ref)   begins a build and waits
    gateway Solve        notes what to build and answers a reference to it; nothing runs yet
    gateway Return       says which reference is the result (or that the client has failed); now it runs

References outlive their build for a while: a client may hand one to another build as input (linked targets of a bake
file).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping

from sampan.engine.builder.buildkit.details import ClientFailure
from sampan.engine.builder.buildkit.options import Asked
from sampan.engine.builder.buildkit.protos import ops_pb2 as pb
from sampan.engine.builder.buildkit.status import StatusLog
from sampan.engine.builder.clients.arrivals import Arrivals
from sampan.errors import InvalidArgument, NotFound, NotImplemented_, Unavailable

APPEAR_S = 5.0
ENDED_S = 30.0
"""How long an ended build's status can be asked for: clients ask beside their Solve, and may come after it."""
KEPT = 512
"""So many references are remembered."""
RUNNING = 500
"""So many builds run, or wait for their client's word, at once."""
ENDED = 100
"""The logs of so many ended builds are held; older ones are read from the history."""
SCHEME = "sampan-result://"
_CONTEXTS = ("docker-image://", "oci-layout://", "git://", "http://", "https://")


class Build:
    """One build. `returned` gives what to build, None for nothing, or raises `ClientFailure`."""

    def __init__(self, ref: str, session: str) -> None:
        self.ref = ref
        self.session = session
        self.started_ns = time.time_ns()
        self.log = StatusLog()
        self.attrs: Mapping[str, str] = {}
        self.returned: asyncio.Future[Asked | None] = asyncio.get_running_loop().create_future()

    def give(self, asked: Asked | None) -> None:
        """Take what the client says its result is."""
        if not self.returned.done():
            self.returned.set_result(asked)

    def fail(self, failed: ClientFailure) -> None:
        """Take that the client has given up."""
        if not self.returned.done():
            self.returned.set_exception(failed)


class Builds:
    """Running builds by the reference that their client chose."""

    def __init__(self) -> None:
        self._running: dict[str, Build] = {}
        self._ended: dict[str, Build] = {}
        self._arrivals = Arrivals()
        self._asked: dict[str, Asked] = {}

    def begin(self, ref: str, session: str) -> Build:
        """Begin a build under its client's reference. Raises: InvalidArgument when that is taken, Unavailable."""
        if not ref or ref in self._running or ref in self._ended:
            raise InvalidArgument(f"build {ref} already exists")
        if len(self._running) >= RUNNING:
            raise Unavailable(f"{RUNNING} builds are running already")
        build = self._running[ref] = Build(ref, session)
        self._arrivals.announce(ref)
        return build

    def end(self, build: Build) -> None:
        build.log.close()
        self._running.pop(build.ref, None)
        self._ended[build.ref] = build
        while len(self._ended) > ENDED:
            del self._ended[next(iter(self._ended))]
        asyncio.get_running_loop().call_later(ENDED_S, self._ended.pop, build.ref, None)
        if not build.returned.done():
            build.returned.cancel()
        elif not build.returned.cancelled():
            build.returned.exception()

    def running(self) -> list[Build]:
        return list(self._running.values())

    def knows(self, ref: str) -> bool:
        """Return whether the build runs or has just ended."""
        return ref in self._running or ref in self._ended

    async def get(self, ref: str, timeout_s: float = APPEAR_S) -> Build:
        """Return a running or just ended build; calls about it may come a moment before it does. Raises: NotFound."""
        if ref in self._ended:
            return self._ended[ref]
        if ref not in self._running:
            await self._arrivals.wait(ref, timeout_s)
        build = self._running.get(ref) or self._ended.get(ref)
        if build is None:
            raise NotFound(f"no such job {ref}")
        return build

    # ── references ───────────────────────────────────────────────────────────────────────────────────────────────────

    def note(self, asked: Asked) -> tuple[str, pb.Definition]:
        """Remember what was asked; returns the reference's id and a definition that stands for it."""
        id = secrets.token_hex(13)
        self._asked[id] = asked
        while len(self._asked) > KEPT:
            del self._asked[next(iter(self._asked))]
        return id, definition(SCHEME + id)

    def asked(self, id: str) -> Asked:
        """Return what a reference stands for. Raises: NotFound."""
        try:
            return self._asked[id]
        except KeyError:
            raise NotFound(f"no such ref: {id}") from None

    def inputs(self, definitions: Mapping[str, pb.Definition]) -> dict[str, str]:
        """Inputs of a frontend by name: a context as a string, `SCHEME id` for another build's result."""
        return {name: context_of(source_of(one)) for name, one in definitions.items()}


def definition(identifier: str) -> pb.Definition:
    """Return a definition of one source."""
    op = pb.Op(source=pb.SourceOp(identifier=identifier)).SerializeToString()
    digest = "sha256:" + hashlib.sha256(op).hexdigest()
    made = pb.Definition()
    getattr(made, "def").extend([op, pb.Op(inputs=[pb.Input(digest=digest)]).SerializeToString()])
    made.metadata[digest].caps["source.image"] = True
    return made


def source_of(one: pb.Definition) -> pb.SourceOp:
    """Return the source that a definition consists of. Raises: NotImplemented_ for anything but a source."""
    found = None
    for raw in getattr(one, "def"):
        kind = (op := pb.Op.FromString(raw)).WhichOneof("op")
        if kind == "source":
            found = op.source
        elif kind is not None:
            raise NotImplemented_(f"this builder takes Dockerfiles, not LLB steps ({kind})")
    if found is None:
        raise InvalidArgument("an empty definition")
    return found


def context_of(source: pb.SourceOp) -> str:
    """Return a source as a build context. Raises: NotImplemented_."""
    identifier = source.identifier
    if identifier.startswith("local://"):
        return "local:" + identifier.removeprefix("local://")
    if identifier.startswith("git://"):
        return source.attrs.get("git.fullurl") or identifier
    if identifier.startswith((*_CONTEXTS, SCHEME)):
        return identifier
    raise NotImplemented_(f"unsupported source {identifier}")
