"""Listening sockets from -H: unix://, fd:// (socket activation), tcp://. Binds and hands over; serves nothing.

A unix socket is created with mode 0660 and the group of --group; a stale one (nobody listens) is replaced, a live one
is refused. umask is 077 while it appears, so there is no moment in which others could connect.

Source: unix(7), sd_listen_fds(3); dockerd 28.5.
"""

from __future__ import annotations

import grp
import logging
import os
import socket
import stat
from dataclasses import dataclass
from urllib.parse import urlsplit

from sampan.daemon.validation import ConfigError, check_host
from sampan.errors import words
from sampan.spec.sockets import SAMPAN_SOCKET

log = logging.getLogger("sampan.daemon")

DEFAULT_HOST = f"unix://{SAMPAN_SOCKET}"
DEFAULT_TCP_PORT = 2375
DEFAULT_TLS_PORT = 2376
_FIRST_FD = 3


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound socket; `path` is set when the daemon made it and must remove it."""

    sock: socket.socket
    host: str
    path: str = ""

    @property
    def is_tcp(self) -> bool:
        return self.sock.family in (socket.AF_INET, socket.AF_INET6)


def listen(host: str, *, group: str, group_required: bool, tls: bool) -> list[Listener]:
    """Bind one -H value. Raises: ConfigError naming it."""
    protocol, address = check_host(host)
    try:
        if protocol == "fd":
            return activated(address)
        if protocol == "tcp":
            return _tcp(host, address, tls=tls)
        return [_unix(host, address or DEFAULT_HOST.removeprefix("unix://"), group, required=group_required)]
    except OSError as e:
        raise ConfigError(f"can't create {protocol} socket {address}: {words(e)}") from e


def activated(name: str) -> list[Listener]:
    """Take the sockets that systemd passes: all, or those of one name or number. Raises: ConfigError."""
    count = int(os.environ.get("LISTEN_FDS", "0")) if os.environ.get("LISTEN_PID") == str(os.getpid()) else 0
    if not count:
        raise ConfigError("no sockets found via socket activation: make sure the service was started by systemd")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = []
    for index in range(count):
        fd = _FIRST_FD + index
        label = names[index] if index < len(names) else ""
        if name not in ("", "*", label, str(fd)):
            continue
        os.set_inheritable(fd, False)
        found.append(Listener(socket.socket(fileno=fd), f"fd://{name}"))
    if not found:
        raise ConfigError(f"failed to find systemd socket {name}")
    return found


def _unix(host: str, path: str, group: str, *, required: bool) -> Listener:
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    gid = _group_id(group, required=required)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind(sock, path)
        os.chown(path, -1, gid)
        os.chmod(path, 0o660)
    except OSError:
        sock.close()
        raise
    return Listener(sock, host, path)


def _bind(sock: socket.socket, path: str) -> None:
    """Bind; a path longer than sun_path goes through a descriptor of its directory."""
    if len(os.fsencode(path)) < 108:
        sock.bind(path)
        return
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def _group_id(group: str, *, required: bool) -> int:
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if required:
            raise ConfigError(f"group {group} not found") from None
        log.debug("group %s not found: the socket belongs to root", group)
        return 0


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"can't create unix socket {path}: the path exists and is no socket")
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if len(os.fsencode(path)) < 108:
            probe.connect(path)
            raise ConfigError(f"can't create unix socket {path}: another process listens on it")
    except OSError:
        pass
    finally:
        probe.close()
    os.unlink(path)


def _tcp(host: str, address: str, *, tls: bool) -> list[Listener]:
    split = urlsplit(f"//{address}")
    name = split.hostname or "127.0.0.1"
    port = split.port if split.port is not None else (DEFAULT_TLS_PORT if tls else DEFAULT_TCP_PORT)
    found = []
    for family, kind, protocol, _, where in socket.getaddrinfo(
        name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
        except OSError:
            sock.close()
            raise
        found.append(Listener(sock, host))
    return found


def close(listeners: list[Listener]) -> None:
    """Remove the socket files that the daemon made."""
    for listener in listeners:
        listener.sock.close()
        if listener.path:
            try:
                os.unlink(listener.path)
            except FileNotFoundError:
                pass
