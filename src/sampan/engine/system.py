"""What the engine says about itself as a whole: `docker info` and `docker system df`.

It sees every service and belongs to none; whoever asks for these answers (the API, later the cluster) asks here.

Source: Engine API 1.51, SystemInfo and SystemDataUsage.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from sampan.engine import hostinfo
from sampan.engine.config import EngineConfig
from sampan.engine.containers.service import Containers
from sampan.engine.disk.service import Disk
from sampan.engine.events import Events
from sampan.engine.images.service import Images
from sampan.engine.networks.service import Networks
from sampan.engine.volumes.service import Volumes
from sampan.errors import InvalidArgument
from sampan.spec import release, times
from sampan.spec.urls import masked
from sampan.supervisor.logs import drivers as log_drivers

if TYPE_CHECKING:
    from sampan.engine.builder.service import Builder  # an engine that never builds does without its modules

DISK_USAGE_TYPES = frozenset({"container", "image", "volume", "build-cache"})
_NO_SWARM = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}


class System:
    """The engine as a whole."""

    def __init__(
        self,
        config: EngineConfig,
        id: str,
        events: Events,
        images: Images,
        containers: Containers,
        networks: Networks,
        volumes: Volumes,
        disk: Disk,
        builder: Callable[[], Builder],
    ) -> None:
        self._config = config
        self._id = id
        self._events = events
        self._images = images
        self._containers = containers
        self._networks = networks
        self._volumes = volumes
        self._disk = disk
        self._builder = builder  # made when it is first asked for

    def reconfigure(self, config: EngineConfig) -> None:
        """Show new values from now on (SIGHUP)."""
        self._config = config

    async def info(self) -> dict[str, Any]:
        """Describe the host, the configuration and what the engine holds right now: the JSON of SystemInfo."""
        config = self._config
        return {
            "ID": self._id,
            **self._containers.counts(),
            "Images": len(await self._images.list()),
            "Driver": self._images.driver.name,
            "DriverStatus": [
                ["Backing Filesystem", hostinfo.backing_filesystem(config.data_root)],
                *self._images.driver.status(),
            ],
            "Plugins": {
                "Volume": self._volumes.driver_names(),
                "Network": self._networks.driver_names(),
                "Authorization": None,
                "Log": [name for name in log_drivers.names() if name != "none"],
            },
            **hostinfo.limits(),
            **hostinfo.identity(),
            "IPv4Forwarding": hostinfo.ipv4_forwarding(),
            "NFd": hostinfo.open_descriptors(),
            "NGoroutines": len(asyncio.all_tasks()),
            "SystemTime": times.now(),
            "NEventsListener": self._events.listeners(),
            **_settings(config),
            "ServerVersion": release.ENGINE,
            "Swarm": _NO_SWARM,
            "Isolation": "",
            "ContainerdCommit": {"ID": ""},
            "RuncCommit": {"ID": ""},
            "InitCommit": {"ID": ""},
            "SecurityOptions": _security_options(config),
            "GenericResources": None,
            "Warnings": None,
        }

    async def disk_usage(self, wanted: Set[str] = DISK_USAGE_TYPES) -> dict[str, Any]:
        """Say what takes space: images, containers, volumes, build cache, and what else is in the data root.

        Sizes are what the disk holds, so that they add up to what `du` says of the data root; a volume of another
        file system has size 0. `DataRoot` is ours: the whole by another division, with what belongs to no object.

        wanted: of DISK_USAGE_TYPES. Raises: InvalidArgument.
        """
        for kind in wanted:
            if kind not in DISK_USAGE_TYPES:
                raise InvalidArgument(f"unknown object type: {kind}")
        answer: dict[str, Any] = {
            "LayersSize": 0,
            "Images": None,
            "Containers": None,
            "Volumes": None,
            "BuildCache": None,
        }
        used = await self._disk.usage()
        if "image" in wanted:
            answer["LayersSize"] = used.images
            answer["Images"] = await self._images.list(shared_size=True)
        if "container" in wanted:
            rows = await self._containers.list(all=True, size=True)
            answer["Containers"] = [{**row, "SizeRw": used.containers.get(row["Id"], 0)} for row in rows]
        if "volume" in wanted:
            volumes = await self._volumes.usage()
            for volume in volumes:
                volume["UsageData"]["Size"] = used.volumes.get(volume["Name"], 0)
            answer["Volumes"] = volumes
        if "build-cache" in wanted:
            answer["BuildCache"] = await self._builder().disk_usage()
        if wanted == DISK_USAGE_TYPES:
            answer["DataRoot"] = {
                "Path": self._config.data_root,
                "Total": used.total,
                "Images": used.images,
                "Containers": sum(used.containers.values()),
                "Logs": sum(used.logs.values()),
                "Volumes": sum(used.volumes.values()),
                "Builder": used.builder,
                "Trash": used.trash,
                "Engine": used.engine,
            }
        return answer


def _settings(config: EngineConfig) -> dict[str, Any]:
    """What is shown of the configuration."""
    return {
        "Debug": config.debug,
        "LoggingDriver": config.log_driver,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": _registry_config(config.registry_mirrors, config.insecure_registries),
        "DockerRootDir": config.data_root,
        "HttpProxy": masked(config.http_proxy),
        "HttpsProxy": masked(config.https_proxy),
        "NoProxy": config.no_proxy,
        "Labels": list(config.labels),
        "ExperimentalBuild": config.experimental,
        "Runtimes": _runtimes(config.runtimes),
        "DefaultRuntime": config.default_runtime,
        "LiveRestoreEnabled": config.live_restore,
        "InitBinary": config.init_path or "docker-init",
        "FirewallBackend": {"Driver": "nftables" if config.iptables else "none"},
        "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"],
        "Containerd": {
            "Address": os.path.join(config.exec_root, "supervisor.sock"),
            "Namespaces": {"Containers": "moby", "Plugins": "plugins.moby"},
        },
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
    mirrors = [f"{masked(mirror).rstrip('/')}/" for mirror in mirrors]  # as dockerd shows them
    index = {"docker.io": {"Mirrors": list(mirrors), "Name": "docker.io", "Official": True, "Secure": True}}
    for host in hosts:
        index[host] = {"Mirrors": [], "Name": host, "Official": False, "Secure": False}
    return {
        "IndexConfigs": index,
        "InsecureRegistryCIDRs": sorted(cidrs, key=lambda c: (":" not in c, c)),
        "Mirrors": list(mirrors) or None,
    }
