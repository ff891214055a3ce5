"""Answers that grow: JSON lines of progress and events, and raw bytes (logs, archives).

The first item is fetched before any header is sent, so that an error before it is a proper HTTP error. An error after
it becomes a last JSON line (progress) or cuts the connection (raw bytes, where nothing else can be said).

Source: moby 28.5 pkg/streamformatter (JSON lines end in CR LF), pkg/ioutils.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from sampan.api import errors
from sampan.errors import CommandFailed, SampanError
from sampan.spec import codec

log = logging.getLogger("sampan.api")

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"


async def progress(request: web.Request, messages: AsyncIterator[Mapping[str, Any]]) -> web.StreamResponse:
    """Send JSON messages, each on a line ended by CR LF; an error after the first becomes `{"errorDetail", "error"}`.

    Raises: what `messages` raises before its first item.
    """

    async def lines() -> AsyncIterator[bytes]:
        started = False
        async with aclosing(messages) as items:  # type: ignore[type-var]
            try:
                async for message in items:
                    yield codec.encode(message)[:-1] + b"\r\n"
                    started = True
            except Exception as e:
                if not started:
                    raise
                if not isinstance(e, (SampanError, OSError)):
                    log.error("request failed: %s", e, exc_info=True)  # the client hears of it too
                words = errors.message_of(e)
                detail: dict[str, Any] = {"code": e.code} if isinstance(e, CommandFailed) else {}
                detail["message"] = words
                yield codec.encode({"errorDetail": detail, "error": words})[:-1] + b"\r\n"

    return await raw(request, lines(), content_type="application/json")


async def raw(
    request: web.Request,
    chunks: AsyncIterator[bytes],
    *,
    content_type: str,
    headers: Mapping[str, str] | None = None,
    eager: bool = False,
) -> web.StreamResponse:
    """Send bytes as they come, with backpressure. `eager` sends the headers before the first chunk is there.

    Raises: what `chunks` raises before its first item (unless `eager`).
    """
    response = web.StreamResponse(headers={"Content-Type": content_type, **(headers or {})})
    async with aclosing(chunks) as items:  # type: ignore[type-var]
        if eager:
            await response.prepare(request)
            first: bytes | None = b""
        else:
            first = await anext(items, None)
            await response.prepare(request)
        try:
            if first:
                await response.write(first)
            if first is not None:
                async for chunk in items:
                    if chunk:
                        await response.write(chunk)
        except ConnectionError:
            return response  # the client has hung up
        except Exception as e:
            log.error("stream of %s broke: %s", request.path, e)
            if request.transport is not None:
                request.transport.abort()
            return response
    await response.write_eof()
    return response


async def upload(request: web.Request) -> AsyncIterator[bytes]:
    """Yield the request's body as it comes; nothing is held back."""
    async for chunk in request.content.iter_any():
        yield chunk


def plain_error(status: int, message: str) -> web.Response:
    """Answer as a taken-over connection does: plain text under a stream's content type, then the end."""
    response = web.Response(status=status, body=f"{message}\r\n".encode(), headers={"Content-Type": RAW_STREAM})
    response.force_close()
    return response
