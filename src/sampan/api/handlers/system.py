"""The engine as a whole: ping, version, info, disk usage, events, registry login.

Source: Engine API 1.51, tag System; moby 28.5 api/server/router/system.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiohttp import web

from sampan.api import hostinfo, streams, versions
from sampan.api.context import engine, filters, flag, json_response, parse_integer, query, version
from sampan.engine.config import EngineConfig
from sampan.errors import Internal, InvalidArgument
from sampan.registry.auth import Credentials
from sampan.registry.login import login
from sampan.spec import codec
from sampan.spec.engine_api.registry import AuthConfig

_PING_HEADERS = {
    "Builder-Version": "2",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Swarm": "inactive",
    "Content-Type": "text/plain; charset=utf-8",
}
_LOG_DRIVERS = ["json-file", "local"]
_DF_TYPES = frozenset({"container", "image", "volume", "build-cache"})
BUILD_TIME = "2026-11-23T00:00:00.000000000+00:00"


async def ping(request: web.Request) -> web.StreamResponse:
    """Say that the engine answers, and in the headers what it speaks."""
    return web.Response(body=b"" if request.method == "HEAD" else b"OK", headers=_PING_HEADERS)


async def version_info(request: web.Request) -> web.StreamResponse:
    """Describe the engine's version and its parts."""
    config = engine(request).config
    common = {
        "ApiVersion": versions.MAXIMUM,
        "Arch": hostinfo.go_arch(),
        "BuildTime": BUILD_TIME,
        "GitCommit": "",
        "GoVersion": "",
        "KernelVersion": os.uname().release,
        "MinAPIVersion": versions.MINIMUM,
        "Os": "linux",
    }
    details = {**common, "Experimental": "true" if config.experimental else "false"}
    parts = [{"Name": "Engine", "Version": versions.ENGINE, "Details": details}]
    for name in ("sampan-supervisor", "sampan-runc"):
        parts.append({"Name": name, "Version": versions.SAMPAN, "Details": {"GitCommit": ""}})
    python = ".".join(map(str, sys.version_info[:3]))
    parts.append({"Name": "python", "Version": python, "Details": {"GitCommit": ""}})
    answer: dict[str, Any] = {"Platform": {"Name": "Sampan"}, "Components": parts, "Version": versions.ENGINE, **common}
    if config.experimental:
        answer["Experimental"] = True
    return json_response(answer)


async def info(request: web.Request) -> web.StreamResponse:
    """Describe the host, the configuration and what the engine holds right now."""
    e = engine(request)
    config = e.config
    states = [c["State"] for c in await e.containers.list(all=True)]
    answer: dict[str, Any] = {
        "ID": e.id,
        "Containers": len(states),
        "ContainersRunning": sum(s in ("running", "restarting") for s in states),
        "ContainersPaused": states.count("paused"),
        "ContainersStopped": sum(s not in ("running", "restarting", "paused") for s in states),
        "Images": len(await e.images.list()),
        "Driver": e.images.driver.name,
        "DriverStatus": [
            ["Backing Filesystem", hostinfo.backing_filesystem(config.data_root)],
            *e.images.driver.status(),
        ],
        "Plugins": {
            "Volume": e.volumes.driver_names(),
            "Network": ["bridge", "host", "null"],
            "Authorization": None,
            "Log": _LOG_DRIVERS,
        },
        **hostinfo.limits(),
        **hostinfo.identity(),
        "IPv4Forwarding": hostinfo.ipv4_forwarding(),
        "Debug": config.debug,
        "NFd": hostinfo.open_descriptors(),
        "NGoroutines": len(asyncio.all_tasks()),
        "SystemTime": hostinfo.now_rfc3339nano(),
        "LoggingDriver": config.log_driver,
        "NEventsListener": e.events.listeners(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": _registry_config(config.registry_mirrors, config.insecure_registries),
        "GenericResources": None,
        "DockerRootDir": config.data_root,
        "HttpProxy": os.environ.get("HTTP_PROXY", ""),
        "HttpsProxy": os.environ.get("HTTPS_PROXY", ""),
        "NoProxy": os.environ.get("NO_PROXY", ""),
        "Labels": list(config.labels),
        "ExperimentalBuild": config.experimental,
        "ServerVersion": versions.ENGINE,
        "Runtimes": _runtimes(config.runtimes),
        "DefaultRuntime": config.default_runtime,
        "Swarm": _NO_SWARM,
        "LiveRestoreEnabled": config.live_restore,
        "Isolation": "",
        "InitBinary": config.init_path or "docker-init",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": _security_options(config),
        "FirewallBackend": {"Driver": "nftables" if config.iptables else "none"},
        "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"],
        "Containerd": {
            "Address": os.path.join(config.exec_root, "supervisor.sock"),
            "Namespaces": {"Containers": "moby", "Plugins": "plugins.moby"},
        },
        "Warnings": None,
    }
    return json_response(answer)


_NO_SWARM = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}


