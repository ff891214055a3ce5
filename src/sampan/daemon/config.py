"""The daemon's configuration: flags and daemon.json, merged, validated, frozen.

    argv ─ flags.parse ─▶ given ─┐
                                 ├─ merge ─▶ values ─ validate ─▶ DaemonConfig (holds the EngineConfig)
    daemon.json ─ read_file ─────┘

An option may be given on the command line or in the file, not in both: which one would win is nobody's guess to make.
Pure but for `read_file`. Every refusal is a ConfigError that names the key and the reason, in dockerd's words where it
has some; nothing has been touched by then.

Source: dockerd 28.5 as `dockerd --validate` answers.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sampan.daemon.options import ALIASES, BOOL, BY_FLAG, BY_KEY, BYTES, GUARDS, IP, IPS, OPTIONS, BadValue, Kind
from sampan.engine.config import EngineConfig
from sampan.errors import words
from sampan.spec import codec
from sampan.spec.urls import masked

DEFAULT_FILE = "/etc/sampan/daemon.json"
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
PROXIES = ("http-proxy", "https-proxy", "no-proxy")


class ConfigError(Exception):
    """A configuration that is refused; the text names what is wrong with what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """What the daemon itself needs, beside the engine's part. Paths absolute, `hosts` as -H takes them."""

    engine: EngineConfig
    config_file: str = DEFAULT_FILE
    hosts: tuple[str, ...] = ()
    group: str = "docker"
    group_given: bool = False
    pidfile: str = ""
    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    tls_explicit: bool = False
    """--tls or --tlsverify was given, be it as false: plain TCP was asked for in so many words."""
    log_level: str = "info"
    log_format: str = "text"
    raw_logs: bool = False
    oom_score_adjust: int = 0
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Every option by its daemon.json key, merged: what a reload compares with."""
    warnings: tuple[str, ...] = ()


def load(flags: Mapping[str, Any]) -> DaemonConfig:
    """Build the configuration from parsed flags and the file they name. Raises: ConfigError."""
    path = flags.get("config-file", DEFAULT_FILE)
    try:
        file = read_file(path, required="config-file" in flags)
        values = merge(flags, file)
        try:
            validate(values)
        except ConfigError as e:
            raise ConfigError(f"merged configuration validation from file and command line flags failed: {e}") from None
    except ConfigError as e:
        raise ConfigError(f"unable to configure the daemon with file {path}: {e}") from None
    return build(values, config_file=path, given={*flags, *file})


def read_file(path: str, *, required: bool) -> dict[str, Any]:
    """Read daemon.json into values by key; a missing default file is empty. Raises: ConfigError."""
    try:
        with open(path, "rb") as f:
            raw = f.read()
    except FileNotFoundError:
        if required:
            raise ConfigError(f"open {path}: no such file or directory") from None
        return {}
    except OSError as e:
        raise ConfigError(f"open {path}: {words(e)}") from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError("invalid UTF-16 encoding: daemon.json must be UTF-8")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        return {}
    return typed(_object(raw))


def _object(raw: bytes) -> dict[str, Any]:
    try:
        parsed = codec.parse(raw)
    except ValueError as e:
        words = "unexpected end of JSON input" if str(e) == "unexpected EOF" else str(e)
        raise ConfigError(f"invalid JSON: {words}") from None
    if not isinstance(parsed, dict):
        raise ConfigError(
            f"invalid JSON: json: cannot unmarshal {codec.kind(parsed)} into Go value of type map[string]interface {{}}"
        )
    return parsed


def typed(parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Check the keys and JSON types of a parsed daemon.json. Raises: ConfigError. Null means: not given."""
    flat = {k: v for k, v in parsed.items() if k != "proxies"}
    proxies = parsed.get("proxies")
    if proxies is not None:
        if not isinstance(proxies, dict):
            raise _mismatch("proxies", proxies, "config.Proxies")
        unknown = sorted(set(proxies) - set(PROXIES))
        if unknown:
            raise ConfigError(_UNKNOWN + ", ".join(unknown))
        flat.update(proxies)
    unknown = sorted(k for k in flat if ALIASES.get(k, k) not in BY_KEY)
    if unknown:
        raise ConfigError(_UNKNOWN + ", ".join(unknown))
    values: dict[str, Any] = {}
    for name, value in flat.items():
        key = ALIASES.get(name, name)
        if value is None:
            continue
        if key in values:
            raise ConfigError(f"the following directives mean the same and are both given: {key}, {name}")
        kind = BY_KEY[key].kind
        if name == "host-gateway-ip" and isinstance(value, str):
            value = [value]
        values[key] = _typed_value(key, kind, value)
    return values


