"""The first error inside an exception group."""

from __future__ import annotations

from sampan.engine.background import first_failure


def test_the_first_leaf_is_found_however_deep_and_an_error_is_itself() -> None:
    first, second = ValueError("first"), KeyError("second")
    assert first_failure(ExceptionGroup("", [ExceptionGroup("", [first]), second])) is first
    assert first_failure(BaseExceptionGroup("", [KeyboardInterrupt(), second])).__class__ is KeyboardInterrupt
    assert first_failure(second) is second
