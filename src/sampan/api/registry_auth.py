"""The X-Registry-Auth header: credentials of one request, as clients send them. What cannot be read counts as none.

Source: Engine API 1.51 "Authentication": base64url of an AuthConfig object.
"""

from __future__ import annotations

import base64
import binascii

from aiohttp import web

from sampan.errors import InvalidArgument
from sampan.registry.auth import ANONYMOUS, Credentials
from sampan.spec import codec
from sampan.spec.engine_api.registry import AuthConfig

HEADER = "X-Registry-Auth"


def registry_auth(request: web.Request) -> Credentials:
    """Return the credentials of a request; anonymous when there are none that can be read, as in the reference."""
    text = request.headers.get(HEADER, "")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_")
        config = codec.decode(AuthConfig, raw)
    except (binascii.Error, InvalidArgument, ValueError):
        return ANONYMOUS
    username, password = config.username, config.password
    if config.auth and not username:
        try:
            username, _, password = base64.b64decode(config.auth).decode().partition(":")
        except (binascii.Error, ValueError):
            return ANONYMOUS
    return Credentials(
        username=username,
        password=password,
        identity_token=config.identitytoken,
        registry_token=config.registrytoken,
    )
