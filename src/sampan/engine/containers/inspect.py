"""A container as `GET /containers/{id}/json` shows it, and as `GET /containers/json` lists it. Pure.

Key order is Docker's: clients print what they get.

Source: Engine API 1.51, ContainerInspectResponse and ContainerSummary; answers of Docker Engine 28.5.
"""

from __future__ import annotations

import time
from typing import Any

from sampan.engine.containers.records import Container, MountPoint, rfc3339
from sampan.engine.containers.states import ACTIVE, State
from sampan.spec import codec

JSON = dict[str, Any]


def state(c: Container, health: JSON | None) -> JSON:
    """Return `State`."""
    s = c.status
    shown: JSON = {
        "Status": str(s.state.value),
        "Running": s.state in ACTIVE,
        "Paused": s.state is State.PAUSED,
        "Restarting": s.state is State.RESTARTING,
        "OOMKilled": s.oom_killed,
        "Dead": s.state is State.DEAD,
        "Pid": s.pid,
        "ExitCode": s.exit_status,
        "Error": s.error,
        "StartedAt": rfc3339(s.started_ns),
        "FinishedAt": rfc3339(s.finished_ns),
    }
    if health is not None:
        shown["Health"] = health
    return shown


def mount(m: MountPoint) -> JSON:
    """Return one entry of `Mounts`."""
    shown: JSON = {"Type": m.type}
    if m.name:
        shown["Name"] = m.name
    shown["Source"] = m.source
    shown["Destination"] = m.destination
    if m.type == "volume":
        shown["Driver"] = m.driver
    return shown | {"Mode": m.mode, "RW": m.rw, "Propagation": m.propagation}


def inspect(
    c: Container,
    *,
    directory: str,
    driver: str,
    graph: JSON,
    network_settings: JSON,
    exec_ids: list[str] | None,
    health: JSON | None,
    sizes: tuple[int, int] | None,
    image_manifest: JSON | None = None,
) -> JSON:
    """Return the whole description. directory: the container's own, where its hosts and log files are."""
    prepared = c.has_been_started
    log_path = f"{directory}/{c.id}-json.log" if prepared and c.host_config.log_config.type == "json-file" else ""
    shown: JSON = {
        "Id": c.id,
        "Created": rfc3339(c.created_ns),
        "Path": c.path,
        "Args": c.args,
        "State": state(c, health),
        "Image": c.image_id,
        "ResolvConfPath": f"{directory}/resolv.conf" if prepared else "",
        "HostnamePath": f"{directory}/hostname" if prepared else "",
        "HostsPath": f"{directory}/hosts" if prepared else "",
        "LogPath": log_path,
        "Name": "/" + c.name,
        "RestartCount": c.restart_count,
        "Driver": driver,
        "Platform": c.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": exec_ids,
        "HostConfig": codec.to_json(c.host_config),
        "GraphDriver": {"Data": graph, "Name": driver},
    }
    if sizes is not None:
        shown["SizeRw"], shown["SizeRootFs"] = sizes
    shown["Mounts"] = [mount(m) for m in c.mounts]
    shown["Config"] = codec.to_json(c.config)
    shown["NetworkSettings"] = network_settings
    if image_manifest is not None:
        shown["ImageManifestDescriptor"] = image_manifest
    return shown


def network_settings(endpoints: dict[str, JSON], ports: JSON, *, sandbox_id: str, sandbox_key: str) -> JSON:
    """Return `NetworkSettings`; the top-level addresses repeat the default bridge's endpoint."""
    main = endpoints.get("bridge", {})
    return {
        "Bridge": "",
        "SandboxID": sandbox_id,
        "SandboxKey": sandbox_key,
        "Ports": ports,
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": main.get("EndpointID", ""),
        "Gateway": main.get("Gateway", ""),
        "GlobalIPv6Address": main.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": main.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": main.get("IPAddress", ""),
        "IPPrefixLen": main.get("IPPrefixLen", 0),
        "IPv6Gateway": main.get("IPv6Gateway", ""),
        "MacAddress": main.get("MacAddress", "") if main.get("EndpointID") else "",
        "Networks": endpoints,
    }


def published(ports: dict[str, list[JSON] | None]) -> list[JSON]:
    """Return `Ports` of a list row, from those of NetworkSettings."""
    rows: list[JSON] = []
    for port in sorted(ports):
        number, _, protocol = port.partition("/")
        base = {"PrivatePort": int(number) if number.isdecimal() else 0, "Type": protocol or "tcp"}
        bindings = ports.get(port) or []
        if not bindings:
            rows.append(base)
        for b in bindings:
            rows.append(
                {
                    "IP": b["HostIp"],
                    "PrivatePort": base["PrivatePort"],
                    "PublicPort": int(b["HostPort"] or 0),
                    "Type": base["Type"],
                }
            )
    return rows


def command(c: Container) -> str:
    """Return the command line, quoted as Docker's `ps` shows it."""
    parts = [f"'{a}'" if " " in a else a for a in c.args]
    return " ".join([c.path, *parts])


def status_text(c: Container, health: str, now_ns: int | None = None) -> str:
    """Return `Status`: `Up 5 minutes (Paused)`, `Exited (0) 2 hours ago`, `Created` …"""
    now = time.time_ns() if now_ns is None else now_ns
    s = c.status
    if s.state in (State.RUNNING, State.PAUSED):
        up = f"Up {duration((now - s.started_ns) / 1e9)}"
        if s.state is State.PAUSED:
            return up + " (Paused)"
        if health in ("healthy", "unhealthy"):
            return f"{up} ({health})"
        return f"{up} (health: {health})" if health == "starting" else up
    if s.state is State.RESTARTING:
        return f"Restarting ({s.exit_status}) {duration((now - s.finished_ns) / 1e9)} ago"
    if s.state is State.REMOVING:
        return "Removal In Progress"
    if s.state is State.DEAD:
        return "Dead"
    if not s.started_ns:
        return "Created"
    if not s.finished_ns:
        return ""
    return f"Exited ({s.exit_status}) {duration((now - s.finished_ns) / 1e9)} ago"


def duration(seconds: float) -> str:
    """Write a duration in words, as Docker's clients print it."""
    s = int(seconds)
    if s < 1:
        return "Less than a second"
    if s == 1:
        return "1 second"
    if s < 60:
        return f"{s} seconds"
    minutes = s // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def row(
    c: Container, *, names: list[str], image: str, endpoints: dict[str, JSON], ports: list[JSON], health: str
) -> JSON:
    """Return one entry of the list; `Status` is computed by the caller's clock each time."""
    shown: JSON = {
        "Id": c.id,
        "Names": names,
        "Image": image,
        "ImageID": c.image_id,
        "Command": command(c),
        "Created": c.created_ns // 1_000_000_000,
        "Ports": ports,
        "Labels": c.config.labels or {},
        "State": str(c.status.state.value),
        "Status": status_text(c, health),
        "HostConfig": {"NetworkMode": c.host_config.network_mode},
        "NetworkSettings": {"Networks": endpoints},
        "Mounts": [mount(m) for m in c.mounts],
    }
    if c.host_config.annotations:
        shown["HostConfig"]["Annotations"] = c.host_config.annotations
    return shown
