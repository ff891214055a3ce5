"""Regular expressions that clients send, in Go's syntax (RE2), searched in time linear in the text.

Python's own engine backtracks: a pattern like `(a+)+$` would hold the event loop for ever. So none that comes from
outside reaches it. The library is imported by the first pattern, as most engines never see one.

Source: Go's regexp/syntax; github.com/google/re2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

MAX_BYTES = 1 << 20
"""What one compiled pattern may take in memory."""


class BadPattern(ValueError):
    """The text is no pattern, or one that is too large."""


@lru_cache(maxsize=64)
def searcher(pattern: str) -> Callable[[str], bool]:
    """Return a test: does the pattern match anywhere in a text? Raises: BadPattern."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_BYTES
    try:
        compiled = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as e:
        raise BadPattern(f"error parsing regexp: {e}") from None

    def search(text: str) -> bool:
        return compiled.search(text.encode("utf-8", "replace").decode()) is not None

    return search


def any_of(values: list[str]) -> Callable[[str], bool]:
    """Return Docker's test of a filter: a text is one of the values or matched by one. Bad patterns match nothing."""
    equal = frozenset(values)
    tests: list[Callable[[str], bool]] = []
    for value in values:
        try:
            tests.append(searcher(value))
        except BadPattern:
            continue
    return lambda text: text in equal or any(test(text) for test in tests)
