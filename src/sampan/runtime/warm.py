"""Warm the runtime up in the process that all shims are forked from.

CPython 3.11 rewrites a function's bytecode after some eight calls, and counts until then: in a fork each such write
copies a page. So the zygote calls, some ten times, everything that has no effect outside the process; its forks find
the code specialised and leave the pages shared: 0.8 ms of 11 ms CPU less for a start.

Not needed for anything to work, and not for sampan-runc, which starts one container and ends.
"""

from __future__ import annotations

import os

from sampan.linux import saferoot
from sampan.linux.cgroups import hierarchy
from sampan.runtime import init, lookup, plan, sync, user
from sampan.runtime.steps import become, mounts
from sampan.runtime.validate import validate

_ROUNDS = 12
_SPEC: plan.Spec = {
    "ociVersion": "1.2.0",
    "process": {
        "args": ["true"],
        "cwd": "/",
        "env": ["PATH=/bin:/usr/bin", "HOME=/"],
        "user": {"username": "root"},
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}],
        "oomScoreAdj": 0,
    },
    "root": {"path": "rootfs"},
    "hostname": "warm",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind", "rprivate"]},
    ],
    "linux": {
        "cgroupsPath": "/warm",
        "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
        "resources": {"devices": [{"allow": False, "access": "rwm"}], "memory": {}, "pids": {}},
        "maskedPaths": ["/proc/keys"],
        "readonlyPaths": ["/proc/sys"],
        "sysctl": {"net.ipv4.ip_forward": "1"},
    },
}
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUP = "root:x:0:\nwheel:x:10:root\n"


def warm() -> None:
    """Call what can be called; leaves no descriptor and no mount. Failures do not matter: a start would report them."""
    hierarchy.layout()
    for _ in range(_ROUNDS):
        validate(_SPEC)
        once()


def once() -> None:
    """One round. In a fork that waits for work it brings the pages that the work will write to."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _round(root)
    except OSError:
        pass
    finally:
        os.close(root)


def _round(root: int) -> None:
    plan.build(_SPEC, id="warm", bundle="/", rootfs=[{"type": "overlay", "destination": "/", "options": ["a=b"]}])
    user.resolve("root", [], _PASSWD, _GROUP)
    user.read_file(root, "/etc/passwd")
    lookup.find("sh", "/nowhere:/bin")
    os.close(saferoot.open_or_make(root, "/etc", directory=True)[0])
    os.close(saferoot.open_or_make(root, "/", directory=True)[0])
    tmpfs = plan.PlannedMount({"type": "tmpfs", "destination": "/", "options": ["nosuid", "mode=755"]})
    fd = mounts.make(tmpfs)
    mounts.keep_mode(root, tmpfs, fd)
    mounts.set_attributes(fd, tmpfs.options)
    os.close(saferoot.mkdirs(fd, "/a/b")[0])
    os.close(fd)
    become.check_cwd()
    ours, theirs = sync.pair()
    theirs.send(sync.GATE)
    ours.receive()
    inherited = init.Inherited(theirs, None)
    inherited.descriptors()
    ours.close()
    theirs.close()
