"""From parsed flags to the body of `POST /containers/create`. Pure, but for the files that flags name.

Docker's client sends every field, set or not; the same fields are sent here, so that `inspect` shows the same
container whichever client made it. Bad combinations raise ValueError in docker's words, before anything is sent.

Source: docker/cli container/opts.go by behaviour; Engine API 1.51, ContainerCreate.
"""

from __future__ import annotations

from sampan.cli.container import addresses, environment, mounts, resources
from sampan.client import jsontext
from sampan.errors import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues


def build(opts: FlagValues, image: str, command: list[str], *, detach: bool = False) -> dict[str, Any]:
    """Return the whole request body. Raises: ValueError."""
    bindings = addresses.ports(opts.many("publish"))
    body = _container(opts, image, command, bindings, detach=detach)
    body["HostConfig"] = _host(opts, bindings)
    body["NetworkingConfig"] = {"EndpointsConfig": _endpoints(opts)}
    return body


def _container(
    opts: FlagValues, image: str, command: list[str], bindings: dict[str, Any], *, detach: bool
) -> dict[str, Any]:
    attach = opts.many("attach")
    interactive = opts.flag("interactive")
    attach_stdin = "stdin" in attach or (not attach and interactive)
    entrypoint: list[str] | None = None
    if opts.changed("entrypoint"):
        entrypoint = [opts.text("entrypoint")]  # [""] clears the image's
    body: dict[str, Any] = {
        "Hostname": opts.text("hostname"),
        "Domainname": opts.text("domainname"),
        "User": opts.text("user"),
        "AttachStdin": attach_stdin and not detach,
        "AttachStdout": ("stdout" in attach or not attach) and not detach,
        "AttachStderr": ("stderr" in attach or not attach) and not detach,
        "Tty": opts.flag("tty"),
        "OpenStdin": interactive,
        "StdinOnce": interactive and attach_stdin and not detach,
        "Env": environment.of(opts) or None,
        "Cmd": command or None,
        "Image": image,
        "Volumes": {v: {} for v in opts.many("volume") if mounts.bind(v) is None},
        "WorkingDir": opts.text("workdir"),
        "Entrypoint": entrypoint,
        "OnBuild": None,
        "Labels": _labels(opts),
    }
    ports = [*bindings, *(p for p in addresses.exposed(opts.many("expose")) if p not in bindings)]
    if ports:
        body["ExposedPorts"] = {port: {} for port in ports}
    if opts.text("stop-signal"):
        body["StopSignal"] = opts.text("stop-signal")
    if opts.changed("stop-timeout"):
        body["StopTimeout"] = opts.number("stop-timeout")
    if (check := _healthcheck(opts)) is not None:
        body["Healthcheck"] = check
    return body


