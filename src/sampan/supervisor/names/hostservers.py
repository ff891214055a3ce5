"""The host's own resolvers: read by the supervisor, known to the name service, which opens no file itself."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable, Iterable

from sampan.linux import resolvconf

FRESH_S = 1.0
_FILE_BYTES = 1 << 16
_MOST = 3  # as in libc and Docker


class HostFile:
    """What the host's resolv.conf names; it is read again when it has changed."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] = (0, 0)
        self._servers: tuple[str, ...] = ()

    def servers(self) -> tuple[str, ...]:
        """Return the addresses; those of before when the file cannot be read."""
        try:
            path = resolvconf.HOST_RESOLV_CONF
            state = os.stat(path)
            if (state.st_mtime_ns, state.st_ino) != self._seen:
                named = resolvconf.parse(_read(resolvconf.host_path(_read(path)))).nameservers
                self._servers = addresses(named)[:_MOST]
                self._seen = state.st_mtime_ns, state.st_ino
        except OSError:
            pass
        return self._servers


class HostServers:
    """What the name service knows of them. ask: has them said again; their answer comes later, by `put`."""

    def __init__(self, servers: tuple[str, ...], ask: Callable[[], None]) -> None:
        self._servers, self._ask = servers, ask
        self._asked = time.monotonic()

    def get(self) -> tuple[str, ...]:
        """Return their addresses, as they were a moment ago."""
        now = time.monotonic()
        if now - self._asked > FRESH_S:
            self._asked = now
            self._ask()
        return self._servers

    def put(self, servers: Iterable[str]) -> None:
        """Take in what they are now."""
        self._servers = addresses(servers)


def addresses(texts: Iterable[str]) -> tuple[str, ...]:
    """Return those that are addresses: a name here would have to be resolved first, by whom?"""
    return tuple(text for text in texts if _is_address(text))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(_FILE_BYTES)
