"""What is kept about a volume.

Source: Engine API 1.51, definition Volume.
"""

from __future__ import annotations

from sampan.engine.store import Record

ANONYMOUS_LABEL = "com.docker.volume.anonymous"


class Volume(Record):
    """One volume; `id` is its name. `options`: of its driver. `mountpoint` "": it has one only while it is mounted."""

    driver: str = "local"
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    created_at: str = ""
    mountpoint: str = ""
    filling: bool = False  # the image's files are being copied into it: so says a record whose daemon was killed at it
    removing: bool = False  # a removal has begun: the next start finishes it

    @property
    def name(self) -> str:
        return self.id

    @property
    def anonymous(self) -> bool:
        return ANONYMOUS_LABEL in (self.labels or {})
