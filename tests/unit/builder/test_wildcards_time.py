"""Wildcards of a Dockerfile: no pattern takes long, and taking the first place changes no answer."""

from __future__ import annotations

import re
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine.builder.files import wildcards


def test_no_pattern_takes_long() -> None:
    began = time.monotonic()
    for stars in (5, 20, 60):
        assert not wildcards.matches("a*" * stars + "b", "a" * 250)
        assert wildcards.matches("a*" * stars + "a", "a" * 250)
    assert time.monotonic() - began < 1


@settings(deadline=None, max_examples=500)
@given(st.text("ab/*?", max_size=8), st.text("ab/", max_size=10))
def test_the_answer_is_that_of_trying_every_place(pattern: str, path: str) -> None:
    naive = "".join({"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char)) for char in pattern)
    assert wildcards.matches(pattern, path) is (re.fullmatch(naive, path) is not None)
