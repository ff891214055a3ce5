"""What older versions of the API send, against what Docker Engine 28.5.2 made of it at each of them."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.api import older, routes
from sampan.errors import InvalidArgument
from sampan.spec import codec
from sampan.spec.engine_api.container import CreateRequest, HostConfig, UpdateConfig

MOUNT = {
    "Type": "bind",
    "Source": "/tmp",
    "Target": "/x",
    "BindOptions": {"CreateMountpoint": True, "NonRecursive": True, "ReadOnlyNonRecursive": True},
}
BODY = {
    "Image": "i",
    "Healthcheck": {"Test": ["NONE"], "StartInterval": 1_000_000_000},
    "HostConfig": {
        "AutoRemove": True,
        "ConsoleSize": [10, 20],
        "KernelMemory": 10485760,
        "KernelMemoryTCP": 10485760,
        "Annotations": {"a": "b"},
        "PidsLimit": 5,
        "IpcMode": "",
        "CgroupnsMode": "",
        "Mounts": [MOUNT],
    },
}


def created(version: tuple[int, int], body: dict[str, Any] = BODY) -> tuple[HostConfig, int]:
    asked = older.create(codec.convert(CreateRequest, body), version)
    assert asked.config is not None and asked.host_config is not None
    check = asked.config.healthcheck
    return asked.host_config, check.start_interval if check is not None else 0


# (IpcMode, CgroupnsMode, AutoRemove, ConsoleSize, KernelMemory, KernelMemoryTCP, Annotations) and (NonRecursive,
# CreateMountpoint); "" is what the engine settles later
RECORDED: dict[tuple[int, int], tuple[tuple[Any, ...], tuple[bool, bool], int]] = {
    (1, 24): (("shareable", "host", False, (0, 0), 10485760, 0, None), (False, False), 0),
    (1, 25): (("shareable", "host", True, (0, 0), 10485760, 0, None), (False, False), 0),
    (1, 39): (("shareable", "host", True, (0, 0), 10485760, 0, None), (False, False), 0),
    (1, 40): (("", "host", True, (0, 0), 10485760, 10485760, None), (True, False), 0),
    (1, 41): (("", "", True, (0, 0), 10485760, 10485760, None), (True, False), 0),
    (1, 42): (("", "", True, (10, 20), 0, 10485760, None), (True, True), 0),
    (1, 43): (("", "", True, (10, 20), 0, 10485760, {"a": "b"}), (True, True), 0),
    (1, 44): (("", "", True, (10, 20), 0, 10485760, {"a": "b"}), (True, True), 1_000_000_000),
    (1, 51): (("", "", True, (10, 20), 0, 10485760, {"a": "b"}), (True, True), 1_000_000_000),
}


@pytest.mark.parametrize("version", RECORDED)
def test_a_create_at_each_version(version: tuple[int, int]) -> None:
    h, start_interval = created(version)
    plain, bind, interval = RECORDED[version]
    assert (
        h.ipc_mode,
        h.cgroupns_mode,
        h.auto_remove,
        h.console_size,
        h.kernel_memory,
        h.kernel_memory_tcp,
        h.annotations,
    ) == plain
    assert h.mounts is not None and (options := h.mounts[0].bind_options) is not None
    assert (options.non_recursive, options.create_mountpoint) == bind and options.read_only_non_recursive
    assert (start_interval, h.pids_limit) == (interval, 5)


@pytest.mark.parametrize(
    ("since", "body", "message"),
    [
        (
            (1, 44),
            {"NetworkingConfig": {"EndpointsConfig": {"b": {}, "a": {}}}},
            "Container cannot be created with multiple network endpoints: a, b",
        ),
        (
            (1, 44),
            {"HostConfig": {"Mounts": [{**MOUNT, "BindOptions": {"ReadOnlyForceRecursive": True}}]}},
            "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
        ),
        (
            (1, 45),
            {"HostConfig": {"Mounts": [{"Type": "volume", "Target": "/x", "VolumeOptions": {"Subpath": "a"}}]}},
            "VolumeOptions.Subpath needs API v1.45 or newer",
        ),
        ((1, 42), {"HostConfig": {"KernelMemory": 1000}}, "Minimum kernel memory limit allowed is 6MB"),
    ],
)
def test_what_a_version_must_not_ask_for(since: tuple[int, int], body: dict[str, Any], message: str) -> None:
    created(since, {"Image": "i", **body})
    with pytest.raises(InvalidArgument) as refused:
        created((1, since[1] - 1), {"Image": "i", **body})
    assert refused.value.message == message


def test_parameters_and_updates() -> None:
    assert (older.platform("linux/arm64", (1, 40)), older.platform("linux/arm64", (1, 41))) == ("", "linux/arm64")
    assert (older.wait_condition("xx", (1, 29)), older.wait_condition("xx", (1, 30))) == ("", "xx")
    asked = UpdateConfig(pids_limit=3)
    assert older.update(asked, (1, 39)).pids_limit is None and older.update(asked, (1, 40)).pids_limit == 3
    with pytest.raises(InvalidArgument, match="Minimum kernel memory limit allowed is 6MB"):
        older.update(UpdateConfig(kernel_memory=1048576), (1, 41))
    assert older.update(UpdateConfig(kernel_memory=1048576), (1, 42)).kernel_memory == 0
    assert {name for _, _, name, *_ in routes.TABLE} >= {f"containers.{verb}" for verb in ("create", "update", "wait")}
