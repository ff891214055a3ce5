"""The daemon's options: one table for flags, daemon.json keys, types and defaults. Data and parsing of single values.

Names, keys and types are dockerd's; `accepted` options are those whose feature has not landed: they are parsed, kept,
marked in --help and named in a warning at start, so that a dockerd command line or daemon.json can be taken over as it
is.

Source: `dockerd --help` and daemon.json of Docker Engine 28.5.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sampan.spec import go_values

Parse = Callable[[str], Any]


class BadValue(ValueError):
    """A flag's value that cannot be parsed; the text is the reason alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A type of option: how a flag's text is read, what daemon.json must hold, and whether a flag may be repeated."""

    name: str
    go: str
    json: type | tuple[type, ...]
    parse: Parse = str
    repeated: bool = False
    keyed: bool = False
    """Repeated, and each value is a (key, value) pair collected into a map."""
    of: str = ""
    """Go name of the elements of a list or map of scalars."""


def _bool(text: str) -> bool:
    try:
        return go_values.boolean(text)
    except ValueError as e:
        raise BadValue(str(e)) from e


def _int(text: str) -> int:
    try:
        return go_values.integer(text, base=0)
    except ValueError as e:
        raise BadValue(str(e)) from e


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise BadValue(f"invalid string being converted to IP address: {text}") from None


def parse_bytes(text: str) -> int:
    """Read a size: "64m", "64MiB", "1.5g". Raises: BadValue."""
    try:
        return go_values.size_bytes(text)
    except ValueError as e:
        raise BadValue(str(e)) from e


def _label(text: str) -> str:
    if "=" not in text:
        raise BadValue(f"bad attribute format: {text}")
    return text


def _pair(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    return key, value


def _feature(text: str) -> tuple[str, bool]:
    key, equals, value = text.partition("=")
    return key, _bool(value) if equals else True


def _runtime(text: str) -> tuple[str, dict[str, str]]:
    name, equals, path = text.partition("=")
    name, path = name.strip().lower(), path.strip()
    if not equals or not name or not path:
        raise BadValue(f"invalid runtime argument: {text}")
    if name == "runc":
        raise BadValue("runtime name 'runc' is reserved")
    return name, {"path": path}


ULIMITS = frozenset(
    [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)


def _ulimit(text: str) -> tuple[str, dict[str, Any]]:
    match = re.fullmatch(r"([^=]+)=(-?\d+)(?::(-?\d+))?", text)
    if not match:
        raise BadValue(f"invalid ulimit argument: {text}")
    name, soft, hard = match[1], int(match[2]), int(match[3] or match[2])
    if name not in ULIMITS:
        raise BadValue(f"invalid ulimit type: {name}")
    if hard != -1 and (soft > hard or soft == -1):
        raise BadValue(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return name, {"Name": name, "Hard": hard, "Soft": soft}


def _pool(text: str) -> dict[str, Any]:
    fields = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    if set(fields) != {"base", "size"}:
        raise BadValue(f"invalid field '{text}' must be a key=value pair of base and size")
    return {"base": fields["base"], "size": _int(fields["size"])}


def _network_option(text: str) -> tuple[str, dict[str, str]]:
    driver, equals, option = text.partition("=")
    key, second, value = option.partition("=")
    if not equals or not second:
        raise BadValue(f'invalid value "{text}" for map option, should be root-key=key=value')
    return driver, {key: value}


BOOL = Kind(name="", go="bool", json=bool, parse=_bool)
INT = Kind(name="int", go="int", json=int, parse=_int)
STRING = Kind(name="string", go="string", json=str)
BYTES = Kind(name="bytes", go="string", json=(str, int), parse=parse_bytes)
IP = Kind(name="ip", go="string", json=str, parse=_ip)
LIST = Kind(name="list", go="[]string", json=list, repeated=True, of="string")
LABELS = Kind(name="list", go="[]string", json=list, parse=_label, repeated=True, of="string")
IPS = Kind(name="ipSlice", go="[]net.IP", json=list, parse=_ip, repeated=True, of="string")
MAP = Kind(name="map", go="map[string]string", json=dict, parse=_pair, repeated=True, keyed=True, of="string")
FEATURES = Kind(name="map", go="map[string]bool", json=dict, parse=_feature, repeated=True, keyed=True, of="bool")
RUNTIMES = Kind(
    name="runtime", go="map[string]system.Runtime", json=dict, parse=_runtime, repeated=True, keyed=True, of="object"
)
ULIMIT = Kind(
    name="ulimit", go="map[string]*units.Ulimit", json=dict, parse=_ulimit, repeated=True, keyed=True, of="object"
)
POOLS = Kind(name="pool-options", go="[]*ipamutils.NetworkToSplit", json=list, parse=_pool, repeated=True, of="object")
MAPMAP = Kind(
    name="mapmap",
    go="map[string]map[string]string",
    json=dict,
    parse=_network_option,
    repeated=True,
    keyed=True,
    of="map",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """`flag` on the command line ("" = file only), `key` in daemon.json ("" = flag only)."""

    flag: str
    key: str
    kind: Kind
    help: str
    default: Any = None
    short: str = ""
    reloads: bool = False
    accepted: bool = False


def _option(flag: str, kind: Kind, help: str, default: Any = None, key: str | None = None, **more: Any) -> Option:
    return Option(flag=flag, key=flag if key is None else key, kind=kind, help=help, default=default, **more)


def _later(flag: str, kind: Kind, help: str, default: Any = None, key: str | None = None) -> Option:
    return _option(flag, kind, help, default, key, accepted=True)


OPTIONS: tuple[Option, ...] = (
    _option("add-runtime", RUNTIMES, "Register an additional OCI compatible runtime", {}, "runtimes", reloads=True),
    _option("allow-direct-routing", BOOL, "Allow remote access to published ports on container IP addresses", False),
    _option("authorization-plugin", LIST, "Authorization plugins to load", [], key="authorization-plugins"),
    _option("bip", STRING, "IPv4 address for the default bridge", ""),
    _option("bip6", STRING, "IPv6 address for the default bridge", ""),
    _option("bridge", STRING, "Attach containers to a network bridge", "", short="b"),
    _later("cdi-spec-dir", LIST, "CDI specification directories to use", key="cdi-spec-dirs"),
    _option("cgroup-parent", STRING, "Set parent cgroup for all containers", ""),
    _option("config-file", STRING, "Daemon configuration file", "/etc/sampan/daemon.json", key=""),
    _option("containerd", STRING, "containerd grpc address", ""),
    _option("containerd-namespace", STRING, "Containerd namespace to use", "moby"),
    _option("containerd-plugins-namespace", STRING, "Containerd namespace to use for plugins", "plugins.moby"),
    _option("cpu-rt-period", INT, "Limit the CPU real-time period in microseconds for the parent cgroup", 0),
    _option("cpu-rt-runtime", INT, "Limit the CPU real-time runtime in microseconds for the parent cgroup", 0),
    _option("data-root", STRING, "Root directory of persistent state", "/var/lib/sampan"),
    _option("debug", BOOL, "Enable debug mode", False, short="D", reloads=True),
    _option(
        "default-address-pool",
        POOLS,
        "Default address pools for node specific local networks",
        [],
        "default-address-pools",
    ),
    _option("default-cgroupns-mode", STRING, 'Default mode for containers cgroup namespace ("host" | "private")', ""),
    _option("default-gateway", IP, "Default gateway IPv4 address for the default bridge network", ""),
    _option("default-gateway-v6", IP, "Default gateway IPv6 address for the default bridge network", ""),
    _option("default-ipc-mode", STRING, 'Default mode for containers ipc ("shareable" | "private")', "private"),
    _option("default-network-opt", MAPMAP, "Default network options", {}, "default-network-opts"),
    _option("default-runtime", STRING, "Default OCI runtime for containers", "runc", reloads=True),
    # ours: images that nothing uses go, the longest unused first, when the data root takes more
    _option("disk-budget", BYTES, "Remove unused images when the data root takes more (0: never)", 0, reloads=True),
    _option("default-shm-size", BYTES, "Default shm size for containers", 64 * 1024 * 1024, reloads=True),
    _option("default-ulimit", ULIMIT, "Default ulimits for containers", {}, "default-ulimits"),
    _option("dns", IPS, "DNS server to use", []),
    _option("dns-opt", LIST, "DNS options to use", [], "dns-opts"),
    _option("dns-search", LIST, "DNS search domains to use", []),
    _option("exec-opt", LIST, "Runtime execution options", [], "exec-opts"),
    _option("exec-root", STRING, "Root directory for execution state files", "/run/sampan"),
    _option("experimental", BOOL, "Enable experimental features", False),
    _option("feature", FEATURES, "Enable feature in the daemon", {}, "features", reloads=True),
    _option("fixed-cidr", STRING, "IPv4 subnet for the default bridge network", ""),
    _option("fixed-cidr-v6", STRING, "IPv6 subnet for the default bridge network", ""),
    _option("group", STRING, "Group for the unix socket", "docker", short="G"),
    _option("host", LIST, "Daemon socket(s) to connect to", [], "hosts", short="H"),
    _option(
        "host-gateway-ip", IPS, "IP addresses that 'host-gateway' in --add-host resolves to", [], "host-gateway-ips"
    ),
    _option("http-proxy", STRING, "HTTP proxy URL to use for outgoing traffic", ""),
    _option("https-proxy", STRING, "HTTPS proxy URL to use for outgoing traffic", ""),
    _option("icc", BOOL, "Enable inter-container communication for the default bridge network", True),
    _option("init", BOOL, "Run an init in the container to forward signals and reap processes", False),
    _option("init-path", STRING, "Path to the docker-init binary", ""),
    _option(
        "insecure-registry", LIST, "Enable insecure registry communication", [], "insecure-registries", reloads=True
    ),
    _option("ip", IP, "Host IP for port publishing from the default bridge network", "0.0.0.0"),
    _option("ip-forward", BOOL, "Enable IP forwarding in system configuration", True),
    _option("ip-forward-no-drop", BOOL, "Do not set the filter-FORWARD policy to DROP", False),
    _option("ip-masq", BOOL, "Enable IP masquerading for the default bridge network", True),
    _option("ip6tables", BOOL, "Enable addition of IPv6 firewall rules", True),
    _option("iptables", BOOL, "Enable addition of firewall rules", True),
    _option("ipv6", BOOL, "Enable IPv6 networking for the default bridge network", False),
    _option("label", LABELS, "Set key=value labels to the daemon", [], "labels", reloads=True),
    _option("live-restore", BOOL, "Keep containers running while the daemon is away", True, reloads=True),
    _option("log-driver", STRING, "Default driver for container logs", "json-file"),
    _option("log-format", STRING, 'Set the logging format ("text"|"json")', "text"),
    _option("log-level", STRING, 'Set the logging level ("debug"|"info"|"warn"|"error"|"fatal")', "info", short="l"),
    _option("log-opt", MAP, "Default log driver options for containers", {}, "log-opts"),
    _option("max-concurrent-downloads", INT, "Set the max concurrent downloads", 3, reloads=True),
    _option("max-concurrent-uploads", INT, "Set the max concurrent uploads", 5, reloads=True),
    _option("max-download-attempts", INT, "Set the max download attempts for each pull", 5, reloads=True),
    _option("metrics-addr", STRING, "Set default address and port to serve the metrics api on", ""),
    _option("mtu", INT, 'Set the MTU for the default "bridge" network', 1500),
    _later("network-control-plane-mtu", INT, "Network Control plane MTU", 1500),
    _option("no-new-privileges", BOOL, "Set no-new-privileges by default for new containers", False),
    _option("no-proxy", STRING, "Comma-separated list of hosts for which the proxy is skipped", ""),
    _later("node-generic-resource", LIST, "Advertise user-defined resource", key="node-generic-resources"),
    _option("oom-score-adjust", INT, "Set the oom_score_adj for the daemon", 0),
    # ours: with it there are overlay networks without a swarm
    _option("overlay-peers", STRING, "File that names the endpoints which other hosts have of overlay networks", ""),
    _option("pidfile", STRING, "Path to use for daemon PID file", "/run/sampan.pid", short="p"),
    # ours: with "proxy" the host's own input rules decide about published ports
    _option("port-mapper", STRING, 'How published ports lead to their containers ("nat"|"proxy")', "nat"),
    _later("raw-logs", BOOL, "Full timestamps without ANSI coloring", False),
    _option("registry-mirror", LIST, "Preferred registry mirror", [], "registry-mirrors", reloads=True),
    _option("rootless", BOOL, "Enable rootless mode", False),
    _option("seccomp-profile", STRING, 'Path to seccomp profile. Set to "unconfined" to disable it', "builtin"),
    _option("selinux-enabled", BOOL, "Enable selinux support", False),
    _option("shutdown-timeout", INT, "Set the default shutdown timeout", 15, reloads=True),
    _option("storage-driver", STRING, "Storage driver to use", "", short="s"),
    _option("storage-opt", LIST, "Storage driver options", [], "storage-opts"),
    _later("swarm-default-advertise-addr", STRING, "Set default address or interface for swarm advertised address", ""),
    _option("tls", BOOL, "Use TLS; implied by --tlsverify", False),
    _option("tlscacert", STRING, "Trust certs signed only by this CA", ""),
    _option("tlscert", STRING, "Path to TLS certificate file", ""),
    _option("tlskey", STRING, "Path to TLS key file", ""),
    _option("tlsverify", BOOL, "Use TLS and verify the remote", False),
    _option("userland-proxy", BOOL, "Use userland proxy for loopback traffic", True),
    _later("userland-proxy-path", STRING, "Path to the userland proxy binary", ""),
    _option("userns-remap", STRING, "User/Group setting for user namespaces", ""),
    _option("validate", BOOL, "Validate daemon configuration and exit", False, key=""),
    _option("version", BOOL, "Print version information and quit", False, key="", short="v"),
    _option("help", BOOL, "Print usage", False, key=""),
    _option("", Kind(name="object", go="config.BuilderConfig", json=dict), "Builder settings", key="builder"),
    _option(
        "",
        Kind(name="object", go="map[string]config.Registry", json=dict, of="object"),
        "Mirrors, rewrites and trust by registry",
        {},
        "registries",
        reloads=True,
    ),
)

_GUARD = "is not supported by this version: refusing to run without the protection it asks for"
_CONTAINERD = "is not supported: there is no containerd, containers are run by the engine's own supervisor"
REFUSED: Mapping[str, str] = {
    "authorization-plugins": _GUARD,
    "rootless": _GUARD,
    "selinux-enabled": _GUARD,
    "userns-remap": _GUARD,
    "containerd": _CONTAINERD,
    "containerd-namespace": _CONTAINERD,
    "containerd-plugins-namespace": _CONTAINERD,
}
"""Keys that may hold nothing but their default, each with the reason."""

BY_FLAG: Mapping[str, Option] = {o.flag: o for o in OPTIONS if o.flag}
BY_SHORT: Mapping[str, Option] = {o.short: o for o in OPTIONS if o.short}
BY_KEY: Mapping[str, Option] = {o.key: o for o in OPTIONS if o.key}
ALIASES: Mapping[str, str] = {"graph": "data-root", "host-gateway-ip": "host-gateway-ips"}
"""Older keys of daemon.json, still read."""