def _host(opts: FlagValues, bindings: dict[str, Any]) -> dict[str, Any]:
    restart = restart_policy(opts.text("restart"))
    if opts.flag("rm") and restart["Name"] not in ("", "no"):
        raise ValueError("conflicting options: cannot specify both --restart and --rm")
    security, masked = _security(opts.many("security-opt"))
    host: dict[str, Any] = {
        "Binds": [b for b in map(mounts.bind, opts.many("volume")) if b is not None] or None,
        "ContainerIDFile": opts.text("cidfile"),
        "LogConfig": _log(opts),
        "NetworkMode": opts.value("network")[0]["Target"] if opts.value("network") else "default",
        "PortBindings": bindings,
        "RestartPolicy": restart,
        "AutoRemove": opts.flag("rm"),
        "VolumeDriver": opts.text("volume-driver"),
        "VolumesFrom": opts.many("volumes-from") or None,
        "ConsoleSize": [0, 0],
        "CapAdd": capabilities(opts.many("cap-add")),
        "CapDrop": capabilities(opts.many("cap-drop")),
        "CgroupnsMode": _mode(opts, "cgroupns", ("", "private", "host"), "CGROUP"),
        "Dns": opts.many("dns"),
        "DnsOptions": opts.many("dns-option"),
        "DnsSearch": opts.many("dns-search"),
        "ExtraHosts": opts.many("add-host") or None,
        "GroupAdd": opts.many("group-add") or None,
        "IpcMode": opts.text("ipc"),
        "Cgroup": "",
        "Links": opts.many("link") or None,
        "OomScoreAdj": opts.number("oom-score-adj"),
        "PidMode": _mode(opts, "pid", ("", "host"), "PID", container=True),
        "Privileged": opts.flag("privileged"),
        "PublishAllPorts": opts.flag("publish-all"),
        "ReadonlyRootfs": opts.flag("read-only"),
        "SecurityOpt": security or None,
        "UTSMode": _mode(opts, "uts", ("", "host"), "UTS"),
        "UsernsMode": _mode(opts, "userns", ("", "host"), "USER"),
        "ShmSize": opts.number("shm-size"),
        "Isolation": opts.text("isolation"),
        **resources.requested(opts),
        "MaskedPaths": [] if masked else None,
        "ReadonlyPaths": [] if masked else None,
    }
    if opts.many("storage-opt"):
        host["StorageOpt"] = _pairs(opts.many("storage-opt"), "invalid storage option")
    if opts.many("tmpfs"):
        host["Tmpfs"] = {path: rest for path, _, rest in (t.partition(":") for t in opts.many("tmpfs"))}
    if opts.many("sysctl"):
        host["Sysctls"] = opts.mapping("sysctl")
    if opts.many("annotation"):
        host["Annotations"] = opts.mapping("annotation")
    if opts.text("runtime"):
        host["Runtime"] = opts.text("runtime")
    if opts.value("mount"):
        host["Mounts"] = opts.value("mount")
    if opts.changed("init"):
        host["Init"] = opts.flag("init")
    if opts.flag("use-api-socket"):
        host.setdefault("Mounts", []).append(
            {"Type": "bind", "Source": "/var/run/docker.sock", "Target": "/var/run/docker.sock", "BindOptions": {}}
        )
    return host


# -- labels, and other pairs -----------------------------------------------------------------------------------------


def _labels(opts: FlagValues) -> dict[str, str]:
    lines = [line for path in opts.many("label-file") for line in environment.file_lines(path) if "=" in line]
    return {key: value for key, _, value in (item.partition("=") for item in [*lines, *opts.many("label")])}


def _pairs(items: list[str], complaint: str) -> dict[str, str]:
    out = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise ValueError(complaint)
        out[key] = value
    return out


# -- single settings -------------------------------------------------------------------------------------------------


def capabilities(names: list[str]) -> list[str] | None:
    """Turn `net_admin` into → `CAP_NET_ADMIN`, each once, sorted; ALL stays ALL."""
    upper = [name.strip().upper() for name in names]
    return sorted({n if n == "ALL" or n.startswith("CAP_") else f"CAP_{n}" for n in upper}) or None


def _mode(opts: FlagValues, name: str, allowed: tuple[str, ...], word: str, *, container: bool = False) -> str:
    value = opts.text(name)
    if value not in allowed and not (container and value.startswith("container:") and len(value) > len("container:")):
        raise ValueError(f"--{name}: invalid {word} mode")
    return value


def restart_policy(text: str) -> dict[str, Any]:
    name, colon, count = text.partition(":")
    retries = 0
    if colon:
        if not name:
            raise ValueError("invalid restart policy format: no policy provided before colon")
        if not count.lstrip("-").isdecimal():
            raise ValueError("invalid restart policy format: maximum retry count must be an integer")
        retries = int(count)
    return {"Name": name, "MaximumRetryCount": retries}


def _log(opts: FlagValues) -> dict[str, Any]:
    driver = opts.text("log-driver")
    settings = opts.mapping("log-opt")
    if driver == "none" and settings:
        raise ValueError("invalid logging opts for driver none")
    return {"Type": driver, "Config": settings}


def _healthcheck(opts: FlagValues) -> dict[str, Any] | None:
    durations = {
        "Interval": "health-interval",
        "Timeout": "health-timeout",
        "StartPeriod": "health-start-period",
        "StartInterval": "health-start-interval",
    }
    retries = opts.number("health-retries")
    given = bool(opts.text("health-cmd")) or retries != 0 or any(opts.number(name) for name in durations.values())
    if opts.flag("no-healthcheck"):
        if given:
            raise ValueError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not given:
        return None
    check: dict[str, Any] = {}
    if opts.text("health-cmd"):
        check["Test"] = ["CMD-SHELL", opts.text("health-cmd")]
    for key, name in durations.items():
        if opts.number(name) < 0:
            raise ValueError(f"--{name} cannot be negative")
        if opts.number(name):
            check[key] = opts.number(name)
    if retries < 0:
        raise ValueError("--health-retries cannot be negative")
    if retries:
        check["Retries"] = retries
    return check


