"""All containers of an engine: records by id, prefix and name.

The one place that reads or writes container records. Who changes a container's state holds `live.lock(id)`, and saves
before it lets go: locks are never in the record.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from sampan.engine.containers import names
from sampan.engine.containers.live import LiveContainers
from sampan.engine.containers.records import Container
from sampan.engine.containers.states import State, Trigger, after
from sampan.engine.store import Op, Store, Watch
from sampan.errors import Conflict, InvalidArgument, NotFound


class ContainerTable:
    """Records by id, prefix and name; `live` is what is kept beside them in memory."""

    def __init__(self, store: Store, driver: str = "overlay2") -> None:
        """driver: the storage driver in use; containers of another one are hidden until it is chosen again."""
        self.store = store
        self.driver = driver
        self._table = store.table("containers", Container)
        self._names: dict[str, str] = {c.name: c.id for c in self._table.all()}  # a hidden one keeps its name
        self._others = frozenset(c.id for c in self._table.hide(lambda c: c.driver != driver))
        self._reserved: set[str] = set()
        self.making: set[str] = set()  # ids whose snapshot and directory may be there before their record
        self.live = LiveContainers()

    def __len__(self) -> int:
        return len(self._table)

    @property
    def unreadable(self) -> frozenset[str]:
        """The ids of records that cannot be read: what is theirs is left alone."""
        return frozenset(self._table.aside)

    @property
    def hidden(self) -> frozenset[str]:
        """The ids of containers that exist and are not shown: another driver's, and unreadable ones."""
        return self._others | self.unreadable

    def all(self) -> list[Container]:
        """Return every container, oldest first."""
        return self._table.all()

    def watch(self) -> Watch[Container]:
        """Return the changes of the records from now on; see `Store.watch`."""
        return self.store.watch(self._table)

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
        """Delete the record, what belongs to the same transaction, and what was kept beside it in memory."""
        await self.store.apply(self._table.delete(container.id), *ops, durable=False)
        if self._names.get(container.name) == container.id:
            del self._names[container.name]
        self.live.forget(container.id)


def next_state(container: Container, trigger: Trigger) -> State:
    """Return the state that follows. Raises: states.IllegalTransition."""
    return after(container.status.state, trigger)
