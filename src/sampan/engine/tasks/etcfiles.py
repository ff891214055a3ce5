"""The three files that a container gets from the engine: /etc/hostname, /etc/hosts, /etc/resolv.conf.

What they say is decided by `networks.files` (pure); here they are put into the directory of a container or build step.

Source: docs.docker.com, "Container networking: DNS services".
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection, Sequence

from sampan.engine.config import EngineConfig
from sampan.engine.networks import files
from sampan.engine.networks.service import Sandbox
from sampan.engine.tasks.options import NamespaceMode, TaskOptions
from sampan.errors import Internal
from sampan.linux import resolvconf
from sampan.supervisor.names.sockets import ADDRESS
from sampan.supervisor.names.table import HOST_NAMES

_HOST_GATEWAY = "host-gateway"
NAMES = ("resolv.conf", "hostname", "hosts")


Links = Sequence[tuple[str, str]]
"""Lines of /etc/hosts beside --add-host's: (names, address)."""


def write(directory: str, options: TaskOptions, sandbox: Sandbox, config: EngineConfig, links: Links = ()) -> None:
    """Write all three. Raises: Internal for an address that is none."""
    for server in options.resolver.servers:
        _check_nameserver(server)
    _write(f"{directory}/hostname", f"{options.hostname}\n")
    _write(f"{directory}/hosts", _hosts(options, sandbox, config, links))
    _write(f"{directory}/resolv.conf", _resolv_conf(options, sandbox, config))


def follow(directory: str, options: TaskOptions, before: Sandbox, after: Sandbox, config: EngineConfig) -> None:
    """Change the files of a running container after its networks: its addresses, and its name service.

    What somebody else has written there stays. Raises: Internal.
    """
    hosts = _read(f"{directory}/hosts")
    changed = files.with_addresses(
        hosts, before.addresses, after.addresses, hostname=options.hostname, domainname=options.domainname
    )
    if changed != hosts:
        _write(f"{directory}/hosts", changed)
    if after.names != before.names and _read(f"{directory}/resolv.conf") == _resolv_conf(options, before, config):
        _write(f"{directory}/resolv.conf", _resolv_conf(options, after, config))


def follow_links(directory: str, aliases: Collection[str], links: Links) -> None:
    """Make the lines of a running container's links what they are now. aliases: of those that were and are."""
    hosts = _read(f"{directory}/hosts")
    changed = files.with_links(hosts, aliases, links)
    if changed != hosts:
        _write(f"{directory}/hosts", changed)


def _hosts(options: TaskOptions, sandbox: Sandbox, config: EngineConfig, links: Links) -> str:
    on_host = options.namespaces.network is NamespaceMode.HOST
    extra = [extra_host(text, sandbox, config) for text in options.resolver.extra_hosts]
    if not sandbox.names and not on_host:  # else the name service knows them, or the container is on the host
        extra += [
            extra_host(f"{name}:{_HOST_GATEWAY}", sandbox, config)
            for name in sorted(name.decode() for name in HOST_NAMES)
            if _gateways(sandbox) and name not in dict(extra)
        ]
    if on_host:
        return files.host_hosts_file(_read("/etc/hosts"), extra)
    return files.hosts_file(
        hostname=options.hostname,
        domainname=options.domainname,
        addresses=sandbox.addresses,
        extra_hosts=[*extra, *links],
    )


def _resolv_conf(options: TaskOptions, sandbox: Sandbox, config: EngineConfig) -> str:
    resolver = options.resolver
    source = resolvconf.host_path(_read(resolvconf.HOST_RESOLV_CONF))
    try:
        return files.resolv_conf(
            _read(source),
            path=source,
            dns=resolver.servers or config.dns,
            search=resolver.search or config.dns_search,
            options=resolver.options or config.dns_opts,
            host_network=options.namespaces.network is NamespaceMode.HOST,
            name_service=ADDRESS if sandbox.names else "",
        )
    except ValueError as e:
        raise Internal(str(e)) from e


def _check_nameserver(address: str) -> None:
    try:
        ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        raise Internal(f'bad nameserver address {address}: ParseAddr("{address}"): unable to parse IP') from None


def extra_host(text: str, sandbox: Sandbox, config: EngineConfig) -> tuple[str, str]:
    """Split `name:address`; `host-gateway` is the address at which the host answers."""
    name, _, address = text.partition(":")
    if address == _HOST_GATEWAY:
        gateways = config.host_gateway_ips or _gateways(sandbox)
        if not gateways:
            raise Internal("unable to derive the IP value for host-gateway")
        address = gateways[0]
    return name, address.removeprefix("[").removesuffix("]")


def _gateways(sandbox: Sandbox) -> tuple[str, ...]:
    leading_out = [*sandbox.endpoints.values(), *([sandbox.way_out] if sandbox.way_out is not None else [])]
    return tuple(e.gateway4 for e in leading_out if e.gateway4)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    """Write in place: the file may be bind-mounted, and a crash before the start leaves nothing that is used."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)  # the daemon's umask is 077, the container's users must read it
        os.write(fd, text.encode())
    finally:
        os.close(fd)
