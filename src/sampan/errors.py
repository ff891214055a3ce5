"""The one error taxonomy: by meaning, not by place.

    SampanError
    ├── InvalidArgument   400   the request itself is wrong
    ├── Unauthorized      401
    ├── Forbidden         403
    ├── NotFound          404   the named object does not exist
    ├── Conflict          409   the object's state does not allow the operation
    ├── Internal          500   our fault, or the kernel's
    │   └── CommandFailed       a command of a build ended with another status than 0
    ├── NotImplemented_   501
    └── Unavailable       503   a part that is needed does not answer

The message names the operation, the object and the reason, in Docker's words where clients know them.
`linux/` does not use these: it raises `OSError`; a service translates once, at its edge, with `raise … from e`.
Nobody branches on message text.
"""

from __future__ import annotations

import errno

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a disk, or a quota, that is full."""


class SampanError(Exception):
    """Base of every error that a client may see; `status` is the HTTP status of the Engine API."""

    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(SampanError):
    status = 400


class Unauthorized(SampanError):
    status = 401


class Forbidden(SampanError):
    status = 403


class NotFound(SampanError):
    status = 404


class Conflict(SampanError):
    status = 409


class Internal(SampanError):
    status = 500


class CommandFailed(Internal):
    """A command of a build ended with `code`, which an answer's errorDetail carries."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class NotImplemented_(SampanError):  # the plain name is a builtin
    status = 501


class Unavailable(SampanError):
    status = 503


BY_STATUS: dict[int, type[SampanError]] = {
    c.status: c
    for c in (InvalidArgument, Unauthorized, Forbidden, NotFound, Conflict, Internal, NotImplemented_, Unavailable)
}


def from_status(status: int, message: str) -> SampanError:
    """Rebuild the error a server answered with: the inverse of `error.status`."""
    return BY_STATUS.get(status, InvalidArgument if 400 <= status < 500 else Internal)(message)


def words(error: OSError) -> str:
    """Say what failed as Go does: the C library's text of the errno, beginning with a small letter; without the
    path.
    """
    text = error.strerror or str(error)
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]  # "RFS specific error" keeps its capitals
