"""Which images go when the disk budget is exceeded: those that nothing uses, the longest unused first. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An image that nothing uses. `used`: when something last did, as a sortable text (RFC 3339)."""

    image: str
    used: str
    layers: tuple[str, ...]  # chain ids


def choose(
    over_bytes: int, candidates: Iterable[Candidate], users: Mapping[str, int], sizes: Mapping[str, int]
) -> list[str]:
    """Return the images to remove so that `over_bytes` come back, or all of them when that is not enough.

    users: how many images and containers need a layer, by chain id; sizes: its bytes. A layer comes back with its
    last user only, so an image that shares all its layers frees nothing by itself, yet goes when its age has come.
    """
    left = Counter(users)
    chosen: list[str] = []
    for candidate in sorted(candidates, key=lambda c: (c.used, c.image)):
        if over_bytes <= 0:
            break
        chosen.append(candidate.image)
        for layer in candidate.layers:
            left[layer] -= 1
            if left[layer] <= 0:
                over_bytes -= sizes.get(layer, 0)
    return chosen
