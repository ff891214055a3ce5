"""The flags that `create` and `run` share. Declared as documented; see `cli/flags.py` for how this text is read."""

from __future__ import annotations

from sampan.cli import values
from sampan.cli.container import addresses, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FLAGS = """
      --add-host list                    Add a line to /etc/hosts (host:ip)
      --annotation map                   Add an annotation, handed on to the OCI runtime (default map[])
  -a, --attach list                      Attach to STDIN, STDOUT or STDERR
      --blkio-weight uint16              Relative block IO weight between 10 and 1000; 0 disables it (default 0)
      --blkio-weight-device list         Block IO weight relative to other users of a device (default [])
      --cap-add list                     Add Linux capabilities
      --cap-drop list                    Drop Linux capabilities
      --cgroup-parent string             Parent cgroup of the container
      --cgroupns string                  Cgroup namespace to use (host|private)
                                         'host':    the host's own
                                         'private': one of the container's own
                                         '':        what the engine's default-cgroupns-mode says (default)
      --cidfile string                   Write the container's ID to this file
    ! --cpu-count int                    Number of CPUs (Windows only)
    ! --cpu-percent int                  Percentage of CPU (Windows only)
      --cpu-period int                   CFS period of the CPU limit, in microseconds
      --cpu-quota int                    CFS quota of the CPU limit, in microseconds
      --cpu-rt-period int                Real-time period in microseconds
      --cpu-rt-runtime int               Real-time runtime in microseconds
  -c, --cpu-shares int                   Relative CPU weight
      --cpus decimal                     Number of CPUs
      --cpuset-cpus string               CPUs that may be used (0-3, 0,1)
      --cpuset-mems string               Memory nodes that may be used (0-3, 0,1)
      --device list                      Add a device of the host
      --device-cgroup-rule list          Add a rule to the list of allowed devices
      --device-read-bps list             Limit reading from a device, in bytes per second (default [])
      --device-read-iops list            Limit reading from a device, in operations per second (default [])
      --device-write-bps list            Limit writing to a device, in bytes per second (default [])
      --device-write-iops list           Limit writing to a device, in operations per second (default [])
      --disable-content-trust            Skip verification of image signatures (default true)
      --dns list                         Set DNS servers
      --dns-option list                  Set DNS options
    ! --dns-opt list                     = dns-option
      --dns-search list                  Set DNS search domains
      --domainname string                NIS domain name of the container
      --entrypoint string                Replace the image's ENTRYPOINT
  -e, --env list                         Set environment variables
      --env-file list                    Read environment variables from a file
      --expose list                      Expose a port or a range of ports
      --gpus gpu-request                 GPU devices to add ('all' for all of them)
      --group-add list                   Add supplementary groups
      --health-cmd string                Command that checks the container's health
      --health-interval duration         Time between two checks (ms|s|m|h) (default 0s)
      --health-retries int               Failures in a row that make the container unhealthy
      --health-start-interval duration   Time between two checks while it starts (ms|s|m|h) (default 0s)
      --health-start-period duration     Time to start, in which failures do not count (ms|s|m|h) (default 0s)
      --health-timeout duration          Longest time one check may take (ms|s|m|h) (default 0s)
      --help                             Print usage
  -h, --hostname string                  Host name of the container
      --init                             Run an init as PID 1 that forwards signals and reaps processes
  -i, --interactive                      Keep STDIN open even if not attached
    ! --io-maxbandwidth bytes            IO bandwidth limit of the system drive (Windows only)
    ! --io-maxiops uint                  IOps limit of the system drive (Windows only)
      --ip string                        IPv4 address (e.g., 172.30.100.104)
      --ip6 string                       IPv6 address (e.g., 2001:db8::33)
      --ipc string                       IPC mode
      --isolation string                 Isolation technology
      --kernel-memory bytes              Kernel memory limit
  -l, --label list                       Set labels
      --label-file list                  Read labels from a file, one a line
      --link list                        Link to another container
      --link-local-ip list               Link-local addresses of the container
      --log-driver string                Logging driver
      --log-opt list                     Options of the logging driver
      --mac-address string               MAC address (e.g., 92:d0:c6:0a:29:33)
  -m, --memory bytes                     Memory limit
      --memory-reservation bytes         Soft memory limit
      --memory-swap bytes                Limit of memory and swap together: '-1' for unlimited swap
      --memory-swappiness int            Memory swappiness (0 to 100) (default -1)
      --mount mount                      Attach a filesystem mount
      --name string                      Name of the container
      --network network                  Network to connect to
    ! --net network                      = network
      --network-alias list               Another name in the network
    ! --net-alias list                   = network-alias
      --no-healthcheck                   Disable the image's HEALTHCHECK
      --oom-kill-disable                 Do not kill the container when it runs out of memory
      --oom-score-adj int                OOM score adjustment on the host (-1000 to 1000)
      --pid string                       PID namespace to use
      --pids-limit int                   Limit of processes (-1 for unlimited)
      --platform string                  Platform of the image, where the engine has several
      --privileged                       Give the container extended privileges
  -p, --publish list                     Publish ports on the host
  -P, --publish-all                      Publish all exposed ports on random ports
      --pull string                      When to pull the image ("always", "missing", "never") (default "missing")
  -q, --quiet                            Do not show the pull
      --read-only                        Mount the root filesystem read-only
      --restart string                   What to do when the container exits (default "no")
      --rm                               Remove the container and its anonymous volumes when it exits
      --runtime string                   OCI runtime to use
      --security-opt list                Security options
      --shm-size bytes                   Size of /dev/shm
      --stop-signal string               Signal that stops the container
      --stop-timeout int                 Seconds to wait after the stop signal
      --storage-opt list                 Options of the storage driver
      --sysctl map                       Kernel parameters of its namespaces (default map[])
      --tmpfs list                       Mount a tmpfs at this directory
  -t, --tty                              Allocate a pseudo-TTY
      --ulimit ulimit                    Resource limits (default [])
      --use-api-socket                   Mount the engine's API socket and the registry credentials
  -u, --user string                      User name or UID (format: <name|uid>[:<group|gid>])
      --userns string                    User namespace to use
      --uts string                       UTS namespace to use
  -v, --volume list                      Bind mount a volume
      --volume-driver string             Volume driver
      --volumes-from list                Mount the volumes of these containers
  -w, --workdir string                   Working directory inside the container
"""


