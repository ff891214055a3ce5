"""What the store keeps about the build cache: values only.

References in the store: `build:<id>` holds `layer:<chain id>`, so that what a step made outlives the images made of it.
"""

from __future__ import annotations

from sampan.engine.store import Record

REGULAR, LOCAL, GIT, CACHE_MOUNT = "regular", "source.local", "source.git.checkout", "exec.cachemount"


class CacheRecord(Record, kw_only=True):
    """One step's result, or a cache mount. Times are ns since the epoch.

    key: what the step was made of (keys.py); for a cache mount what it is called. chain_id: the state after the step;
    with `empty` the step changed nothing and it is the state before. weak: the record does not keep its layers, the
    images of the classic builder do: as with Docker, removing those frees the disk, and what stays of the record is
    worth nothing.
    """

    key: str
    kind: str = REGULAR
    chain_id: str = ""
    empty: bool = False
    time_ns: int = 0
    description: str = ""
    parents: tuple[str, ...] = ()
    size_bytes: int = 0
    created_ns: int = 0
    used_ns: int = 0
    uses: int = 0
    weak: bool = False
