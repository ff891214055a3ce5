"""What the engine needs to know of its configuration: values only, already validated by `daemon.config`.

Beside them the one fact about a data root that everybody needs: whose it is.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of one engine. Paths are absolute, sizes bytes, times seconds. Names as in dockerd's daemon.json."""

    data_root: str = "/var/lib/sampan"
    exec_root: str = "/run/sampan"
    # containers
    default_runtime: str = "runc"
    runtimes: dict[str, dict[str, Any]] = field(default_factory=dict)
    cgroup_parent: str = ""
    cpu_rt_period: int = 0  # microseconds, of the cgroup above the containers'; 0: as it is
    cpu_rt_runtime: int = 0
    default_shm_size_bytes: int = 64 * 1024 * 1024
    default_ulimits: dict[str, dict[str, Any]] = field(default_factory=dict)
    default_ipc_mode: str = "private"
    default_cgroupns_mode: str = ""
    init: bool = False
    init_path: str = ""
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    oom_score_adjust: int = 0
    live_restore: bool = True
    shutdown_timeout_s: int = 15
    log_driver: str = "json-file"
    log_opts: dict[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    # images
    storage_driver: str = ""
    storage_opts: tuple[str, ...] = ()
    disk_budget_bytes: int = 0  # 0: none
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    registries: dict[str, dict[str, Any]] = field(default_factory=dict)
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    # builds
    builder: dict[str, Any] = field(default_factory=dict)  # gc, entitlements: as in daemon.json
    # networks
    bridge: str = ""
    bip: str = ""
    bip6: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    default_address_pools: tuple[dict[str, Any], ...] = ()
    default_network_opts: dict[str, dict[str, str]] = field(default_factory=dict)
    mtu: int = 1500
    ip: str = "0.0.0.0"
    ipv6: bool = False
    icc: bool = True
    iptables: bool = True
    ip6tables: bool = True
    ip_forward: bool = True
    ip_forward_no_drop: bool = False
    ip_masq: bool = True
    allow_direct_routing: bool = False
    userland_proxy: bool = True
    port_mapper: str = "nat"  # or "proxy"; of networks that do not say
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    overlay_peers: str = ""  # a file
    host_gateway_ips: tuple[str, ...] = ()
    # daemon
    debug: bool = False
    experimental: bool = False
    features: dict[str, bool] = field(default_factory=dict)


def engine_id(data_root: str) -> str:
    """Return the id of the engine that owns a data root; made once, then kept."""
    path = os.path.join(data_root, "engine-id")
    try:
        with open(path, encoding="ascii") as f:
            found = f.read().strip()
        if found:
            return found
    except FileNotFoundError:
        pass
    made = str(uuid.uuid4())
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="ascii") as f:
        f.write(made)
        f.flush()
        os.fsync(f.fileno())
    os.rename(temporary, path)
    return made
