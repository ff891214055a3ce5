"""From an address to a connected socket: unix, tcp, tcp with TLS, and ssh.

    unix:///run/sampan/sampan.sock    tcp://host:2375    tcp://host:2376 + Tls    ssh://user@host:22[/path]

ssh runs `system dial-stdio` at the far end (ours when it is installed there, else docker's) over a socketpair, so
every caller sees a socket. Plain sockets are `_socket.socket`: the C type, without the 6 ms that importing `socket`
costs. Raises OSError when nothing listens, ValueError when the address itself is malformed.

Source: docker(1) `--host`; ssh(1).
"""

from __future__ import annotations

import _socket
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.http import Socket


class Tls:
    """Files for TLS: `ca` to trust, `cert` and `key` to show; `verify` off accepts any server."""

    def __init__(self, *, ca: str = "", cert: str = "", key: str = "", verify: bool = True) -> None:
        self.ca = ca
        self.cert = cert
        self.key = key
        self.verify = verify


class Address:
    """A parsed `-H` value: scheme, where to connect, and the URL path in front of every request."""

    def __init__(self, url: str) -> None:
        self.url = url
        scheme, separator, rest = url.partition("://")
        if not separator:
            raise ValueError(f"unable to parse docker host `{url}`")
        self.scheme = scheme
        self.base_path = ""
        if scheme in ("unix", "npipe", "fd"):
            self.target = rest
            return
        self.target, slash, path = rest.partition("/")
        if scheme in ("tcp", "http", "https"):
            self.base_path = (slash + path).rstrip("/")
        elif scheme == "ssh":
            self.socket_path = slash + path if path else ""

    def connect(self, tls: Tls | None = None) -> Socket:
        """Open one connection."""
        if self.scheme == "unix":
            return _unix(self.target)
        if self.scheme == "ssh":
            return _ssh(self.target, self.socket_path)
        if self.scheme in ("tcp", "http", "https"):
            plain = _tcp(*split_host_port(self.target, 2376 if tls or self.scheme == "https" else 2375))
            if tls is None and self.scheme == "https":
                tls = Tls()
            return _secured(plain, self.target, tls) if tls else plain
        raise ValueError(f"protocol not available: {self.scheme}")


def split_host_port(target: str, default_port: int) -> tuple[str, int]:
    """Split `host[:port]` with `[v6]:port`, as in URLs."""
    host, port = target, ""
    if target.startswith("["):
        host, _, rest = target[1:].partition("]")
        port = rest.removeprefix(":")
    elif target.count(":") == 1:
        host, _, port = target.partition(":")
    try:
        return host or "127.0.0.1", int(port) if port else default_port
    except ValueError:
        raise ValueError(f"invalid port in {target!r}") from None


def _unix(path: str) -> _socket.socket:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def _tcp(host: str, port: int) -> _socket.socket:
    failure: OSError | None = None
    for family, kind, protocol, _, address in _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM):
        sock = _socket.socket(family, kind, protocol)
        try:
            sock.connect(address)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        except OSError as e:
            sock.close()
            failure = e
            continue
        return sock
    raise failure or OSError(f"no address for {host}")


def _secured(plain: _socket.socket, target: str, tls: Tls) -> Socket:
    import socket
    import ssl

    context = ssl.create_default_context(cafile=tls.ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert or tls.key:
        context.load_cert_chain(tls.cert, tls.key)
    return context.wrap_socket(socket.socket(fileno=plain.detach()), server_hostname=split_host_port(target, 0)[0])


def _ssh(target: str, socket_path: str) -> Socket:
    userhost, port = target, ""
    if ":" in target.rpartition("@")[2]:
        userhost, _, port = target.rpartition(":")
    if userhost.startswith("-"):
        raise ValueError(f"invalid ssh host {userhost!r}")  # it would be read as an option of ssh
    dial = "system dial-stdio"
    if socket_path:
        dial = f"--host unix://{_quoted(socket_path)} {dial}"
    remote = f"if command -v sampan >/dev/null 2>&1; then exec sampan {dial}; else exec docker {dial}; fi"
    argv = ["ssh", "-o", "ConnectTimeout=30", "-T", *(("-p", port) if port else ()), "--", userhost, remote]
    family = _socket.AF_UNIX
    ours, theirs = _socket.socketpair(family, _socket.SOCK_STREAM)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1)]
        os.posix_spawnp("ssh", argv, os.environ, file_actions=actions)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def close_write(sock: Socket) -> None:
    """Tell the peer that no more bytes come; reading goes on. Over TLS this is the close_notify alert."""
    unwrap = getattr(sock, "unwrap", None)
    try:
        if unwrap is None:
            sock.shutdown(_socket.SHUT_WR)
            return
        sock.setblocking(False)
        unwrap()
    except OSError:  # the peer is gone already, or (TLS) has not answered the alert yet
        pass
    finally:
        if unwrap is not None:
            sock.setblocking(True)
