"""Errors on the wire: the one place where the kind of an error becomes an HTTP answer.

Source: moby 28.5 httpstatus.FromError; body `{"message": …}`.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from sampan.api.versions import TooOld
from sampan.errors import InvalidArgument, SampanError, words
from sampan.spec import codec

log = logging.getLogger("sampan.api")


class BadEscape(InvalidArgument):
    """A percent sign in the URL that two hex digits do not follow."""

    def __init__(self, escape: str) -> None:
        super().__init__(f'invalid URL escape "{escape}"')


def status_of(error: BaseException) -> int:
    """Map an exception to its HTTP status; what is not ours is 500."""
    if isinstance(error, SampanError):
        return error.status
    if isinstance(error, web.HTTPException):
        return error.status
    if isinstance(error, asyncio.TimeoutError):
        return 504
    return 500


def message_of(error: BaseException) -> str:
    """Say what a client reads. An OSError shows errno's text and the path it is about, never a Python repr."""
    if isinstance(error, SampanError):
        return error.message
    if isinstance(error, web.HTTPException):
        return error.text or error.reason
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {words(error)}" if error.filename else words(error)
    return str(error) or type(error).__name__


def response(error: BaseException) -> web.Response:
    """Build the answer for an error; a surprise is logged with its traceback, here and nowhere else."""
    status = status_of(error)
    if not isinstance(error, (SampanError, web.HTTPException)):
        log.error("request failed: %s", message_of(error), exc_info=error)
    if isinstance(error, TooOld):
        return web.Response(status=status, text=error.message + "\n", headers={"X-Content-Type-Options": "nosniff"})
    return web.Response(
        status=status,
        body=codec.encode({"message": message_of(error)}, html=False),
        headers={"Content-Type": "application/json"},
    )


def not_found() -> web.Response:
    """Answer a path or method that no route has."""
    return web.Response(
        status=404, body=b'{"message":"page not found"}\n', headers={"Content-Type": "application/json"}
    )