def _security(texts: list[str]) -> tuple[list[str], bool]:
    """Return (options with a seccomp file replaced by its contents, whether system paths are left unmasked)."""
    out = []
    unmasked = False
    for text in texts:
        if text == "systempaths=unconfined":
            unmasked = True
            continue
        key, separator, value = text.partition("=")
        if not separator and text != "no-new-privileges":
            key, separator, value = text.partition(":")
            if not separator:
                raise ValueError(f'Invalid --security-opt: "{text}"')
        if key == "seccomp" and value not in ("unconfined", "builtin"):
            try:
                with open(value, "rb") as f:
                    profile = jsontext.loads(f.read())
            except OSError as e:
                raise ValueError(f"opening seccomp profile ({value}) failed: open {value}: {words(e)}") from e
            except ValueError as e:
                raise ValueError(f"compacting json for seccomp profile ({value}) failed: {e}") from e
            text = "seccomp=" + jsontext.dumps(profile)
        out.append(text)
    return out, unmasked


# -- networks --------------------------------------------------------------------------------------------------------


def _endpoints(opts: FlagValues) -> dict[str, Any]:
    if (mac := opts.text("mac-address")) and not addresses.is_mac(mac):
        raise ValueError(f"{mac} is not a valid mac address")
    networks: list[dict[str, Any]] = opts.value("network")
    if not networks:
        return {"default": endpoint(_with_flags({"Target": "default"}, opts))}
    endpoints: dict[str, Any] = {}
    user_defined = [_is_user_defined(n["Target"]) for n in networks]
    if any(user_defined) and not all(user_defined):
        raise ValueError("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    for position, attachment in enumerate(networks):
        chosen = _with_flags(attachment, opts) if position == 0 else attachment
        if chosen["Target"] in endpoints:
            raise ValueError(f'network "{chosen["Target"]}" is specified multiple times')
        if len(networks) == 1 and len(chosen) == 1:
            return {}  # the engine makes a plain endpoint by itself
        endpoints[chosen["Target"]] = endpoint(chosen)
    return endpoints


def _is_user_defined(target: str) -> bool:
    return target not in ("default", "bridge", "host", "none") and not target.startswith("container:")


def _with_flags(attachment: dict[str, Any], opts: FlagValues) -> dict[str, Any]:
    """Give the first network --network-alias, --ip and the like; the same thing said twice is an error."""
    out = dict(attachment)
    links = opts.many("link") if _is_user_defined(out["Target"]) else []
    for key, flag, value in (
        ("Aliases", "network-alias", opts.many("network-alias")),
        ("Links", "link", links),
        ("IPv4Address", "ip", opts.text("ip")),
        ("IPv6Address", "ip6", opts.text("ip6")),
        ("LinkLocalIPs", "link-local-ip", opts.many("link-local-ip")),
        ("MacAddress", "mac-address", opts.text("mac-address")),
    ):
        if not value:
            continue
        if out.get(key):
            name = {"Aliases": "alias"}.get(key, flag)
            raise ValueError(f"conflicting options: cannot specify both --{flag} and per-network {name}")
        out[key] = value
    if out.get("Aliases") and not _is_user_defined(out["Target"]):
        raise ValueError("network-scoped aliases are only supported for user-defined networks")
    return out


def endpoint(attachment: dict[str, Any]) -> dict[str, Any]:
    """Return the API's EndpointSettings."""
    ipam = {key: attachment[key] for key in ("IPv4Address", "IPv6Address", "LinkLocalIPs") if attachment.get(key)}
    return {
        "IPAMConfig": ipam or None,
        "Links": attachment.get("Links"),
        "Aliases": attachment.get("Aliases"),
        "MacAddress": attachment.get("MacAddress", ""),
        "DriverOpts": attachment.get("DriverOpts"),
        "GwPriority": attachment.get("GwPriority", 0),
        "NetworkID": "",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }
