"""Truth values in attributes and build arguments."""

from __future__ import annotations

import pytest

from sampan.engine.builder.request import is_true


@pytest.mark.parametrize(
    ("text", "found", "otherwise"),
    [
        ("1", True, True),
        ("true", True, True),
        ("TRUE", True, True),
        ("t", True, True),
        ("0", False, False),
        ("False", False, False),
        ("", False, True),
        (None, False, True),
        ("yes", False, True),
    ],
)
def test_truth_is_gos_and_what_cannot_be_read_is_the_default(text: str | None, found: bool, otherwise: bool) -> None:
    assert (is_true(text), is_true(text, otherwise=True)) == (found, otherwise)
