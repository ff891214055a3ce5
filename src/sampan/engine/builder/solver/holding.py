"""What several users have at once is held by each: a tree is closed with the last of them.

A step that runs for two builds outlives the one that began it, so it holds the trees that it reads, as it holds its
layers. Nothing that is used across an `await` belongs to a build that may end meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from sampan.engine.background import beside
from sampan.engine.builder.ops import RunOp, Vertex
from sampan.engine.builder.session import Forwarding, Session
from sampan.engine.builder.state import Solved
from sampan.engine.builder.trees import Tree
from sampan.errors import NotFound, SampanError

T = TypeVar("T")
SLOW_S = 0.5
"""A client that has not answered for so long is not waited for alone."""
SILENT_S = 10.0
"""Clients that are silent for so long after another has refused are taken to have refused too."""


class HeldTrees:
    """The trees of all running builds and steps, counted. On the loop's thread."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Tree, int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, tree: Tree) -> Tree:
        """Keep a tree open until `let_go`, once for each call."""
        self._held[id(tree)] = tree, self._held.get(id(tree), (tree, 0))[1] + 1
        return tree

    async def let_go(self, trees: Collection[Tree]) -> None:
        """Give trees back; those that nobody holds any more are closed."""
        last: list[Tree] = []
        for tree in trees:
            count = self._held[id(tree)][1] - 1
            if count:
                self._held[id(tree)] = tree, count
            else:
                del self._held[id(tree)]
                last.append(tree)
        for tree in last:
            await asyncio.to_thread(tree.close)


class JoinedSession(Forwarding):
    """The clients that wait for one step now: whichever is there gives what the step asks for.

    `clients` changes while the step runs. It is never empty then: the step ends with the last of them.
    """

    def __init__(self, clients: Sequence[Session]) -> None:
        super().__init__(clients[0])
        self._clients = clients

    async def secret(self, id: str) -> bytes:
        return await self._first(lambda client: client.secret(id))

    async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await self._first(lambda client: client.ssh_agent(id))

    async def _first(self, ask: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Return the first answer. Who does not answer for a while is not waited for alone: the next is asked too, and
        who joins meanwhile. Raises: what the last of them refused with.
        """
        asked: list[Session] = []
        questions: list[asyncio.Task[T]] = []
        error: SampanError | None = None
        until = math.inf
        now = asyncio.get_running_loop().time
        async with AsyncExitStack() as asking:
            while True:
                client = next((one for one in self._clients if one not in asked), None)
                if client is not None:
                    asked.append(client)
                    question = beside(ask(client), "a question to a client of a build", quiet=True)
                    questions.append(await asking.enter_async_context(question))
                waiting = [one for one in questions if not one.done()]
                if not waiting or now() > until:
                    raise error or NotFound("no client is left to ask")
                await asyncio.wait(waiting, timeout=SLOW_S, return_when=asyncio.FIRST_COMPLETED)
                for answer in waiting:
                    if answer.done():
                        try:
                            return answer.result()
                        except SampanError as e:
                            error, until = e, now() + SILENT_S


def is_personal(vertex: Vertex) -> bool:
    """Return whether a step talks to one client all the time, so that no other build can share it.

    A connection to an agent breaks when that client leaves, whoever else waits for the step.
    """
    return isinstance(vertex, RunOp) and any(mount.kind == "ssh" for mount in vertex.mounts)


def used_trees(vertex: Vertex, solved: Mapping[Vertex, Solved], opened: Mapping[Vertex, Tree]) -> list[Tree]:
    """Return the trees that a step reads: those opened for it, and those of its inputs."""
    found = [*opened.values(), *(tree for needed in vertex.inputs if (tree := solved[needed].tree) is not None)]
    return list({id(tree): tree for tree in found}.values())
