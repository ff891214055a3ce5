"""What happened, told to whoever listens: the engine's event log behind `GET /events`.

A ring of the newest `RING` events, and live subscriptions with a bounded queue each: a subscriber that does
not read loses its own oldest events, never the publisher's time. Nothing is written to disk: Docker's events
do not survive a restart of the daemon either.

Events are the JSON objects of the Engine API (`EventMessage`), built once at publish and shared by all
readers: treat them as read-only.

Source: Engine API 1.51, `SystemEvents`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

RING = 256
QUEUE = 8192

# Types that carry the pre-1.22 fields `status`, `id` (and for containers `from`) beside the new ones.
_LEGACY_FIELDS = frozenset({"container", "image"})
_ACTOR_FILTERS = ("container", "plugin", "volume", "network", "daemon", "service", "node", "secret", "config")

Filters = Mapping[str, Iterable[str]]


class Events:
    """The event log of one engine. Single-threaded: publish and subscribe on the loop's thread."""

    def __init__(self) -> None:
        self._ring: deque[dict[str, Any]] = deque(maxlen=RING)
        self._subscriptions: set[Subscription] = set()
        self._last_ns = 0
        self.published = 0  # since the start

    def publish(
        self, type: str, action: str, actor_id: str, attributes: dict[str, str], *, scope: str = "local"
    ) -> int:
        """Append one event and hand it to every subscription whose filters match; return how many those are."""
        now = max(time.time_ns(), self._last_ns + 1)  # strictly increasing: `since` must never replay one twice
        self._last_ns = now
        event: dict[str, Any] = {}
        if type in _LEGACY_FIELDS:
            event["status"] = action
            if actor_id:  # a prune is about no single object
                event["id"] = actor_id
            if type == "container" and (image := attributes.get("image")):
                event["from"] = image
        event["Type"] = type
        event["Action"] = action
        event["Actor"] = {"ID": actor_id, "Attributes": attributes}
        event["scope"] = scope
        event["time"] = now // 1_000_000_000
        event["timeNano"] = now
        self._ring.append(event)
        self.published += 1
        return sum(subscription._offer(event) for subscription in self._subscriptions)

    def subscribe(
        self, *, since_ns: int | None = None, until_ns: int | None = None, filters: Filters | None = None
    ) -> Subscription:
        """Listen from now on; the subscription counts from this call, not from its first `anext`.

        since_ns: replay what the ring holds from this time on first. until_ns: end at this time.
        The caller closes it (`aclose`, or `async with`).
        """
        return Subscription(self, since_ns, until_ns, {k: tuple(v) for k, v in (filters or {}).items()})

    def listeners(self) -> int:
        """Return how many listen right now."""
        return len(self._subscriptions)

    def _past(self, since_ns: int | None, until_ns: int | None) -> list[dict[str, Any]]:
        if since_ns is None and until_ns is None:
            return []
        return [
            e
            for e in self._ring
            if (since_ns is None or e["timeNano"] >= since_ns) and (until_ns is None or e["timeNano"] <= until_ns)
        ]


class Subscription(AsyncIterator[dict[str, Any]]):
    """One listener: an async iterator of event objects that ends at `until_ns`, or never."""

    def __init__(
        self, events: Events, since_ns: int | None, until_ns: int | None, filters: dict[str, tuple[str, ...]]
    ) -> None:
        self._events = events
        self._until_ns = until_ns
        self._filters = filters
        self._queue: deque[dict[str, Any]] = deque(
            (e for e in events._past(since_ns, until_ns) if matches(e, filters)), maxlen=QUEUE
        )
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        if until_ns is None or until_ns > time.time_ns():
            events._subscriptions.add(self)

    def _offer(self, event: dict[str, Any]) -> bool:
        if not matches(event, self._filters):
            return False
        self._queue.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return True

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            left_s = None if self._until_ns is None else (self._until_ns - time.time_ns()) / 1e9
            if left_s is not None and left_s <= 0:
                await self.aclose()
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(left_s):
                    await self._waiter
            except TimeoutError:
                await self.aclose()
                raise StopAsyncIteration from None
            finally:
                self._waiter = None
        return self._queue.popleft()

    async def aclose(self) -> None:
        """Stop listening; a pending `anext` ends. Closing twice is fine."""
        self._closed = True
        self._events._subscriptions.discard(self)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


def matches(event: dict[str, Any], filters: Mapping[str, tuple[str, ...]]) -> bool:
    """Tell whether an event passes every filter; within one filter any value will do (labels: all must)."""
    if not filters:
        return True
    kind, action = event["Type"], event["Action"]
    attributes: dict[str, str] = event["Actor"]["Attributes"]
    for key, values in filters.items():
        if not values:
            continue
        if key == "event":
            # An action may carry an argument after a colon (`exec_create: sh`, `health_status: healthy`).
            ok = action in values or action.partition(":")[0] in values
        elif key == "type":
            ok = kind in values
        elif key == "scope":
            ok = event["scope"] in values
        elif key == "label":
            ok = all(_has_label(attributes, v) for v in values)
        elif key == "image":
            ok = _names_image(event, values)
        elif key in _ACTOR_FILTERS:
            ok = kind == key and _names_actor(event, values)
        else:
            ok = True
        if not ok:
            return False
    return True


def _has_label(attributes: dict[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in attributes and (not equals or attributes[name] == value)


def _names_actor(event: dict[str, Any], values: tuple[str, ...]) -> bool:
    actor: str = event["Actor"]["ID"]
    name = event["Actor"]["Attributes"].get("name", "")
    return any(v in (actor, name) or (v and (actor.startswith(v) or name.startswith(v))) for v in values)


def _names_image(event: dict[str, Any], values: tuple[str, ...]) -> bool:
    attributes = event["Actor"]["Attributes"]
    named = (
        {attributes.get("image", "")}
        if event["Type"] != "image"
        else {event["Actor"]["ID"], attributes.get("name", "")}
    )
    named |= {n.rpartition(":")[0] for n in named if ":" in n.rpartition("/")[2]}
    return any(v in named for v in values if v)
