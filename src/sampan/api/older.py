"""What an older client may send, beside routes.py: each request is brought to what the newest version means by it.

A field that a version does not know is dropped, one whose default has
changed gets the default of that version, and what it must not ask for is refused.

    below   field                                        then
    1.25    HostConfig.AutoRemove                        dropped: such a client removes the container itself
    1.30    condition of wait                            dropped
    1.40    HostConfig.IpcMode left open                 shareable
    1.40    HostConfig.KernelMemoryTCP                   dropped
    1.40    Mounts[].BindOptions.NonRecursive            dropped
    1.40    PidsLimit of update                          dropped
    1.41    HostConfig.CgroupnsMode left open            host
    1.41    platform of create                           dropped
    1.42    HostConfig.ConsoleSize                       dropped
    1.42    Mounts[].BindOptions.CreateMountpoint        dropped
    1.42    KernelMemory                                 at least 6 MB; from 1.42 on it is dropped instead
    1.43    HostConfig.Annotations                       dropped
    1.44    Healthcheck.StartInterval                    dropped
    1.44    more than one endpoint at create             refused
    1.44    Mounts[].BindOptions.ReadOnlyForceRecursive  refused
    1.45    Mounts[].VolumeOptions.Subpath               refused
    1.48    Mounts[] of an image                         refused
    1.32    platform of a pull or a build                dropped
    1.40    outputs of a build                           dropped
    1.41    one-shot of stats                            dropped
    1.42    ClusterVolumeSpec of a volume                dropped
    1.42    type of the disk usage                       dropped: all is told
    1.48    EnableIPv4 of a network                      true
    1.48    bounds of a build prune                      dropped, but keep-storage

What answers have more or less of, where the views do not see to it:

    below   answer                                       then
    1.28    networks                                     with the containers of each
    1.42    disk usage                                   BuilderSize
    1.42    info                                         KernelMemory
    1.44    disk usage                                   VirtualSize of an image
    1.45    Aliases of a container                       its short id and hostname, on networks of a user's
    1.47    info                                         AllowNondistributableArtifacts… of RegistryConfig
    1.46    info                                         no Containerd
    1.49    info                                         Expected of each commit, no FirewallBackend
    1.50    info                                         BridgeNfIptables, BridgeNfIp6tables

Source: the version history of the Engine API; the answers of Docker Engine 28.5.2 at each version.
"""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec.structs import replace

from sampan.api.versions import Version
from sampan.errors import InvalidArgument
from sampan.spec.engine_api.container import ContainerConfig, CreateRequest, HostConfig, Resources, UpdateConfig
from sampan.spec.engine_api.network import NetworkCreateRequest
from sampan.spec.engine_api.volume import VolumeCreate

MIN_KERNEL_MEMORY_BYTES = 6 * 1024 * 1024

_NOT_A_USERS = frozenset({"bridge", "default", "host", "none"})  # nor `container:…`, which has no endpoint

R = TypeVar("R", bound=Resources)
Object = dict[str, Any]


def create(asked: CreateRequest, version: Version) -> CreateRequest:
    """Return the body of a create as the newest version means it. Raises: InvalidArgument in Docker's words."""
    config, host, networking = asked.config, asked.host_config, asked.networking_config
    if version < (1, 44) and networking is not None and len(endpoints := networking.endpoints_config or {}) > 1:
        names = ", ".join(sorted(endpoints))
        raise InvalidArgument(f"Container cannot be created with multiple network endpoints: {names}")
    return replace(
        asked,
        config=_config(config, version) if config is not None else None,
        host_config=_host(host or HostConfig(), version),
    )


def update(asked: UpdateConfig, version: Version) -> UpdateConfig:
    """Return the body of an update as the newest version means it. Raises: InvalidArgument."""
    asked = _kernel_memory(asked, version)
    return replace(asked, pids_limit=None) if version < (1, 40) else asked


def platform(text: str, version: Version) -> str:
    """Return create's `platform`."""
    return text if version >= (1, 41) else ""


def wait_condition(text: str, version: Version) -> str:
    """Return wait's `condition`."""
    return text if version >= (1, 30) else ""


def network(asked: NetworkCreateRequest, version: Version) -> NetworkCreateRequest:
    """Return the body of a network's create as the newest version means it."""
    return replace(asked, enable_ipv4=None) if version < (1, 48) else asked


