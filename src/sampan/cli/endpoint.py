"""Which engine to talk to: from flags, environment, contexts and what exists, in that order.

    -H / --host                      the flag
    -c / --context, DOCKER_CONTEXT   a stored context
    SAMPAN_HOST, DOCKER_HOST         an address; DOCKER_TLS_VERIFY and DOCKER_CERT_PATH go with it
    currentContext of config.json
    unix:///var/run/sampan.sock      sampand's own, when it exists
    unix:///var/run/docker.sock

Source: docker(1), "Environment variables" and "Host flag"; docker context(1).
"""

from __future__ import annotations

import os

from sampan.cli.config import DEFAULT_CONTEXT, ContextError
from sampan.client.transport import UNRESOLVED, Address, Tls
from sampan.spec.sockets import SAMPAN_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.config import Config
    from sampan.cli.flags import FlagValues

DOCKER_SOCKET = "/var/run/docker.sock"


class EngineEndpoint:
    """Where the engine is, and the context that says so."""

    __slots__ = ("address", "context", "tls")

    def __init__(self, context: str, address: Address, tls: Tls | None) -> None:
        self.context = context
        self.address = address
        self.tls = tls


def context_name(options: FlagValues, config: Config) -> str:
    """Return the name of the context in use; "default" is the one that flags and environment make."""
    if options.many("host"):
        return DEFAULT_CONTEXT
    if named := options.text("context") or "":
        return named
    if os.environ.get("SAMPAN_HOST") or os.environ.get("DOCKER_HOST"):
        return DEFAULT_CONTEXT
    return os.environ.get("DOCKER_CONTEXT") or config.text("currentContext") or DEFAULT_CONTEXT


def resolve(options: FlagValues, config: Config) -> EngineEndpoint:
    """Decide which engine to talk to. Raises: ContextError."""
    hosts = options.many("host")
    if len(hosts) > 1:
        raise ContextError("specify only one -H")
    if hosts and options.text("context"):
        raise ContextError("conflicting options: cannot specify both --host and --context")
    name = context_name(options, config)
    if name != DEFAULT_CONTEXT:
        from sampan.cli.context import store

        try:
            return EngineEndpoint(name, *store.endpoint(config.directory, name))
        except ContextError as e:
            raise ContextError(f"{UNRESOLVED}: {e}") from e
    try:
        tls = _tls(options, config)
        return EngineEndpoint(name, Address(default_host(hosts, tls is not None)), tls)
    except ValueError as e:
        raise ContextError(f"{UNRESOLVED}: {e}") from e


def default_host(hosts: list[str], tls: bool) -> str:
    """Return the address of the default context."""
    named = (hosts[0] if hosts else "") or os.environ.get("SAMPAN_HOST") or os.environ.get("DOCKER_HOST") or ""
    named = named.strip()
    if not named:
        if tls:
            return "tcp://localhost:2376"
        return "unix://" + (SAMPAN_SOCKET if os.path.exists(SAMPAN_SOCKET) else DOCKER_SOCKET)
    if named == "unix://":
        return "unix://" + DOCKER_SOCKET
    if "://" not in named:
        return "unix://" + named if named.startswith("/") else "tcp://" + named
    return named


def described(options: FlagValues, config: Config, name: str) -> dict[str, Any]:
    """Show a context as `context inspect` does, the default one included. Raises: ContextError."""
    from sampan.cli.context import store

    if name == DEFAULT_CONTEXT:
        return store.described_default(default_host(options.many("host"), False))
    return store.described(config.directory, name)


def _tls(options: FlagValues, config: Config) -> Tls | None:
    verify = options.flag("tlsverify") if options.changed("tlsverify") else bool(os.environ.get("DOCKER_TLS_VERIFY"))
    wanted = verify or options.flag("tls") or os.environ.get("DOCKER_TLS", "") != ""
    if not (wanted or options.changed("tlscacert") or options.changed("tlscert") or options.changed("tlskey")):
        return None
    directory = os.environ.get("DOCKER_CERT_PATH") or config.directory

    def file(flag: str, name: str) -> str:
        if given := options.text(flag):
            return given.strip("\"'")
        path = os.path.join(directory, name)
        return path if verify or os.path.exists(path) else ""

    return Tls(
        ca=file("tlscacert", "ca.pem") if verify else "",
        cert=file("tlscert", "cert.pem"),
        key=file("tlskey", "key.pem"),
        verify=verify,
    )
