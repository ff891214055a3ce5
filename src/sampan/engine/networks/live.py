"""One sandbox as it lives in the daemon, and how it is kept.

The record is the truth that survives; the rest can be lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from sampan.engine.networks import publishing
from sampan.engine.networks.ports import Grant
from sampan.engine.networks.records import EndpointRecord, PublishedPort, SandboxRecord
from sampan.engine.store import Op, Store, Table
from sampan.errors import Internal, SampanError


@dataclass(slots=True)
class LiveSandbox:
    """A sandbox that exists: its record, its ports, and the namespace's descriptor until the container runs.

    held: the namespace once more, of a sandbox with links that are only inside. A namespace dies some time after its
    last process, and its links with it; of these nobody would hear, so they are taken out before it is let go.
    silent: it is no container's: its coming and going is no event.
    told: that it is connected has been told; it is when the container's process runs, and not before.
    stale: endpoints of an earlier daemon with addresses that their network does not have any more.
    """

    record: SandboxRecord
    grants: list[Grant] = field(default_factory=list)
    namespace: int = -1
    held: int = -1
    silent: bool = False
    told: bool = False
    stale: list[EndpointRecord] = field(default_factory=list)


class SandboxTable:
    """The records of the sandboxes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.records: Table[SandboxRecord] = store.table("sandboxes", SandboxRecord)

    def saving(
        self,
        live: LiveSandbox,
        *,
        name: str = "",
        endpoints: list[EndpointRecord] | None = None,
        changing: EndpointRecord | None = None,
        exposed: Sequence[str] | None = None,
        ports: Sequence[PublishedPort] | None = None,
    ) -> list[Op]:
        """Return the change that keeps a sandbox as it is, but for what is given; `live` follows when it is applied."""
        old = live.record
        record = replace(
            old,
            name=name or old.name,
            endpoints=old.endpoints if endpoints is None else endpoints,
            changing=changing,
            exposed=old.exposed if exposed is None else list(exposed),
            ports=old.ports if ports is None else list(ports),
            bindings=publishing.bindings(live.grants),
        )
        put = self.records.put(record)

        def remember() -> None:
            put.remember()
            live.record = record

        return [dataclasses.replace(put, remember=remember)]

    def save(self, live: LiveSandbox, *, changing: EndpointRecord | None = None) -> None:
        """Keep a sandbox as it is now. Raises: StoreError."""
        self._store.apply_now(*self.saving(live, changing=changing))

    def apply(self, changes: list[Op]) -> None:
        """Write changes. Raises: StoreError."""
        self._store.apply_now(*changes)

    def forget(self, live: LiveSandbox) -> None:
        """Delete the record of a sandbox. Raises: StoreError."""
        self._store.apply_now(self.records.delete(live.record.id))


@contextlib.contextmanager
def failing(what: str, *, also_ours: bool = True) -> Iterator[None]:
    """Put before a failure's message what failed. also_ours: before those that have words for the user already, too."""
    try:
        yield
    except SampanError as error:
        if not also_ours:
            raise
        raise type(error)(f"{what}: {error.message}") from error
    except OSError as error:
        raise Internal(f"{what}: {error}") from error
