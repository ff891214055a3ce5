"""Events of containers: what every one of them says, and what is particular to the action."""

from __future__ import annotations

from sampan.engine.containers.records import Container
from sampan.engine.events import Events


def publish(events: Events, c: Container, action: str, **more: str) -> int:
    """Publish an event about a container: its labels, image and name, and what is particular to the action.

    Returns how many listeners it went to.
    """
    attributes = {**(c.config.labels or {}), **more, "image": c.config.image, "name": c.name}
    return events.publish("container", action, c.id, dict(sorted(attributes.items())))
