"""What can go wrong while a container is made, and how it crosses from init to its parent.

    RuntimeFailure          a step failed; `message` in the reference runtime's words, ready to be shown
    └── InvalidSpec         the config.json itself is wrong: a named field and a reason, before any side effect

On the channel a failure is one JSON record `{"step", "errno", "message"}`.
"""

from __future__ import annotations

import errno as _errno
import json
import os

_MESSAGE_LIMIT = 8192  # a record must fit into one packet, with every character escaped


class RuntimeFailure(Exception):
    """A step of create, start or exec failed. `errno` is 0 where no system call is to blame."""

    def __init__(self, step: str, errno: int, message: str) -> None:
        super().__init__(message)
        self.step = step
        self.errno = errno
        self.message = message

    @classmethod
    def of(cls, step: str, error: BaseException) -> RuntimeFailure:
        """Return the failure that any error in `step` is; one that is a failure already stays as it is."""
        if isinstance(error, RuntimeFailure):
            return error
        if not isinstance(error, OSError):
            return cls(step, 0, f"{step}: {type(error).__name__}: {error}")
        number = error.errno or 0
        where = f" {error.filename}" if error.filename else ""
        if error.filename2:
            where += f" to {error.filename2}"
        return cls(step, number, f"{step}{where}: {strerror(number)}")


class InvalidSpec(RuntimeFailure):
    """The spec was refused. `field` is its JSON path, such as `linux.namespaces[2].type`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__("validate", _errno.EINVAL, f"invalid config.json: {field}: {reason}")
        self.field = field
        self.reason = reason


def strerror(number: int) -> str:
    """Return the text of an errno as Go prints it: the C library's, beginning with a small letter."""
    text = os.strerror(number)
    return text[:1].lower() + text[1:]


def encode(step: str, error: BaseException) -> bytes:
    """Return the JSON record of a failure in `step`."""
    failure = RuntimeFailure.of(step, error)
    record = {"step": failure.step, "errno": failure.errno, "message": failure.message[:_MESSAGE_LIMIT]}
    return json.dumps(record).encode()


def decode(record: bytes) -> RuntimeFailure:
    """Rebuild the failure of `encode`."""
    value = json.loads(record)
    return RuntimeFailure(value["step"], value["errno"], value["message"])
