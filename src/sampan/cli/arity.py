"""How many arguments a template's function wants: Go says so when a template gives another number."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def arity(function: Callable[..., Any]) -> int:
    """Return how many arguments a function takes, -1 when that varies or is not known."""
    code = getattr(function, "__code__", None)
    return -1 if code is None or code.co_flags & 0x04 or function.__defaults__ else code.co_argcount
