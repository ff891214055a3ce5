"""spec: write a config.json to start from."""

from __future__ import annotations

import json
import os
from typing import Any

from sampan.linux.cgroups import groups
from sampan.runtime.__main__ import Invocation
from sampan.runtime.cli.output import CommandFailure
from sampan.runtime.failure import strerror
from sampan.runtime.plan import OCI_VERSION

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_HIDDEN = ["nosuid", "noexec", "nodev"]


def spec(call: Invocation) -> int:
    bundle = call.flags.get("bundle", "")
    if bundle:
        try:
            os.chdir(bundle)
        except OSError as error:
            raise CommandFailure(f"chdir {bundle}: {strerror(error.errno or 0)}") from error
    value = example()
    if call.flags.get("rootless"):
        make_rootless(value)
    try:
        with open("config.json", "x", encoding="utf-8") as file:
            file.write(json.dumps(value, indent="\t"))
    except FileExistsError:
        raise CommandFailure("File config.json exists. Remove it first") from None
    return 0


def example() -> dict[str, Any]:
    """Return the spec of a shell in a read-only root, as runc's `spec` has it."""
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "runc",
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": name} for name in _namespaces()],
            "maskedPaths": [
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def _namespaces() -> list[str]:
    """With v1 hierarchies a cgroup namespace would hide where the container stands; the reference has none there."""
    return ["pid", "network", "ipc", "uts", "mount", *(["cgroup"] if groups.mode() == "unified" else [])]


def _mounts() -> list[dict[str, Any]]:
    def mount(destination: str, fstype: str, source: str, options: list[str]) -> dict[str, Any]:
        entry = {"destination": destination, "type": fstype, "source": source}
        return {**entry, "options": options} if options else entry

    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    return [
        mount("/proc", "proc", "proc", []),
        mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", pts),
        mount("/dev/shm", "tmpfs", "shm", [*_HIDDEN, "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", _HIDDEN),
        mount("/sys", "sysfs", "sysfs", [*_HIDDEN, "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", [*_HIDDEN, "relatime", "ro"]),
    ]


def make_rootless(value: dict[str, Any]) -> None:
    """Change what a user without rights may not do: the host's network and /sys, no limits, one id mapped."""
    linux = value["linux"]
    linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] != "network"] + [{"type": "user"}]
    del linux["resources"]
    maps = {"uidMappings": os.geteuid(), "gidMappings": os.getegid()}
    one = {name: [{"containerID": 0, "hostID": id, "size": 1}] for name, id in maps.items()}
    value["linux"] = {**one, **linux}
    for entry in value["mounts"]:
        entry["options"] = [o for o in entry.get("options", []) if not o.startswith(("uid=", "gid="))]
        if entry["destination"] == "/sys":
            entry.update(type="none", source="/sys", options=["rbind", *_HIDDEN, "ro"])
        if not entry["options"]:
            del entry["options"]
