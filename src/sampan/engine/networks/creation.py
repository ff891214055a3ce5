"""What a request to create a network asks for: read and checked, as far as no other network matters. Pure.

Source: Engine API 1.51 NetworkCreate; messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv6Network, ip_network

from msgspec.structs import replace

from sampan.engine.networks import ipam
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.ipam import DEFAULT_IPAM, NULL_IPAM, Pool, Subnet
from sampan.engine.networks.records import NetworkRecord, SubnetRecord, new_id
from sampan.errors import Conflict, Forbidden, Internal, InvalidArgument
from sampan.spec import go_values, times
from sampan.spec.engine_api.network import IPAM, IPAMConfig, NetworkCreateRequest

DEFAULT_DRIVER = "bridge"


def asked_subnets(request: NetworkCreateRequest, driver: NetworkDriver) -> list[tuple[int, IPAMConfig | None]]:
    """Return what is asked for of each subnet that a network shall have: (IP version, how it shall be).

    Raises: Forbidden in Docker's words.
    """
    configs = [c for c in (request.ipam and request.ipam.config) or [] if c.subnet]
    found: list[tuple[int, IPAMConfig | None]] = []
    for version in (4, 6):
        if enabled(request, version):
            mine = [c for c in configs if (":" in c.subnet) == (version == 6)]
            check_number(len(mine), request.driver or DEFAULT_DRIVER, driver)
            found += [(version, config) for config in mine] or [(version, None)]
    return found


def check_number(subnets: int, name: str, driver: NetworkDriver) -> None:
    """Check how many subnets of one IP version a network shall have. Raises: Forbidden in Docker's words."""
    if subnets > 1 and not driver.capabilities.several:
        raise Forbidden(f"{name} driver doesn't support multiple subnets")


def null_subnets(record: NetworkRecord, configs: Sequence[IPAMConfig]) -> list[SubnetRecord]:
    """Return what stands for no addresses. Raises: InvalidArgument in Docker's words."""
    if any(c.subnet for c in configs):
        raise InvalidArgument("null ipam driver does not handle specific address pool requests")
    if record.enable_ipv6:
        raise InvalidArgument("null ipam driver does not handle IPv6 address pool pool requests")
    return [SubnetRecord(subnet="0.0.0.0/0", address_space=NULL_IPAM)] if record.enable_ipv4 else []


def problems(config: IPAMConfig) -> Iterator[str]:
    """Return what Docker says of one IPAM configuration, a line each."""
    try:
        given = ipam.parse_prefix(config.subnet)
    except ValueError:
        yield f"invalid subnet {config.subnet}: invalid CIDR block notation"
        return
    subnet: Subnet = given.network
    if given.ip != subnet.network_address:  # however the same address is spelt
        yield f"invalid subnet {config.subnet}: it should be {subnet}"
    if config.ip_range:
        try:
            inside = ipam.parse_prefix(config.ip_range)
        except ValueError:
            yield f"invalid ip-range {config.ip_range}: invalid CIDR block notation"
        else:
            if inside.version != subnet.version:
                yield f"invalid ip-range {config.ip_range}: parent subnet is an IPv{subnet.version} block"
            elif inside.ip != inside.network.network_address:
                yield f"invalid ip-range {config.ip_range}: it should be {inside.network}"
            elif inside.network.prefixlen < subnet.prefixlen:
                yield f"invalid ip-range {config.ip_range}: CIDR block is bigger than its parent subnet {subnet}"
            elif not ipam.within(inside.network, subnet):
                yield f"invalid ip-range {config.ip_range}: parent subnet {subnet} doesn't contain ip-range"
    named = [(f"gateway {config.gateway}", config.gateway)] if config.gateway else []
    named += [(f"auxiliary address {name}", a) for name, a in (config.auxiliary_addresses or {}).items()]
    for what, text in named:
        try:
            address = ipam.parse_address(text)
        except ValueError:
            yield f"invalid {what}: invalid address"
            continue
        if address.version != subnet.version:
            yield f"invalid {what}: parent subnet is an IPv{subnet.version} block"
        elif address not in subnet:
            yield f"invalid {what}: parent subnet {subnet} doesn't contain this address"


_LINK_LOCAL = ip_network("fe80::/64")


def check_kind(config: IPAMConfig) -> None:
    """Refuse subnets that no network can have, in Docker's words. Raises: InvalidArgument."""
    subnet = ip_network(config.subnet)
    if not isinstance(subnet, IPv6Network):
        return
    shown = f"'{config.gateway or ipam.first_host(subnet)}/{subnet.prefixlen}'"
    if subnet.network_address.ipv4_mapped is not None:
        raise InvalidArgument(f"{shown} is not a valid IPv6 subnet")
    if subnet.prefixlen == 0:
        raise InvalidArgument("ipv6 pool is empty")
    if subnet.is_multicast:
        raise InvalidArgument(f"multicast subnet {shown} is not allowed")
    if subnet != _LINK_LOCAL and subnet.overlaps(_LINK_LOCAL):
        raise InvalidArgument(f"{shown} clashes with the Link-Local prefix '{_LINK_LOCAL}'")