_UNKNOWN = "the following directives don't match any configuration option: "


def _mismatch(field: str, value: Any, go: str) -> ConfigError:
    return ConfigError(
        f"invalid JSON: json: cannot unmarshal {codec.kind(value)} into Go struct field Config.{field} of type {go}"
    )


def _typed_value(key: str, kind: Kind, value: Any) -> Any:
    if kind is BYTES and isinstance(value, int):
        raise ConfigError(f'invalid JSON: invalid size: "{value}"')
    types: Any = kind.json
    if not isinstance(value, types) or (isinstance(value, bool) and kind is not BOOL):
        raise _mismatch(key, value, kind.go)
    try:
        if kind is BYTES:
            return kind.parse(value)
        if kind is IP and value:
            return kind.parse(value)
        if kind is IPS:
            return [kind.parse(v) for v in value]
    except BadValue as e:
        raise ConfigError(
            f"invalid JSON: {str(e).replace('string being converted to IP address', 'IP address')}"
        ) from None
    except TypeError:
        raise _mismatch(key, value, kind.go) from None
    wanted: type | None = {"string": str, "bool": bool, "object": dict, "map": dict}.get(kind.of)
    if wanted is not None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            if not isinstance(item, wanted):
                go = {"map": "map[string]string"}.get(kind.of, kind.of)
                raise _mismatch(f"{key}.{name}", item, go)
    return value