def _attach(text: str) -> str:
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def env(text: str) -> str:
    if not text or text.startswith("="):
        raise ValueError(f"invalid environment variable: {text}")
    return text


def _label(text: str) -> str:
    if not text or text.startswith("="):
        raise ValueError(f"invalid label '{text}': empty name")
    return text


def _sysctl(text: str) -> str:
    name, separator, _ = text.partition("=")
    known = name.startswith(("net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm"))
    if not separator or not known:
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


def ulimit(text: str) -> dict[str, object]:
    """`nofile=1024[:2048]` → {"Name", "Soft", "Hard"}."""
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
    number = int(weight) if weight.isdigit() else -1
    if number != 0 and not 10 <= number <= 1000:
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": number}


def _gpus(text: str) -> dict[str, Any]:
    if text == "all" or text.isdigit():
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
        key, _, value = field.partition("=")
        if key == "driver":
            request["Driver"] = value
        elif key == "count":
            request["Count"] = -1 if value == "all" else values.integer(value)
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


_BYTES = "The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
_COUNT = "The correct format is <device-path>:<number>. Number must be a positive integer"

PARSERS: dict[str, Callable[[str], Any]] = {
    "add-host": addresses.extra_host,
    "attach": _attach,
    "blkio-weight-device": _weight,
    "device-read-bps": _throttle(values.size_bytes, _BYTES),
    "device-write-bps": _throttle(values.size_bytes, _BYTES),
    "device-read-iops": _throttle(values.unsigned, _COUNT),
    "device-write-iops": _throttle(values.unsigned, _COUNT),
    "device-cgroup-rule": addresses.device_rule,
    "dns": addresses.ip,
    "dns-search": addresses.dns_search,
    "env": env,
    "gpus": _gpus,
    "label": _label,
    "link": addresses.link,
    "memory-swap": values.size_or_unlimited,
    "mount": mounts.parse_mount,
    "network": addresses.network,
    "sysctl": _sysctl,
    "ulimit": ulimit,
}
