"""`RUN --mount=type=…`: the option's text as a value. Pure.

Source: Dockerfile reference, RUN --mount.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class _Expander(Protocol):
    def word(self, text: str) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount. Until `expanded`, options other than `from` may hold variables and are not checked."""

    text: str  # the option as written
    type: str = "bind"  # bind, cache, tmpfs, secret, ssh
    source: str = ""  # a path in `from_`; a secret's id when it has no `id`
    target: str = ""
    from_: str = ""  # a stage, an image or a named context; '' is the build context (bind) or nothing (cache)
    readonly: bool = True
    id: str = ""
    sharing: str = ""  # cache: shared (also ''), private, locked
    required: bool = False
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size_bytes: int = 0
    env: str | None = None  # secret: the variable to set

    def expanded(self, expander: _Expander) -> Mount:
        """The mount with variables replaced and everything checked. Raises: DockerfileError."""
        raise NotImplementedError
