"""What a configuration may say: checks of merged values. They touch nothing.

Every refusal is a ConfigError that names the key and the reason, in dockerd's words where it has some.

Source: dockerd 28.5 as `dockerd --validate` answers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from sampan.daemon.options import BY_KEY, REFUSED
from sampan.spec import codec
from sampan.spec.urls import masked

LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")


class ConfigError(Exception):
    """A configuration that is refused; the text names what is wrong with what."""


def mismatch(field: str, value: Any, go: str) -> ConfigError:
    """Return the error of a value of another JSON type than Go's."""
    return ConfigError(
        f"invalid JSON: json: cannot unmarshal {codec.kind(value)} into Go struct field Config.{field} of type {go}"
    )


def go_text(value: Any) -> str:
    """Print a value as Go's %v does."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, list):
        return f"[{' '.join(go_text(v) for v in value)}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{k}:{go_text(v)}' for k, v in sorted(value.items()))}]"
    return str(value)


_DOMAIN = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


def validate(v: Mapping[str, Any]) -> None:
    """Refuse bad values. Raises: ConfigError; touches nothing."""
    for check in (_validate_daemon, _validate_limits, _validate_lists, _validate_containers, _validate_networks):
        check(v)


def _validate_daemon(v: Mapping[str, Any]) -> None:
    for key, reason in REFUSED.items():
        if v[key] and v[key] != BY_KEY[key].default:
            raise ConfigError(f"{key} {reason}")
    if v["log-level"] not in LOG_LEVELS:
        raise ConfigError(f"invalid logging level: {v['log-level']}")
    if v["log-format"] not in ("text", "json"):
        raise ConfigError(f"invalid log format: {v['log-format']}")
    for host in v["hosts"]:
        check_host(host)
    for key in ("data-root", "exec-root"):
        if not v[key] or "\0" in v[key]:
            raise ConfigError(f"invalid {key}: {v[key]!r}")


def check_host(host: str) -> tuple[str, str]:
    """Split -H into (protocol, address). Raises: ConfigError `invalid bind address`."""
    protocol, separator, address = host.partition("://")
    if not separator:
        protocol, address = ("unix", host) if host.startswith("/") else ("tcp", host)
    if protocol not in ("unix", "fd", "tcp"):
        raise ConfigError(f"invalid bind address ({host}): unsupported proto '{protocol}'")
    if protocol == "tcp":
        try:
            split = urlsplit(f"//{address}")
            if split.path not in ("", "/") or split.query or split.fragment or split.username:
                raise ValueError
            _ = split.port
        except ValueError:
            raise ConfigError(f"invalid bind address ({host}): invalid address or port") from None
    return protocol, address


def metrics_address(text: str) -> tuple[str, int]:
    """Split "host:port" into its parts; an empty host is every address. Raises: ConfigError."""
    host, separator, port = text.rpartition(":")
    try:
        if not separator or not 0 <= int(port) < 65536:
            raise ValueError
    except ValueError:
        raise ConfigError(f"invalid metrics-addr: {text}: expected host:port") from None
    return host.removeprefix("[").removesuffix("]"), int(port)


def _validate_limits(v: Mapping[str, Any]) -> None:
    for key, shown in (("mtu", "default MTU"), ("max-concurrent-downloads", "max concurrent downloads"),
                       ("max-concurrent-uploads", "max concurrent uploads"),
                       ("max-download-attempts", "max download attempts")):  # fmt: skip
        if v[key] < 0:
            raise ConfigError(f"invalid {shown}: {v[key]}")
    for key in ("cpu-rt-period", "cpu-rt-runtime"):
        if v[key] < 0:
            raise ConfigError(f"invalid {key}: {v[key]}")
    if v["cpu-rt-period"] and v["cpu-rt-runtime"] > v["cpu-rt-period"]:
        raise ConfigError("cpu-rt-runtime cannot be higher than cpu-rt-period")
    if v["mtu"] > 65535:
        raise ConfigError(f"invalid default MTU: {v['mtu']}")
    if not -1000 <= v["oom-score-adjust"] <= 1000:
        raise ConfigError(f"invalid oom-score-adjust: {v['oom-score-adjust']}: must be between -1000 and 1000")
    if v["disk-budget"] < 0:
        raise ConfigError(f"invalid disk-budget: {v['disk-budget']}")
    if v["default-shm-size"] < 0:
        raise ConfigError(f"invalid default-shm-size: {v['default-shm-size']}")
    if v["shutdown-timeout"] < -1:
        raise ConfigError(f"invalid shutdown-timeout: {v['shutdown-timeout']}")


def _validate_lists(v: Mapping[str, Any]) -> None:
    for domain in v["dns-search"]:
        if domain != "." and not _DOMAIN.fullmatch(domain.strip()):
            raise ConfigError(f"{domain} is not a valid domain")
    seen: dict[str, str] = {}
    for label in v["labels"]:
        name, equals, value = label.partition("=")
        if not equals:
            raise ConfigError(f"bad attribute format: {label}")
        if seen.setdefault(name, value) != value:
            raise ConfigError(f"conflict labels for {label} and {name}={seen[name]}")
    for mirror in v["registry-mirrors"]:
        url = urlsplit(mirror)
        mirror = masked(mirror)  # for what is said of it
        if "://" not in mirror:
            raise ConfigError(
                f"invalid mirror: no scheme specified for \"{mirror}\": must use either 'https://' or 'http://'"
            )
        if url.scheme not in ("http", "https") or not url.netloc:
            raise ConfigError(f'invalid mirror: "{mirror}" is not a valid registry address')
        if url.username is not None:
            raise ConfigError(f'invalid mirror: username/password not allowed in URI "{mirror}"')
        if url.query or url.fragment:
            raise ConfigError(f'invalid mirror: query or fragment at end of the URI "{mirror}"')
    for registry in v["insecure-registries"]:
        if registry.startswith("-"):
            raise ConfigError(f"invalid index name ({registry}). Cannot begin or end with a hyphen")
    for domain, row in v["registries"].items():
        _validate_registry(domain, row)
    for option in v["exec-opts"]:
        name, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"invalid exec-opt ({option}): must be formatted 'opt=value'")
        if name != "native.cgroupdriver":
            raise ConfigError(f"invalid exec-opt ({option}): unknown option: '{name}'")
        if value == "systemd":
            raise ConfigError(f"invalid exec-opt ({option}): this engine has the cgroup driver cgroupfs only")
        if value != "cgroupfs":
            raise ConfigError(f"native.cgroupdriver option {value} not supported")
    for option in v["storage-opts"]:
        if "=" not in option:
            raise ConfigError(f"Unable to parse storage-opt {option!r}: expected key=value")


_REGISTRY_KEYS = {"mirrors": list, "rewrite": dict, "insecure": bool}


def _validate_registry(domain: str, row: Mapping[str, Any]) -> None:
    """Check one row of `registries`: a domain with mirrors, rewrites of repository names at them, and trust."""
    where = f"invalid registries: {domain!r}"
    if not domain or "/" in domain or domain != domain.strip():
        raise ConfigError(f"{where}: a key must be a registry's host, such as docker.io or registry.example:5000")
    for key, value in row.items():
        if key not in _REGISTRY_KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}: use mirrors, rewrite or insecure")
        if not isinstance(value, _REGISTRY_KEYS[key]):
            raise ConfigError(f"{where}: {key} has the wrong type")
    for mirror in row.get("mirrors", ()):
        url = urlsplit(mirror) if isinstance(mirror, str) else None
        if url is None or url.scheme not in ("http", "https") or not url.netloc or url.query or url.fragment:
            raise ConfigError(
                f"{where}: {masked(str(mirror))!r} is not a valid mirror: use https://host[:port][/prefix]"
            )
    for pattern, replacement in row.get("rewrite", {}).items():
        try:
            groups = re.compile(pattern).groups
        except re.error as e:
            raise ConfigError(f"{where}: rewrite {pattern!r} is not a regular expression: {e}") from None
        if not isinstance(replacement, str) or any(int(n) > groups for n in re.findall(r"\$([0-9])", replacement)):
            raise ConfigError(f"{where}: rewrite {pattern!r}: invalid replacement {replacement!r}")


def _validate_containers(v: Mapping[str, Any]) -> None:
    if v["default-ipc-mode"] == "host":
        raise ConfigError('IPC mode "host" is not supported as default value; use "shareable" or "private"')
    if v["default-ipc-mode"] not in ("shareable", "private"):
        raise ConfigError(
            f'default IPC mode setting ({v["default-ipc-mode"]}) is invalid; use "shareable" or "private"'
        )
    if v["default-cgroupns-mode"] not in ("", "host", "private"):
        raise ConfigError(f'invalid default cgroup namespace ({v["default-cgroupns-mode"]}): use "host" or "private"')
    from sampan.supervisor.logs import drivers as log_drivers  # not before it is asked for: the start waits for it

    if v["log-driver"] not in log_drivers.names():
        raise ConfigError(f"logger: no log driver named '{v['log-driver']}' is registered")
    if v["storage-driver"]:
        from sampan.engine.layers.snapshots.table import DRIVERS  # not before it is asked for: the start waits for it

        if v["storage-driver"] not in DRIVERS:
            raise ConfigError(f"driver not supported: {v['storage-driver']}")
    for name, runtime in v["runtimes"].items():
        if name == "runc":
            raise ConfigError("runtime name 'runc' is reserved")
        if not (runtime.get("path") or runtime.get("runtimeType")):
            raise ConfigError(f"runtime {name}: either a runtimeType or a path must be configured")
        if runtime.get("path") and runtime.get("runtimeType"):
            raise ConfigError(f"runtime {name}: cannot configure both path and runtimeType for the same runtime")
        if runtime.get("runtimeType"):
            raise ConfigError(f"runtime {name}: runtimeType is not supported, give the path of an OCI runtime")
    if v["default-runtime"] not in {"runc", "io.containerd.runc.v2", *v["runtimes"]}:
        raise ConfigError(f"specified default runtime '{v['default-runtime']}' does not exist")


def _validate_networks(v: Mapping[str, Any]) -> None:
    for key in ("bip", "bip6"):
        if v[key]:
            _network(key, v[key], interface=True)
    for key in ("fixed-cidr", "fixed-cidr-v6"):
        if v[key]:
            network = _network(key, v[key])
            if key == "fixed-cidr-v6" and network.version != 6:
                raise ConfigError(f"invalid {key}: invalid {key}: '{v[key]}' is not a valid IPv6 subnet")
            if key == "fixed-cidr-v6" and network.is_multicast:
                raise ConfigError(f"invalid {key}: invalid {key}: multicast subnet '{v[key]}' is not allowed")
    for version in (4, 6):
        if sum(ipaddress.ip_address(a).version == version for a in v["host-gateway-ips"]) > 1:
            raise ConfigError(f"only one IPv{version} host gateway IP address can be specified")
    if v["port-mapper"] not in ("nat", "proxy"):
        raise ConfigError(f"invalid port-mapper: unknown port mapper {v['port-mapper']}")
    if v["metrics-addr"]:
        metrics_address(v["metrics-addr"])
    if v["bip"] and v["bridge"]:
        raise ConfigError("You specified -b & --bip, mutually exclusive options. Please specify only one")
    if not v["icc"] and not v["iptables"]:
        raise ConfigError(
            "You specified --iptables=false with --icc=false. ICC=false uses iptables to function. "
            "Please set --icc or --iptables to true"
        )
    for pool in v["default-address-pools"]:
        if not isinstance(pool, dict) or set(pool) - {"base", "size"}:
            raise ConfigError(f"invalid default address pool: {go_text(pool)}")
        network = _network("default-address-pools", str(pool.get("base", "")))
        size = pool.get("size")
        if not isinstance(size, int) or not network.prefixlen <= size <= network.max_prefixlen:
            raise ConfigError(f"invalid default address pool {pool.get('base')}: invalid size {size}")
    for driver, options in v["default-network-opts"].items():
        for key, value in options.items():
            if not isinstance(value, str):
                raise mismatch(f"default-network-opts.{driver}.{key}", value, "string")


def _network(key: str, text: str, *, interface: bool = False) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_interface(text).network if interface else ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"invalid {key}: invalid CIDR address: {text}") from None
