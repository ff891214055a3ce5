"""What a container may use: the flags of `create`, `run` and `update` for it, and the fields of the API that they fill.

`FLAGS` are the limits that can also be changed later; what only `create` and `run` take is in `CREATE_FLAGS`.

Source: docker/cli container/opts.go and update.go by behaviour; Engine API 1.51, Resources.
"""

from __future__ import annotations

from sampan.cli import values
from sampan.cli.container import addresses, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.cli.flags import FlagValues

FLAGS = """
      --blkio-weight uint16              Relative block IO weight between 10 and 1000; 0 disables it (default 0)
      --cpu-period int                   CFS period of the CPU limit, in microseconds
      --cpu-quota int                    CFS quota of the CPU limit, in microseconds
      --cpu-rt-period int                Real-time period in microseconds
      --cpu-rt-runtime int               Real-time runtime in microseconds
  -c, --cpu-shares int                   Relative CPU weight
      --cpus decimal                     Number of CPUs
      --cpuset-cpus string               CPUs that may be used (0-3, 0,1)
      --cpuset-mems string               Memory nodes that may be used (0-3, 0,1)
  -m, --memory bytes                     Memory limit
      --memory-reservation bytes         Soft memory limit
      --memory-swap bytes                Limit of memory and swap together: '-1' for unlimited swap
      --pids-limit int                   Limit of processes (-1 for unlimited)
"""
CREATE_FLAGS = """
      --blkio-weight-device list         Block IO weight relative to other users of a device (default [])
      --cgroup-parent string             Parent cgroup of the container
    ! --cpu-count int                    Number of CPUs (Windows only)
    ! --cpu-percent int                  Percentage of CPU (Windows only)
      --device list                      Add a device of the host
      --device-cgroup-rule list          Add a rule to the list of allowed devices
      --device-read-bps list             Limit reading from a device, in bytes per second (default [])
      --device-read-iops list            Limit reading from a device, in operations per second (default [])
      --device-write-bps list            Limit writing to a device, in bytes per second (default [])
      --device-write-iops list           Limit writing to a device, in operations per second (default [])
      --gpus gpu-request                 GPU devices to add ('all' for all of them)
    ! --io-maxbandwidth bytes            IO bandwidth limit of the system drive (Windows only)
    ! --io-maxiops uint                  IOps limit of the system drive (Windows only)
      --kernel-memory bytes              Kernel memory limit
      --memory-swappiness int            Memory swappiness (0 to 100) (default -1)
      --oom-kill-disable                 Do not kill the container when it runs out of memory
      --ulimit ulimit                    Resource limits (default [])
"""
_NUMBERS = {
    "BlkioWeight": "blkio-weight",
    "CpuPeriod": "cpu-period",
    "CpuQuota": "cpu-quota",
    "CpuRealtimePeriod": "cpu-rt-period",
    "CpuRealtimeRuntime": "cpu-rt-runtime",
    "CpuShares": "cpu-shares",
    "Memory": "memory",
    "MemoryReservation": "memory-reservation",
    "MemorySwap": "memory-swap",
    "NanoCpus": "cpus",
}
_BYTES = (
    "The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and "
    "can be kb, mb, or gb"
)
_COUNT = "The correct format is <device-path>:<number>. Number must be a positive integer"


def limits(opts: FlagValues) -> dict[str, Any]:
    """Return the limits of `FLAGS`; 0 and "" are none. `PidsLimit` is left to the caller: it tells 0 from not given."""
    return {
        **{field: opts.number(flag) for field, flag in _NUMBERS.items()},
        "CpusetCpus": opts.text("cpuset-cpus"),
        "CpusetMems": opts.text("cpuset-mems"),
    }