def volume(asked: VolumeCreate, version: Version) -> VolumeCreate:
    """Return the body of a volume's create as the newest version means it."""
    return replace(asked, cluster_volume_spec=None) if version < (1, 42) else asked


def parameter(text: str, version: Version, since: Version) -> str:
    """Return a parameter that versions below `since` do not know."""
    return text if version >= since else ""


def container(shown: Object, version: Version) -> Object:
    """Return what inspect shows of a container in the words of a version."""
    if version < (1, 45):
        names = [shown["Id"][:12], shown["Config"]["Hostname"]]
        for name, endpoint in shown["NetworkSettings"]["Networks"].items():
            if name not in _NOT_A_USERS:
                endpoint["Aliases"] = list(dict.fromkeys([*(endpoint["Aliases"] or ()), *names]))
    return shown


def info(shown: Object, version: Version) -> Object:
    """Return the description of the engine in the words of a version."""
    if version < (1, 50):
        shown["BridgeNfIptables"] = shown["BridgeNfIp6tables"] = False
    if version < (1, 49):
        shown.pop("FirewallBackend", None)
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            if shown[name]["ID"]:
                shown[name] = {**shown[name], "Expected": shown[name]["ID"]}
    if version < (1, 47):
        shown["RegistryConfig"] = {
            "AllowNondistributableArtifactsCIDRs": None,
            "AllowNondistributableArtifactsHostnames": None,
            **shown["RegistryConfig"],
        }
    if version < (1, 46):
        shown.pop("Containerd", None)
    if version < (1, 44):
        shown["Runtimes"] = {
            name: {key: value for key, value in runtime.items() if key != "status"}
            for name, runtime in shown["Runtimes"].items()
        }
    if version < (1, 42):
        shown["KernelMemory"] = True
    return shown


def disk_usage(shown: Object, version: Version) -> Object:
    """Return the disk usage in the words of a version."""
    if version < (1, 44):
        for image in shown["Images"] or ():
            image["VirtualSize"] = image["Size"]
    if version < (1, 42):
        shown["BuilderSize"] = sum(row["Size"] for row in shown["BuildCache"])
    return shown


def _config(config: ContainerConfig, version: Version) -> ContainerConfig:
    check = config.healthcheck
    if version < (1, 44) and check is not None and check.start_interval:
        return replace(config, healthcheck=replace(check, start_interval=0))
    return config


def _host(host: HostConfig, version: Version) -> HostConfig:
    host = _kernel_memory(host, version)
    _check_mounts(host, version)
    if version < (1, 44):
        host = _before_144(host, version)
    return host


def _before_144(host: HostConfig, version: Version) -> HostConfig:
    if version < (1, 43):
        host = replace(host, annotations=None)
    if version < (1, 42):
        host = replace(host, console_size=(0, 0))
    if version < (1, 41) and not host.cgroupns_mode:
        host = replace(host, cgroupns_mode="host")
    if version < (1, 40):
        host = replace(host, kernel_memory_tcp=0, ipc_mode=host.ipc_mode or "shareable")
    if version < (1, 25):
        host = replace(host, auto_remove=False)
    if version < (1, 42) and host.mounts:
        mounts = []
        for mount in host.mounts:
            if (options := mount.bind_options) is not None:
                non_recursive = options.non_recursive and version >= (1, 40)
                options = replace(options, create_mountpoint=False, non_recursive=non_recursive)
            mounts.append(replace(mount, bind_options=options))
        host = replace(host, mounts=mounts)
    return host


def _check_mounts(host: HostConfig, version: Version) -> None:
    for mount in host.mounts or ():
        bind, volume = mount.bind_options, mount.volume_options
        if version < (1, 44) and bind is not None and bind.read_only_force_recursive:
            raise InvalidArgument("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
        if version < (1, 45) and volume is not None and volume.subpath:
            raise InvalidArgument("VolumeOptions.Subpath needs API v1.45 or newer")
        if version < (1, 48) and mount.type == "image":
            raise InvalidArgument('Mount type "Image" needs API v1.48 or newer')


def _kernel_memory(resources: R, version: Version) -> R:
    if version >= (1, 42):
        return replace(resources, kernel_memory=0) if resources.kernel_memory else resources
    if 0 < resources.kernel_memory < MIN_KERNEL_MEMORY_BYTES:
        raise InvalidArgument("Minimum kernel memory limit allowed is 6MB")
    return resources