def check_configuration(request: NetworkCreateRequest) -> None:
    """Check that a network does not carry and take a configuration at a time. Raises: Forbidden in Docker's words."""
    takes = bool(request.config_from and request.config_from.network)
    if request.config_only and (request.ingress or request.internal or request.attachable or request.scope):
        fields = "Network operator fields like [ ingress | internal | attachable | scope ] are not supported."
        raise Forbidden(f"configuration network can only contain network specific fields. {fields}")
    if request.config_only and takes:
        raise Forbidden("a configuration network cannot depend on another configuration network")
    asked = request.ipam or IPAM()
    own = asked.driver not in ("", DEFAULT_IPAM) or asked.options or asked.config or request.labels
    if takes and (own or enabled(request, 6) or not enabled(request, 4)):
        raise Forbidden(
            "user specified configurations are not supported if the network depends on a configuration network"
        )
    if takes and request.options:
        raise Forbidden("network driver options are not supported if the network depends on a configuration network")


def configuration(request: NetworkCreateRequest, defaults: Mapping[str, str]) -> NetworkRecord:
    """Return the network that only carries what a request says; as in Docker its driver is not kept."""
    asked = request.ipam or IPAM()
    return NetworkRecord(
        id=new_id(),
        name=request.name,
        driver="null",
        created=times.now(),
        enable_ipv4=enabled(request, 4),
        enable_ipv6=enabled(request, 6),
        config_only=True,
        ipam_driver=asked.driver or DEFAULT_IPAM,
        ipam_options=request.ipam.options if request.ipam else None,
        options={**defaults, **(request.options or {})},
        labels=dict(request.labels or {}),
        subnets=[
            SubnetRecord(
                subnet=c.subnet, gateway=c.gateway, ip_range=c.ip_range, auxiliary=dict(c.auxiliary_addresses or {})
            )
            for c in asked.config or []
        ],
    )


def configured(request: NetworkCreateRequest, source: NetworkRecord) -> NetworkCreateRequest:
    """Return a request with the configuration of another network."""
    configs = [
        IPAMConfig(
            subnet=s.subnet, gateway=s.gateway, ip_range=s.ip_range, auxiliary_addresses=dict(s.auxiliary) or None
        )
        for s in source.subnets
    ]
    return replace(
        request,
        enable_ipv4=source.enable_ipv4,
        enable_ipv6=source.enable_ipv6,
        ipam=IPAM(driver=source.ipam_driver, options=source.ipam_options, config=configs),
        options=dict(source.options),
        labels=dict(source.labels),
    )


def asked_subnet(config: IPAMConfig, subnet: Subnet, *, needs_gateway: bool) -> SubnetRecord:
    """Return the subnet that was asked for. Raises: Internal, in Docker's words, for an address that cannot be had."""
    own_range = ip_network(config.ip_range, strict=False) if config.ip_range else None
    auxiliary = dict(config.auxiliary_addresses or {})
    pool = Pool(subnet, ip_range=own_range)
    named = []
    chosen = ""
    if config.gateway:
        named = [(f"gateway ({config.gateway})", ipam.parse_address(config.gateway))]
    elif needs_gateway:
        try:
            chosen = str(pool.allocate())
        except Conflict as error:
            raise Internal("failed to allocate gateway (): no available addresses on this pool") from error
    # the default gateway may be the network's own
    given = [(f"secondary ip address ({n}:{a})", a) for n, a in auxiliary.items() if not _is_gateway(n)]
    named += [(what, ipam.parse_address(text)) for what, text in given]
    for what, address in named:
        try:
            pool.take(address)
        except Forbidden as error:
            raise Internal(f"failed to allocate {what}: {error.message}") from error
    return SubnetRecord(
        subnet=config.subnet,
        asked=True,
        gateway=config.gateway or chosen,
        ip_range=config.ip_range,
        auxiliary=auxiliary,
        gateway_chosen=not config.gateway,
    )


def _is_gateway(name: str) -> bool:
    return name in ("DefaultGatewayIPv4", "DefaultGatewayIPv6")


ENABLE = {4: "com.docker.network.enable_ipv4", 6: "com.docker.network.enable_ipv6"}
"""Options that say, as EnableIPv4 and EnableIPv6 do, which IP versions a network has."""


def enabled(request: NetworkCreateRequest, version: int) -> bool:
    """Return whether a network has an IP version: as its field says, else its option, else IPv4 alone.

    Raises: InvalidArgument for an option that is no boolean.
    """
    given = request.enable_ipv4 if version == 4 else request.enable_ipv6
    text = (request.options or {}).get(ENABLE[version])
    option = None
    if text is not None:
        try:
            option = go_values.boolean(text)
        except ValueError as error:
            raise InvalidArgument(f'driver-opt "{ENABLE[version]}" is not a valid bool') from error
    if given is not None:
        return given
    return option if option is not None else version == 4
