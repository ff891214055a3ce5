"""The options of bridge networks: their names, what is allowed, and what they say. Pure.

Source: docs.docker.com/engine/network/drivers/bridge (options); messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from sampan.engine.networks.drivers.driver import MTU
from sampan.engine.networks.firewall import Mode, NetworkRules, PortMapper
from sampan.engine.networks.records import NetworkRecord
from sampan.errors import Internal, InvalidArgument
from sampan.spec import go_values

PREFIX = "com.docker.network.bridge."
NAME = PREFIX + "name"
DEFAULT_BRIDGE = PREFIX + "default_bridge"
ICC = PREFIX + "enable_icc"
MASQUERADE = PREFIX + "enable_ip_masquerade"
HOST_BINDING = PREFIX + "host_binding_ipv4"
INHIBIT_IPV4 = PREFIX + "inhibit_ipv4"
GATEWAY_MODE4, GATEWAY_MODE6 = PREFIX + "gateway_mode_ipv4", PREFIX + "gateway_mode_ipv6"
TRUSTED = PREFIX + "trusted_host_interfaces"
PORT_MAPPER = "sampan.port_mapper"  # ours
HOST_IPV4, HOST_IPV6 = "com.docker.network.host_ipv4", "com.docker.network.host_ipv6"

MAX_NAME = 15
DEFAULT_MTU = 1500


def flag(options: dict[str, str], key: str, default: bool = True) -> bool:
    """Read a boolean option as Go's ParseBool. Raises: InvalidArgument."""
    text = options.get(key)
    if text is None:
        return default
    try:
        return go_values.boolean(text)
    except ValueError as error:
        raise InvalidArgument(f"failed to parse {key} value: {text} ({error})") from error


def _mtu(text: str) -> int:
    try:
        return go_values.integer(text, base=10)
    except ValueError as error:
        reason = str(error).replace("ParseInt", "Atoi")
        raise InvalidArgument(f"failed to parse {MTU} value: {text} ({reason})") from error


def _address(options: dict[str, str], key: str, kind: type[IPv4Address] | type[IPv6Address]) -> None:
    if key not in options:
        return
    try:
        kind(options[key])
    except ValueError as error:
        raise InvalidArgument(f"failed to parse {key} value: {options[key]} (nil ip)") from error


def validate(options: dict[str, str], *, internal: bool) -> None:
    """Check every option that the bridge driver reads. Raises: InvalidArgument naming it."""
    for key in (ICC, MASQUERADE, INHIBIT_IPV4, DEFAULT_BRIDGE):
        flag(options, key)
    if _mtu(options.get(MTU, "0")) < 0:
        raise InvalidArgument(f"invalid MTU number: {options[MTU]}")
    name = options.get(NAME, "")
    if len(name) > MAX_NAME:
        raise Internal("numerical result out of range")
    if "/" in name or any(c.isspace() for c in name):
        raise InvalidArgument(f"invalid bridge name: {name}")
    for key in (GATEWAY_MODE4, GATEWAY_MODE6):
        mode = options.get(key, Mode.NAT)
        if mode not in tuple(Mode):
            raise InvalidArgument(f"failed to parse {key} value: {mode} (unknown gateway mode {mode})")
        if mode == Mode.ISOLATED and not internal:
            raise InvalidArgument("gateway mode 'isolated' can only be used for an internal network")
    mapper = options.get(PORT_MAPPER, PortMapper.NAT)
    if mapper not in tuple(PortMapper):
        raise InvalidArgument(f"failed to parse {PORT_MAPPER} value: {mapper} (unknown port mapper {mapper})")
    for key in (GATEWAY_MODE4, GATEWAY_MODE6) if mapper == PortMapper.PROXY else ():
        mode = options.get(key, Mode.NAT)
        if mode in (Mode.ROUTED, Mode.ISOLATED):
            raise InvalidArgument(f"port mapper 'proxy' cannot be used with gateway mode '{mode}' ({key})")
    for key in (HOST_BINDING, HOST_IPV4):
        _address(options, key, IPv4Address)
    _address(options, HOST_IPV6, IPv6Address)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A network as the bridge driver sees it: what its record and options say."""

    network: NetworkRecord

    @property
    def name(self) -> str:
        """The name of the link on the host."""
        return self.network.options.get(NAME) or f"br-{self.network.id[:12]}"

    @property
    def mtu(self) -> int:
        return int(self.network.options.get(MTU, "0")) or DEFAULT_MTU

    @property
    def icc(self) -> bool:
        """True when its containers reach each other."""
        return flag(self.network.options, ICC)

    def mode(self, version: int) -> Mode:
        """How its containers are reached in an IP version."""
        return Mode(self.network.options.get(GATEWAY_MODE4 if version == 4 else GATEWAY_MODE6, Mode.NAT))

    @property
    def port_mapper(self) -> PortMapper | None:
        """How its ports are published; None: as the engine does it."""
        asked = self.network.options.get(PORT_MAPPER)
        return PortMapper(asked) if asked is not None else None

    @property
    def trusted(self) -> tuple[str, ...]:
        """The host's interfaces by which published ports are reached at the containers' own addresses."""
        return tuple(name for name in self.network.options.get(TRUSTED, "").split(":") if name)

    def host_address(self, version: int) -> bool:
        """Return whether the link carries the gateway's address on the host."""
        inhibited = version == 4 and flag(self.network.options, INHIBIT_IPV4, False)
        return not inhibited and self.mode(version) != Mode.ISOLATED

    @property
    def host_binding(self) -> str:
        """The host address its ports are published on by default; empty: the daemon's."""
        return self.network.options.get(HOST_BINDING, "")

    @property
    def mac(self) -> str:
        """A fixed address, or the link would take its lowest port's and change it with every container."""
        return "02:42:" + ":".join(self.network.id[n : n + 2] for n in range(0, 8, 2))

    def rules(self, *, ip6: bool = True) -> NetworkRules:
        """Return what the firewall needs to know; without ip6 nothing of IPv6 (daemon option ip6tables)."""
        n, four, six = self.network, self.network.subnet(4), self.network.subnet(6) if ip6 else None
        return NetworkRules(
            interface=self.name,
            subnet4=_canonical(four.subnet) if four else "",
            gateway4=four.gateway if four else "",
            subnet6=_canonical(six.subnet) if six else "",
            gateway6=six.gateway if six else "",
            icc=self.icc,
            masquerade=flag(n.options, MASQUERADE),
            internal=n.internal,
            source4=n.options.get(HOST_IPV4, ""),
            source6=n.options.get(HOST_IPV6, ""),
            mode4=self.mode(4),
            mode6=self.mode(6),
            trusted=self.trusted,
        )


def _canonical(subnet: str) -> str:
    return str(ip_network(subnet, strict=False))