def requested(opts: FlagValues) -> dict[str, Any]:
    """Return all that a new container may use, as HostConfig holds it. Raises: ValueError in docker's words."""
    swappiness = opts.number("memory-swappiness")
    if swappiness != -1 and not 0 <= swappiness <= 100:
        raise ValueError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    return {
        **limits(opts),
        "CgroupParent": opts.text("cgroup-parent"),
        "BlkioWeightDevice": opts.value("blkio-weight-device"),
        "BlkioDeviceReadBps": opts.value("device-read-bps"),
        "BlkioDeviceWriteBps": opts.value("device-write-bps"),
        "BlkioDeviceReadIOps": opts.value("device-read-iops"),
        "BlkioDeviceWriteIOps": opts.value("device-write-iops"),
        "Devices": [mounts.parse_device(d) for d in opts.many("device") if not mounts.is_cdi(d)],
        "DeviceCgroupRules": opts.many("device-cgroup-rule") or None,
        "DeviceRequests": _device_requests(opts) or None,
        "MemorySwappiness": swappiness,
        "OomKillDisable": opts.flag("oom-kill-disable"),
        "PidsLimit": opts.number("pids-limit"),
        "Ulimits": opts.value("ulimit"),
        "CpuCount": opts.number("cpu-count"),
        "CpuPercent": opts.number("cpu-percent"),
        "IOMaximumIOps": opts.number("io-maxiops"),
        "IOMaximumBandwidth": opts.number("io-maxbandwidth"),
    }


def _device_requests(opts: FlagValues) -> list[dict[str, Any]]:
    """Return the requests for GPUs, and for devices that CDI names."""
    requests: list[dict[str, Any]] = list(opts.value("gpus"))
    if names := [d for d in opts.many("device") if mounts.is_cdi(d)]:
        requests.append({"Driver": "cdi", "Count": 0, "DeviceIDs": names, "Capabilities": None, "Options": None})
    return requests


def ulimit(text: str) -> dict[str, object]:
    """Read `nofile=1024[:2048]` → {"Name", "Soft", "Hard"}."""
    name, separator, limits = text.partition("=")
    if not separator:
        raise ValueError(f"invalid ulimit argument: {text}")
    names = "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
    if name not in names.split():
        raise ValueError(f"invalid ulimit type: {name}")
    numbers = limits.split(":")
    if len(numbers) > 2:
        raise ValueError(f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`")
    soft = values.integer(numbers[0])
    hard = values.integer(numbers[1]) if len(numbers) > 1 else soft
    if hard != -1 and (soft > hard or soft == -1):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {"Name": name, "Hard": hard, "Soft": soft}


def _throttle(parse: Callable[[str], int], wanted: str) -> Callable[[str], dict[str, object]]:
    def read(text: str) -> dict[str, object]:
        path, separator, rate = text.partition(":")
        if not separator or not path:
            raise ValueError(f"bad format: {text}")
        if not path.startswith("/dev/"):
            raise ValueError(f"bad format for device path: {text}")
        try:
            return {"Path": path, "Rate": parse(rate)}
        except ValueError:
            raise ValueError(f"invalid rate for device: {text}. {wanted}") from None

    return read


def _weight(text: str) -> dict[str, object]:
    path, separator, weight = text.partition(":")
    if not separator or not path:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    number = int(weight) if weight.isdecimal() else -1
    if number != 0 and not 10 <= number <= 1000:
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": number}


def _gpu_count(text: str) -> int:
    if text == "all":
        return -1
    try:
        return int(text)
    except ValueError:
        raise ValueError(f'invalid count ({text}): value must be either "all" or an integer: invalid syntax') from None


def _gpus(text: str) -> dict[str, Any]:
    if text == "all" or text.isdecimal():
        return {
            "Driver": "",
            "Count": -1 if text == "all" else int(text),
            "DeviceIDs": None,
            "Capabilities": [["gpu"]],
            "Options": {},
        }
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": None, "Options": {}}
    from sampan.spec import go_values

    for field in go_values.fields(text):
        key, equals, value = field.partition("=")
        if not equals:
            key, value = "count", key
        if key == "driver":
            request["Driver"] = value
        elif key == "count":
            request["Count"] = _gpu_count(value)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            request["Options"] = dict(item.partition("=")[::2] for item in value.split(","))
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    if request["Count"] == 0 and request["DeviceIDs"] is None:
        request["Count"] = 1
    request["Capabilities"] = request["Capabilities"] or [["gpu"]]
    return request


PARSERS: dict[str, Callable[[str], Any]] = {
    "blkio-weight-device": _weight,
    "device-cgroup-rule": addresses.device_rule,
    "device-read-bps": _throttle(values.size_bytes, _BYTES),
    "device-read-iops": _throttle(values.unsigned, _COUNT),
    "device-write-bps": _throttle(values.size_bytes, _BYTES),
    "device-write-iops": _throttle(values.unsigned, _COUNT),
    "gpus": _gpus,
    "memory-swap": values.size_or_unlimited,
    "ulimit": ulimit,
}
