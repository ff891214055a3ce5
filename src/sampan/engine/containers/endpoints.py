"""The endpoints a container is created with: what a create request says of networks, in whichever way. Pure.

A request may name networks in NetworkingConfig, by HostConfig.NetworkMode, and say of "the" network what belongs to an
endpoint: Config.MacAddress, and sysctls of `eth0`. Here all becomes settings by endpoint, or is refused.

Source: Docker Engine 28.5, what it answers to API 1.43, 1.47 and 1.51.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from sampan.engine.containers.records import Container
from sampan.engine.networks import endpoints as network_endpoints
from sampan.engine.networks import ports
from sampan.engine.networks.records import NetworkRecord, PublishedPort
from sampan.errors import Internal, InvalidArgument, SampanError
from sampan.spec.engine_api.container import ContainerConfig, HostConfig
from sampan.spec.engine_api.network import EndpointSettings, NetworkingConfig

OWN_MAC = (1, 44)  # the API version from which on an endpoint has one
OWN_SYSCTLS = (1, 48)

_DEPRECATED_MAC = (
    "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
)
_NO_MATCH = "HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPlan:
    """What becomes of a request: endpoints by network name or id, what is left of the rest, and warnings."""

    config: ContainerConfig
    host: HostConfig
    endpoints: dict[str, EndpointSettings] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


Asked = dict[str, EndpointSettings]
Find = Callable[[str], NetworkRecord | None]


def plan(
    config: ContainerConfig,
    host: HostConfig,
    networking: NetworkingConfig | None,
    version: tuple[int, int],
    find: Find = lambda _: None,
) -> EndpointPlan:
    """Decide a container's network_endpoints. host: with its network mode settled. find: a network by name, id or
    unique prefix; None for one that does not exist, which may come later.

    Those asked for, or else the one of its network mode. Raises: InvalidArgument, Internal, in Docker's words.
    """
    mode = host.network_mode
    given = (networking and networking.endpoints_config) or {}
    asked: Asked = {}
    for name, settings in given.items():
        if settings is None:
            raise InvalidArgument(f"invalid config for network {name}: EndpointsConfig is nil")
        asked[name] = _asked(settings)
    if "default" in asked:
        asked[mode] = asked.pop("default")
    warnings: list[str] = []
    config, asked = _with_mac(config, mode, asked, version, warnings)
    host, asked = _with_sysctls(host, asked, version, warnings)
    _check(asked, find)
    if mode.startswith("container:") or config.network_disabled:
        asked = {}
    elif not asked:
        asked = {mode: EndpointSettings()}
    asked = {network.name if (network := find(ref)) else ref: settings for ref, settings in asked.items()}
    return EndpointPlan(config=config, host=host, endpoints=asked, warnings=tuple(warnings))


def _asked(settings: EndpointSettings) -> EndpointSettings:
    """Leave out what only an answer has."""
    return EndpointSettings(
        ipam_config=settings.ipam_config,
        links=settings.links,
        aliases=settings.aliases,
        mac_address=settings.mac_address,
        driver_opts=settings.driver_opts,
        gw_priority=settings.gw_priority,
    )


def _with_mac(
    config: ContainerConfig, mode: str, asked: Asked, version: tuple[int, int], warnings: list[str]
) -> tuple[ContainerConfig, Asked]:
    """Give Config.MacAddress to the endpoint that it is meant for."""
    mac = config.mac_address
    if not mac:
        if version < OWN_MAC:  # an endpoint had none of its own
            return config, {name: replace(settings, mac_address="") for name, settings in asked.items()}
        main = asked.get(mode)  # it is shown in both places
        return (replace(config, mac_address=main.mac_address) if main is not None else config), asked
    private = mode in ("host", "none") or mode.startswith("container:")
    if version < OWN_MAC:
        if private:
            raise InvalidArgument("conflicting options: mac-address and the network mode")
        name = next(iter(asked), mode)
        return config, {name: replace(asked.get(name, EndpointSettings()), mac_address=mac)}
    warnings.append(_DEPRECATED_MAC)
    if private:
        return replace(config, mac_address=""), asked
    try:
        own = _main(asked, mode)
    except InvalidArgument as error:
        what = "unable to migrate container-wide MAC address to a specific network"
        raise InvalidArgument(f"{what}: {error.message}") from error
    if own.mac_address not in ("", mac):
        raise InvalidArgument(
            "the container-wide MAC address must match the endpoint-specific MAC address for the main network,"
            " or be left empty"
        )
    return config, {**asked, mode: replace(own, mac_address=mac)}


def _with_sysctls(
    host: HostConfig, asked: Asked, version: tuple[int, int], warnings: list[str]
) -> tuple[HostConfig, Asked]:
    """Give sysctls of an interface to its endpoint, which they have been part of since API 1.46."""
    mode = host.network_mode
    if mode == "host" or mode.startswith("container:"):
        return host, asked
    moved: list[str] = []
    names: list[str] = []
    for name, value in (host.sysctls or {}).items():
        parts = name.split(".", 4)
        if len(parts) < 5 or parts[0] != "net" or not parts[3].startswith("eth"):
            continue
        option = f"driver option '{network_endpoints.SYSCTLS_OPTION}'"
        if version >= OWN_SYSCTLS:
            raise Internal(f'interface specific sysctl setting "{name}" must be supplied using {option}')
        if parts[3] != "eth0":
            raise Internal(
                f"unable to determine network endpoint for sysctl {name}, use {option} to set per-interface sysctls"
            )
        names.append(name)
        moved.append(f"net.{parts[1]}.{parts[2]}.IFNAME.{parts[4]}={value}")
    if not moved:
        return host, asked
    try:
        own = _main(asked, mode)
    except InvalidArgument as error:
        raise Internal(f"unable to find a network for sysctl {names[0]}: {error.message}") from error
    text = ",".join(moved)
    warnings.append(
        f'Migrated sysctl "{",".join(names)}" to DriverOpts{{"{network_endpoints.SYSCTLS_OPTION}":"{text}"}}.'
    )
    given = (own.driver_opts or {}).get(network_endpoints.SYSCTLS_OPTION)
    options = {**(own.driver_opts or {}), network_endpoints.SYSCTLS_OPTION: f"{text},{given}" if given else text}
    left = {name: value for name, value in (host.sysctls or {}).items() if name not in names}
    return replace(host, sysctls=left or None), {**asked, mode: replace(own, driver_opts=options)}


def _main(asked: Asked, mode: str) -> EndpointSettings:
    """Return the settings of the network mode's own endpoint. Raises: InvalidArgument when others are asked for."""
    if asked and mode not in asked:
        raise InvalidArgument(_NO_MATCH)
    return asked.get(mode, EndpointSettings())


def _check(asked: Asked, find: Find) -> None:
    """Check what is asked of each network; of one that does not exist what any could be asked.

    Raises: InvalidArgument with all that is wrong.
    """
    found: list[str] = []
    for name, settings in asked.items():
        try:
            if settings.mac_address:
                network_endpoints.parse_mac(settings.mac_address)
            network_endpoints.refuse(network_endpoints.settings_problems(settings, name, find(name)))
        except SampanError as error:
            found.append(f"invalid config for network {name}: {error.message}")
    if found:
        raise InvalidArgument(found[0] if len(found) == 1 else "* " + "\n* ".join(found))


def published_ports(c: Container) -> tuple[tuple[str, ...], tuple[PublishedPort, ...]]:
    """Return what a container exposes, and what it publishes. Raises: InvalidArgument in Docker's words."""
    exposed = tuple(p for p in c.config.exposed_ports or () if p.partition("/")[0].isdecimal())
    h = c.host_config
    return exposed, ports.published(h.port_bindings, exposed=exposed, publish_all=h.publish_all_ports)
