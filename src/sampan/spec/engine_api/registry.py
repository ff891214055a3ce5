"""Credentials for a registry, as clients send them.

Source: Engine API 1.51, definition AuthConfig.
"""

from __future__ import annotations

from typing import ClassVar

from sampan.spec.engine_api.wire import Wire


class AuthConfig(Wire, rename="lower"):
    """Body of POST /auth and, base64url-encoded, the X-Registry-Auth header."""

    GO: ClassVar[str] = "registry.AuthConfig"
    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""
