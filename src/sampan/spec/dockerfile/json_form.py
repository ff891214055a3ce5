"""The exec form: `["a", "b"]`. Pure.

What is no JSON at all is taken for the shell form; what is a JSON array of other things than strings is an error.
"""

from __future__ import annotations

import msgspec

from sampan.spec import go_syntax
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.gotext import SPACE

_STRINGS = msgspec.json.Decoder(list[str])


def words(rest: str) -> tuple[str, ...] | None:
    """Return the array's strings; None when `rest` is not a JSON array. Raises: DockerfileError."""
    rest = rest.lstrip(SPACE)
    if not rest.startswith("["):
        return None
    raw = rest.encode("utf-8", "replace")
    try:
        return tuple(_STRINGS.decode(raw))
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        value = go_syntax.parse(raw, float)
    except (ValueError, OverflowError):
        return None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only")
    return tuple(value)
