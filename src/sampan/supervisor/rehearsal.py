"""What the zygote does once so that no shim has to: it decides about an example container many times, and throws the
result away.

Every shim is a fork. A cache that is filled on first use, or code that the interpreter specialises after some calls,
would start cold in each of them. Only the pure half of a create is rehearsed (validate, plan) and what is read from the
machine and never changes (the layout of control groups).
Source: PEP 659 (code is specialised after eight calls).
"""

from __future__ import annotations

from typing import Any

from sampan.linux import cgroups
from sampan.runtime import plan
from sampan.runtime.validate import validate
from sampan.supervisor import wire

_TIMES = 20
_CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID"]
_MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/scsi", "/sys/firmware"]
_READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def _mount(target: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}


_SPEC: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {
        "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
        "args": ["true"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=rehearsal"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        "oomScoreAdj": 0,
    },
    "root": {"path": "rootfs"},
    "hostname": "rehearsal",
    "mounts": [
        _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
        _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=67108864"),
        _mount("/etc/hosts", "bind", "rbind", "rprivate"),
    ],
    "linux": {
        "cgroupsPath": "/sampan/rehearsal",
        "resources": {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            ],
            "memory": {"limit": 1 << 30},
            "pids": {"limit": 100},
        },
        "namespaces": [{"type": kind} for kind in ("mount", "network", "uts", "pid", "ipc", "cgroup")],
        "maskedPaths": _MASKED,
        "readonlyPaths": _READONLY,
    },
}
_ROOTFS = [_mount("/", "overlay", "lowerdir=/l1:/l2", "upperdir=/u", "workdir=/w")]


def rehearse() -> None:
    """Touches nothing outside of this process."""
    cgroups.controllers()
    request = wire.frame(_SPEC)
    for _ in range(_TIMES):
        (spec,) = wire.Unframer().feed(request)
        validate(spec)
        plan.build(spec, id="rehearsal", bundle="/", rootfs=_ROOTFS)
