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
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sampan.daemon.options import ALIASES, BOOL, BY_FLAG, BY_KEY, BYTES, IP, IPS, OPTIONS, BadValue, Kind
from sampan.daemon.validation import ConfigError, go_text, mismatch, validate
from sampan.engine.config import EngineConfig
from sampan.errors import words
from sampan.spec import codec

DEFAULT_FILE = "/etc/sampan/daemon.json"
PROXIES = ("http-proxy", "https-proxy", "no-proxy")


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
    oom_score_adjust: int = 0
    metrics_addr: str = ""
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
            raise mismatch("proxies", proxies, "config.Proxies")
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


def _typed_value(key: str, kind: Kind, value: Any) -> Any:
    if kind is BYTES and isinstance(value, int):
        raise ConfigError(f'invalid JSON: invalid size: "{value}"')
    types: Any = kind.json
    if not isinstance(value, types) or (isinstance(value, bool) and kind is not BOOL):
        raise mismatch(key, value, kind.go)
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
        raise mismatch(key, value, kind.go) from None
    if key == "builder":
        collected = value.get("gc") or {}
        if isinstance(collected, dict) and not isinstance(collected.get("enabled", False), bool):
            kind_of = codec.kind(collected["enabled"])
            raise ConfigError(
                f"invalid JSON: json: cannot unmarshal {kind_of} into Go struct field .enabled of type bool"
            )
    wanted: type | None = {"string": str, "bool": bool, "object": dict, "map": dict}.get(kind.of)
    if wanted is not None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            if not isinstance(item, wanted):
                go = {"map": "map[string]string"}.get(kind.of, kind.of)
                raise mismatch(f"{key}.{name}", item, go)
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
            conflicts.append(f"{key}: (from flag: {go_text(value)}, from file: {go_text(file[key])})")
        values[key] = value
    if conflicts:
        raise ConfigError(
            "the following directives are specified both as a flag and in the configuration file: "
            + ", ".join(conflicts)
        )
    values.update(file)
    return values


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
        oom_score_adjust=values["oom-score-adjust"],
        metrics_addr=values["metrics-addr"],
        values=dict(values),
        warnings=(*(f"option {name} is accepted and has no effect yet" for name in accepted), *_unknown(values)),
    )


FEATURES = ("buildkit",)


def _unknown(values: Mapping[str, Any]) -> list[str]:
    """Return warnings of features that this engine does not have; Docker takes any name."""
    return [
        f"feature {name} is not known and has no effect" for name in sorted(values["features"]) if name not in FEATURES
    ]
