"""What the error taxonomy says and answers."""

from __future__ import annotations

import errno
import os

import pytest

from sampan.errors import BY_STATUS, Conflict, Internal, InvalidArgument, from_status, words


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOENT, "no such file or directory"),
        (errno.EIO, "input/output error"),
        (errno.EDOTDOT, "RFS specific error"),
        (errno.EXDEV, "invalid cross-device link"),
    ],
)
def test_an_errno_in_words(number: int, text: str) -> None:
    assert words(OSError(number, os.strerror(number), "/some/path")) == text


def test_an_error_without_errno_in_words() -> None:
    assert words(OSError("Broken")) == "broken"
    assert (
        words(OSError(errno.EINVAL, 'failed to write "1": Invalid argument', "f"))
        == 'failed to write "1": Invalid argument'
    )


def test_an_error_is_rebuilt_from_its_status() -> None:
    assert all(type(from_status(status, "x")) is kind for status, kind in BY_STATUS.items())
    assert type(from_status(409, "x")) is Conflict
    assert type(from_status(418, "x")) is InvalidArgument and type(from_status(599, "x")) is Internal
