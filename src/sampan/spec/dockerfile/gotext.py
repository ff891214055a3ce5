"""White space as Go sees it, and the nearest of several words. Pure. How Go reads values is in `spec/go_values.py`.

Source: Go's unicode.IsSpace; the suggestions of Docker Engine 28.5 ("did you mean …?").
"""

from __future__ import annotations

from collections.abc import Iterable

SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def nearest(word: str, options: Iterable[str]) -> str:
    """Return the option most like `word`, '' when none is near. Case does not count; `word` itself is no suggestion."""
    word = word.lower()
    best, best_distance = "", 3
    for option in options:
        if option.lower() == word:
            return ""
        if abs(len(option) - len(word)) < best_distance:
            distance = _distance(word, option.lower())
            if distance < best_distance:
                best, best_distance = option, distance
    return best


def _distance(a: str, b: str) -> int:
    """Levenshtein's."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
