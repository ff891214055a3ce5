"""From an address to a connected socket: unix, tcp, tcp with TLS, and ssh.

    unix:///var/run/sampan.sock    tcp://host:2375    tcp://host:2376 + Tls    ssh://user@host:22[/path]

ssh runs `system dial-stdio` at the far end (ours when it is installed there, else docker's) over a socketpair, so
every caller sees a socket. Plain sockets are `_socket.socket`: the C type, without the 6 ms that importing `socket`
costs. Raises OSError when nothing listens, ValueError when the address or a file for TLS is at fault, and names it.

Source: docker(1) `--host`; ssh(1).
"""

from __future__ import annotations

import _socket
import os

from sampan.errors import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from ssl import SSLContext, SSLError

    from sampan.client.http import Socket


UNRESOLVED = "Failed to initialize: unable to resolve docker endpoint"
"""How the message begins when the address, or what goes with it, is at fault and not the engine."""


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
            self._check_port()
        elif scheme == "ssh":
            self.socket_path = slash + path if path else ""
        else:
            raise ValueError(f"invalid bind address format: {url}")

    def _check_port(self) -> None:
        host, colon, port = self.target.rpartition(":")
        if colon and not host.endswith("]") and ":" in host and not self.target.startswith("["):
            raise ValueError(f'parse "{self.url}": invalid port ":{port}" after host')
        if colon and "]" not in port and port and not (port.isascii() and port.isdecimal()):
            raise ValueError(f'parse "{self.url}": invalid port ":{port}" after host')

    def connect(self, tls: Tls | None = None) -> Socket:
        """Open one connection."""
        if self.scheme == "unix":
            return _unix(self.target)
        if self.scheme == "ssh":
            return _ssh(self.target, self.socket_path)
        if self.scheme in ("tcp", "http", "https"):
            if tls is None and self.scheme == "https":
                tls = Tls()
            if tls is None:
                return _tcp(*split_host_port(self.target, 2375))
            context = _tls_context(tls)  # its files first: a mistake in them is not the network's
            return _secured(_tcp(*split_host_port(self.target, 2376)), self.target, tls, context)
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


def _tls_context(tls: Tls) -> SSLContext:
    """Read the files. Raises: ValueError naming the one at fault."""
    import ssl

    for path in filter(None, (tls.ca, tls.cert, tls.key)):
        try:
            with open(path, "rb"):
                pass
        except OSError as e:
            raise ValueError(f"open {path}: {words(e)}") from e
    try:
        context = ssl.create_default_context(cafile=tls.ca or None)
    except ssl.SSLError as e:
        raise ValueError(f"could not load the CA certificates of {tls.ca}: {_reason(e)}") from e
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert or tls.key:
        if not (tls.cert and tls.key):
            raise ValueError(f"{tls.cert or tls.key} is of no use without its {'key' if tls.cert else 'certificate'}")
        try:
            context.load_cert_chain(tls.cert, tls.key)
        except ssl.SSLError as e:
            raise ValueError(f"could not load the certificate {tls.cert} with the key {tls.key}: {_reason(e)}") from e
    return context


def _secured(plain: _socket.socket, target: str, tls: Tls, context: SSLContext) -> Socket:
    import socket
    import ssl

    connection = socket.socket(fileno=plain.detach())
    try:
        return context.wrap_socket(connection, server_hostname=split_host_port(target, 0)[0])
    except ssl.SSLCertVerificationError as e:
        connection.close()
        trusted = tls.ca or "the system's certificate authorities"
        raise OSError(f"tls: failed to verify certificate against {trusted}: {e.verify_message}") from e
    except ssl.SSLError as e:
        connection.close()
        if e.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            raise OSError("http: server gave HTTP response to HTTPS client") from e
        raise OSError(f"tls: {_reason(e)}") from e


def _reason(error: SSLError) -> str:
    if error.reason:
        return error.reason.replace("_", " ").lower()
    return "it is not PEM" if "PEM" in str(error) else str(error)


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
    left, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    ours = CommandSocket(left.family, left.type, left.proto, left.detach())
    ours.argv = argv
    try:
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1)]
        ours.pid = os.posix_spawnp("ssh", argv, os.environ, file_actions=actions)
    except OSError as e:
        ours.close()
        raise OSError(f'exec: "ssh": {words(e)}') from e
    finally:
        theirs.close()
    return ours


class CommandSocket(_socket.socket):
    """A socket whose other end is the standard input and output of a command that this process started."""

    pid = 0
    argv: Sequence[str] = ()


END_WAIT_S = 2.0


def ended(sock: Socket) -> str:
    """Say how the command behind a connection that has closed has ended; "" when there is none, or it goes on."""
    if not isinstance(sock, CommandSocket) or not sock.pid:
        return ""
    import time

    deadline = time.monotonic() + END_WAIT_S
    while not (found := os.waitpid(sock.pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            return ""
        time.sleep(0.01)
    sock.pid = 0
    code = os.waitstatus_to_exitcode(found[1])
    how = f"exit status {code}" if code >= 0 else f"signal {-code}"
    return (
        f"command [{' '.join(sock.argv)}] has exited with {how}, make sure the URL is valid, and sampan or docker is "
        "installed on the remote host"
    )


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
