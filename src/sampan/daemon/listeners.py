"""What the daemon listens on: which sockets a configuration means, and how plain TCP is kept safe.

Plain TCP gives root to everyone who reaches it, so it must be asked for twice: by -H tcp:// and by an explicit
--tls=false or --tlsverify=false. Container networks are kept away from it by the firewall, browsers by the Host and
Origin check (`sampan.api.origin`).

Source: CVE-2025-9074; dockerd 28.5 "unauthenticated TCP connections".
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sampan.daemon import sockets
from sampan.daemon.config import DaemonConfig
from sampan.daemon.validation import ConfigError, check_host

if TYPE_CHECKING:
    import socket

    from sampan.engine.engine import Engine

log = logging.getLogger("sampan.daemon")


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound listener; `guarded`: its requests must pass the Host and Origin check."""

    listener: sockets.Listener
    guarded: bool

    @property
    def sock(self) -> socket.socket:
        return self.listener.sock

    @property
    def host(self) -> str:
        return self.listener.host

    @property
    def is_tcp(self) -> bool:
        return self.listener.is_tcp


def bind(config: DaemonConfig) -> list[Bound]:
    """Bind every -H; all or nothing. Raises: ConfigError."""
    hosts = config.hosts or (sockets.DEFAULT_HOST,)
    bound: list[Bound] = []
    try:
        for host in hosts:
            if check_host(host)[0] == "tcp" and not config.tlsverify:
                _warn_of_plain_tcp(config, host)
            found = sockets.listen(host, group=config.group, group_required=config.group_given, tls=config.tls)
            bound += [Bound(listener, listener.is_tcp and not config.tls) for listener in found]
    except ConfigError:
        remove(bound)
        raise
    return bound


def _warn_of_plain_tcp(config: DaemonConfig, host: str) -> None:
    if not config.tls_explicit:
        raise ConfigError(
            f"refusing to bind {host} without --tlsverify: it would give root on this machine to everyone who can "
            "reach it. Generate certificates and use --tlsverify, or say --tls=false or --tlsverify=false explicitly"
        )
    log.warning(
        "Binding to IP address %s without --tlsverify is insecure and gives root access on this machine to everyone "
        "who has access to your network. Even on localhost, it can give access to scripts run in a browser",
        host,
    )


async def protect(engine: Engine, bound: list[Bound]) -> None:
    """Drop what container networks send to our TCP addresses."""
    addresses = [b.sock.getsockname()[:2] for b in bound if b.is_tcp]
    if addresses:
        await engine.networks.protect_api(addresses)


def remove(bound: list[Bound]) -> None:
    """Close the sockets and remove the files we made."""
    sockets.close([b.listener for b in bound])