def merge(flags: Mapping[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """Lay flags and file over the defaults. Raises: ConfigError naming every option that both give."""
    values = {o.key: o.default for o in OPTIONS if o.key}
    conflicts = []
    for name, value in sorted(flags.items()):
        key = BY_FLAG[name].key
        if not key:
            continue
        if key in file:
            conflicts.append(f"{key}: (from flag: {_go(value)}, from file: {_go(file[key])})")
        values[key] = value
    if conflicts:
        raise ConfigError(
            "the following directives are specified both as a flag and in the configuration file: "
            + ", ".join(conflicts)
        )
    values.update(file)
    return values


def _go(value: Any) -> str:
    """Print a value as Go's %v does."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, list):
        return f"[{' '.join(_go(v) for v in value)}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{k}:{_go(v)}' for k, v in sorted(value.items()))}]"
    return str(value)


# --- validation ------------------------------------------------------------------------------------------------------

_DOMAIN = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


def validate(v: Mapping[str, Any]) -> None:
    """Refuse bad values. Raises: ConfigError; touches nothing."""
    for check in (_validate_daemon, _validate_limits, _validate_lists, _validate_containers, _validate_networks):
        check(v)


def _validate_daemon(v: Mapping[str, Any]) -> None:
    for key in GUARDS:
        if v[key]:
            raise ConfigError(
                f"{key} is not supported by this version: refusing to run without the protection it asks for"
            )
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


def _validate_limits(v: Mapping[str, Any]) -> None:
    for key, shown in (("mtu", "default MTU"), ("max-concurrent-downloads", "max concurrent downloads"),
                       ("max-concurrent-uploads", "max concurrent uploads"),
                       ("max-download-attempts", "max download attempts")):  # fmt: skip
        if v[key] < 0:
            raise ConfigError(f"invalid {shown}: {v[key]}")
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
        if url.query or url.fragment:
            raise ConfigError(f'invalid mirror: unsupported path, query, or fragment at end of the URI "{mirror}"')
    for registry in v["insecure-registries"]:
        if registry.startswith("-"):
            raise ConfigError(f"invalid index name ({registry}). Cannot begin or end with a hyphen")
    for domain, row in v["registries"].items():
        _validate_registry(domain, row)
    for option in v["exec-opts"] or ():
        name, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"invalid exec-opt ({option}): must be formatted 'opt=value'")
        if name == "native.cgroupdriver" and value not in ("cgroupfs", "systemd"):
            raise ConfigError(f"option native.cgroupdriver {value} not supported")
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
            _network(key, v[key])
    if v["bip"] and v["bridge"]:
        raise ConfigError("You specified -b & --bip, mutually exclusive options. Please specify only one")
    if not v["icc"] and not v["iptables"]:
        raise ConfigError(
            "You specified --iptables=false with --icc=false. ICC=false uses iptables to function. "
            "Please set --icc or --iptables to true"
        )
    for pool in v["default-address-pools"]:
        if not isinstance(pool, dict) or set(pool) - {"base", "size"}:
            raise ConfigError(f"invalid default address pool: {_go(pool)}")
        network = _network("default-address-pools", str(pool.get("base", "")))
        size = pool.get("size")
        if not isinstance(size, int) or not network.prefixlen <= size <= network.max_prefixlen:
            raise ConfigError(f"invalid default address pool {pool.get('base')}: invalid size {size}")
    for driver, options in v["default-network-opts"].items():
        for key, value in options.items():
            if not isinstance(value, str):
                raise _mismatch(f"default-network-opts.{driver}.{key}", value, "string")


def _network(key: str, text: str, *, interface: bool = False) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        if "/" not in text:
            raise ValueError
        return ipaddress.ip_interface(text).network if interface else ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"invalid {key}: invalid CIDR address: {text}") from None


# --- the result ------------------------------------------------------------------------------------------------------

_ENGINE_NAMES = {
    "default_shm_size": "default_shm_size_bytes",
    "disk_budget": "disk_budget_bytes",
    "shutdown_timeout": "shutdown_timeout_s",
}
_DAEMON_ONLY = frozenset(
    {"hosts", "group", "pidfile", "tls", "tlsverify", "tlscacert", "tlscert", "tlskey", "log-level", "log-format"}
    | {"raw-logs"}
)


def build(values: Mapping[str, Any], *, config_file: str = DEFAULT_FILE, given: set[str] | None = None) -> DaemonConfig:
    """Freeze validated values."""
    given = given or set()
    fields = {f.name for f in dataclasses.fields(EngineConfig)}
    engine: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        name = _ENGINE_NAMES.get(name, name)
        if key not in _DAEMON_ONLY and name in fields and value is not None:
            engine[name] = tuple(value) if isinstance(value, list) else value
    for name in ("data_root", "exec_root"):
        engine[name] = os.path.realpath(engine[name])
    if engine["overlay_peers"]:
        engine["overlay_peers"] = os.path.abspath(engine["overlay_peers"])
    engine["debug"] = values["debug"] or values["log-level"] == "debug"
    if engine.get("seccomp_profile") == "builtin":
        engine["seccomp_profile"] = ""
    accepted = sorted(o.flag or o.key for o in OPTIONS if o.accepted and (o.flag in given or o.key in given))
    return DaemonConfig(
        engine=EngineConfig(**engine),
        config_file=config_file,
        hosts=tuple(values["hosts"]),
        group=values["group"],
        group_given="group" in given,
        pidfile=os.path.abspath(values["pidfile"]) if values["pidfile"] else "",
        tls=values["tls"] or values["tlsverify"],
        tlsverify=values["tlsverify"],
        tlscacert=values["tlscacert"],
        tlscert=values["tlscert"],
        tlskey=values["tlskey"],
        tls_explicit=bool(given & {"tls", "tlsverify"}),
        log_level="debug" if values["debug"] else values["log-level"],
        log_format=values["log-format"],
        raw_logs=values["raw-logs"],
        oom_score_adjust=values["oom-score-adjust"],
        values=dict(values),
        warnings=(*(f"option {name} is accepted and has no effect yet" for name in accepted), *_unknown(values)),
    )


FEATURES = ("buildkit",)


def _unknown(values: Mapping[str, Any]) -> list[str]:
    """Return warnings of features that this engine does not have; Docker takes any name."""
    return [
        f"feature {name} is not known and has no effect" for name in sorted(values["features"]) if name not in FEATURES
    ]