def _runtimes(configured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """List our own runtime, under the name clients expect, and those of the configuration."""
    found: dict[str, Any] = {"runc": {"path": "sampan-runc"}}
    for name, runtime in configured.items():
        found[name] = {"path": runtime.get("path", name)}
        if runtime.get("runtimeArgs"):
            found[name]["runtimeArgs"] = list(runtime["runtimeArgs"])
    return found


def _security_options(config: EngineConfig) -> list[str]:
    profile = config.seccomp_profile if config.seccomp_profile not in ("", "default") else "builtin"
    options = [f"name=seccomp,profile={profile}"]
    if os.path.exists("/sys/module/apparmor/parameters/enabled"):
        with open("/sys/module/apparmor/parameters/enabled", encoding="ascii") as f:
            if f.read(1) == "Y":
                options.insert(0, "name=apparmor")
    if config.no_new_privileges:
        options.append("name=no-new-privileges")
    if hostinfo.limits()["CgroupVersion"] == "2":
        options.append("name=cgroupns")
    return options


def _registry_config(mirrors: Sequence[str], insecure: Sequence[str]) -> dict[str, Any]:
    """Describe which registries are trusted how: CIDRs apart from names, the loopback always insecure."""
    cidrs, hosts = {"::1/128", "127.0.0.0/8"}, []
    for entry in insecure:
        try:
            cidrs.add(str(ipaddress.ip_network(entry)))
        except ValueError:
            hosts.append(entry.removeprefix("http://").removeprefix("https://"))
    # "docker.io" is Docker's name for its default index; it is a name in the answer, not an address that is used here.
    mirrors = [f"{mirror.rstrip('/')}/" for mirror in mirrors]  # as dockerd shows them
    index = {"docker.io": {"Mirrors": list(mirrors), "Name": "docker.io", "Official": True, "Secure": True}}
    for host in hosts:
        index[host] = {"Mirrors": [], "Name": host, "Official": False, "Secure": False}
    return {
        "IndexConfigs": index,
        "InsecureRegistryCIDRs": sorted(cidrs, key=lambda c: (":" not in c, c)),
        "Mirrors": list(mirrors) or None,
    }


async def disk_usage(request: web.Request) -> web.StreamResponse:
    """Say what takes space: images, containers with their logs, volumes, build cache, and what else is in the data root.

    Sizes are what the disk holds, so that they add up to what `du` says of the data root; a volume of another
    file system has size 0. `DataRoot` is ours: the same by another division, and what belongs to no object.
    """
    wanted = set(request.query.getall("type", [])) or set(_DF_TYPES)
    for kind in wanted:
        if kind not in _DF_TYPES:
            raise InvalidArgument(f"unknown object type: {kind}")
    e = engine(request)
    answer: dict[str, Any] = {}
    used = await e.disk.usage()
    if "image" in wanted:
        answer["LayersSize"] = used.images
        answer["Images"] = await e.images.list(shared_size=True)
    if "container" in wanted:
        rows = await e.containers.list(all=True, size=True)
        answer["Containers"] = [{**row, "SizeRw": used.containers.get(row["Id"], 0)} for row in rows]
    if "volume" in wanted:
        volumes = await e.volumes.usage()
        for volume in volumes:
            volume["UsageData"]["Size"] = used.volumes.get(volume["Name"], 0)
        answer["Volumes"] = volumes
    if "build-cache" in wanted:
        answer["BuildCache"] = await e.builder.disk_usage()
    if wanted == _DF_TYPES:
        if version(request) < (1, 42):
            answer["BuilderSize"] = sum(row["Size"] for row in answer["BuildCache"])
        answer["DataRoot"] = {
            "Path": e.config.data_root,
            "Total": used.total,
            "Images": used.images,
            "Containers": sum(used.containers.values()),
            "Logs": sum(used.logs.values()),
            "Volumes": sum(used.volumes.values()),
            "Builder": used.builder,
            "Trash": used.trash,
            "Engine": used.engine,
        }
    return json_response(answer)


async def fsck(request: web.Request) -> web.StreamResponse:
    """Compare the records with the data root; with repair=1 take away what nothing needs, with verify=1 read all layers.

    Ours, not Docker's.
    """
    found = await engine(request).disk.fsck(repair=flag(request, "repair"), verify=flag(request, "verify"))
    return json_response({"Findings": found})


def timestamp_ns(text: str) -> int | None:
    """Read `since` and `until` of /events and /logs: seconds since the epoch, with up to nine decimals. "" is None.

    Raises: Internal in strconv's words.
    """
    if not text:
        return None
    whole, dot, fraction = text.partition(".")
    seconds = parse_integer(whole)
    nanos = parse_integer((fraction + "0" * 9)[:9]) if dot else 0
    return seconds * 1_000_000_000 + nanos


async def events(request: web.Request) -> web.StreamResponse:
    """Stream what happens: from `since` on, until `until`, or until the client hangs up."""
    since, until = query(request, "since"), query(request, "until")
    since_ns, until_ns = timestamp_ns(since), timestamp_ns(until)
    if since_ns is not None and until_ns is not None and since_ns > until_ns:
        raise InvalidArgument(f"`since` time ({since}) cannot be after `until` time ({until})")
    subscription = engine(request).events.subscribe(since_ns=since_ns, until_ns=until_ns, filters=filters(request))

    async def lines() -> AsyncIterator[bytes]:
        async with subscription:
            async for event in subscription:
                yield codec.encode(event)

    return await streams.raw(request, lines(), content_type="application/json", eager=True)


async def auth(request: web.Request) -> web.StreamResponse:
    """Try credentials on a registry."""
    raw = await request.read()
    if not raw:
        raise Internal("EOF")
    try:
        credentials = codec.convert(AuthConfig, codec.parse(raw))
    except ValueError as e:
        raise Internal(str(e)) from None
    registries = engine(request).images.registries
    status, token = await login(
        registries.transport,
        registries.settings,
        credentials.serveraddress,
        Credentials(
            username=credentials.username, password=credentials.password, identity_token=credentials.identitytoken
        ),
    )
    return json_response({"Status": status, "IdentityToken": token})
