"""The flags that `create` and `run` share. Declared as documented; see `cli/flags.py` for how this text is read."""

from __future__ import annotations

from sampan.cli import values
from sampan.cli.container import addresses, mounts, resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

OWN_FLAGS = """
      --add-host list                    Add a line to /etc/hosts (host:ip)
      --annotation map                   Add an annotation, handed on to the OCI runtime (default map[])
  -a, --attach list                      Attach to STDIN, STDOUT or STDERR
      --cap-add list                     Add Linux capabilities
      --cap-drop list                    Drop Linux capabilities
      --cgroupns string                  Cgroup namespace to use (host|private)
                                         'host':    the host's own
                                         'private': one of the container's own
                                         '':        what the engine's default-cgroupns-mode says (default)
      --cidfile string                   Write the container's ID to this file
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
      --ip string                        IPv4 address (e.g., 172.30.100.104)
      --ip6 string                       IPv6 address (e.g., 2001:db8::33)
      --ipc string                       IPC mode
      --isolation string                 Isolation technology
  -l, --label list                       Set labels
      --label-file list                  Read labels from a file, one a line
      --link list                        Link to another container
      --link-local-ip list               Link-local addresses of the container
      --log-driver string                Logging driver
      --log-opt list                     Options of the logging driver
      --mac-address string               MAC address (e.g., 92:d0:c6:0a:29:33)
      --mount mount                      Attach a filesystem mount
      --name string                      Name of the container
      --network network                  Network to connect to
    ! --net network                      = network
      --network-alias list               Another name in the network
    ! --net-alias list                   = network-alias
      --no-healthcheck                   Disable the image's HEALTHCHECK
      --oom-score-adj int                OOM score adjustment on the host (-1000 to 1000)
      --pid string                       PID namespace to use
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


def _sysctl(text: str) -> str:
    name, separator, _ = text.partition("=")
    known = name.startswith(("net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm"))
    if not separator or not known:
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


FLAGS = OWN_FLAGS + resources.FLAGS + resources.CREATE_FLAGS

PARSERS: dict[str, Callable[[str], Any]] = {
    **resources.PARSERS,
    "add-host": addresses.extra_host,
    "attach": _attach,
    "dns": addresses.ip,
    "dns-search": addresses.dns_search,
    "env": values.env,
    "label": values.label,
    "link": addresses.link,
    "mount": mounts.parse_mount,
    "network": addresses.network,
    "sysctl": _sysctl,
}
