"""All containers of an engine: records, names, ids, and what lives only as long as the daemon.

The one place that reads or writes container records. Locks are here, keyed by id, never in the record: who changes
a container's state holds `live(id).lock`, and saves before it lets go.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sampan.engine.containers import names
from sampan.engine.containers.records import Container
from sampan.engine.containers.states import Event, State, after
from sampan.engine.store import Op, Store
from sampan.errors import Conflict, InvalidArgument, NotFound

if TYPE_CHECKING:
    from sampan.engine.containers.attach import Session
    from sampan.engine.containers.exec import Exec
    from sampan.engine.containers.health import Health

ExitResult = tuple[int, str]  # exit status, error text


class Live:
    """What the daemon keeps in memory for one container. All of it can be lost with the daemon."""

    __slots__ = (
        "back_off_s",
        "cleanup",
        "execs",
        "exit_waiters",
        "health",
        "keep",
        "lock",
        "pending",
        "removal_waiters",
        "restart",
        "row",
    )

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.exit_waiters: list[asyncio.Future[ExitResult]] = []
        self.removal_waiters: list[asyncio.Future[ExitResult]] = []
        self.pending: list[Session] = []  # attached before the start
        self.execs: dict[str, Exec] = {}
        self.cleanup: asyncio.Task[None] | None = None  # the last task on its way out; a start waits for it
        self.restart: asyncio.TimerHandle | None = None
        self.back_off_s = 0.0
        self.health: Health | None = None
        self.keep = False  # a restart is under way: --rm waits
        self.row: tuple[Container, dict[str, object]] | None = None  # the list row of this very record


class Registry:
    """Records by id, prefix and name."""

    def __init__(self, store: Store, driver: str = "overlay2") -> None:
        """driver: the storage driver in use; containers of another one are hidden until it is chosen again."""
        self.store = store
        self.driver = driver
        self._table = store.table("containers", Container)
        self._names: dict[str, str] = {c.name: c.id for c in self._table.all()}  # a hidden one keeps its name
        self.hidden = frozenset(c.id for c in self._table.hide(lambda c: c.driver != driver))
        self._reserved: set[str] = set()
        self.making: set[str] = set()  # ids whose snapshot and directory may be there before their record
        self._live: dict[str, Live] = {}

    def __len__(self) -> int:
        return len(self._table)

    def all(self) -> list[Container]:
        """Every container, oldest first."""
        return self._table.all()

    def live(self, id: str) -> Live:
        """Return the memory of a container, made on first use."""
        found = self._live.get(id)
        if found is None:
            found = self._live[id] = Live()
        return found

    def find(self, ref: str) -> Container | None:
        """Return the container with this id, name or unique id prefix. Raises: InvalidArgument for an ambiguous one."""
        if (exact := self._table.get(ref)) is not None:
            return exact
        bare = ref.removeprefix("/")
        if (id := self._names.get(bare)) is not None:
            return self._table.get(id)
        if not bare or len(bare) >= 64:
            return None
        matching = [c for c in self._table.all() if c.id.startswith(bare)]
        if len(matching) > 1:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {bare}")
        return matching[0] if matching else None

    def get(self, ref: str) -> Container:
        """Return the container. Raises: NotFound."""
        found = self.find(ref)
        if found is None:
            raise NotFound(f"No such container: {ref}")
        return found

    def named(self, name: str) -> Container | None:
        id = self._names.get(name)
        return None if id is None else self._table.get(id)

    @contextlib.contextmanager
    def reserve(self, name: str) -> Iterator[str]:
        """Hold a name while a container is made or renamed; "" takes a generated one.

        Raises: InvalidArgument, Conflict. A name that is saved stays taken; otherwise it is free again at exit.
        """
        if name:
            bare = names.check(name)
            if (holder := self._names.get(bare)) is not None or bare in self._reserved:
                raise Conflict(
                    f'Conflict. The container name "/{bare}" is already in use by container "{holder or ""}".'
                    " You have to remove (or rename) that container to be able to reuse that name."
                )
        else:
            bare = names.generate(self._names.keys() | self._reserved)
        self._reserved.add(bare)
        try:
            yield bare
        finally:
            self._reserved.discard(bare)

    def new_id(self) -> str:
        """Return a fresh id. Its first twelve digits are never all decimal: they serve as a hostname."""
        while True:
            id = secrets.token_hex(32)
            if not id[:12].isdecimal() and self._table.get(id) is None:
                return id

    async def save(self, container: Container, *ops: Op, durable: bool = False) -> Container:
        """Write the record, and whatever belongs to the same transaction. Returns it."""
        previous = self._table.get(container.id)
        await self.store.apply(self._table.put(container), *ops, durable=durable)
        if previous is not None and previous.name != container.name:
            self._names.pop(previous.name, None)
        self._names[container.name] = container.id
        return container

    async def delete(self, container: Container, *ops: Op) -> None:
        await self.store.apply(self._table.delete(container.id), *ops, durable=False)
        if self._names.get(container.name) == container.id:
            del self._names[container.name]
        self._live.pop(container.id, None)


def next_state(container: Container, event: Event) -> State:
    """Return the state after this event. Raises: states.IllegalTransition."""
    return after(container.status.state, event)
