"""A bad spec is refused with its field and a reason; a good one passes untouched."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from sampan.runtime.failure import InvalidSpec
from sampan.runtime.validate import validate

Spec = dict[str, Any]
MAPS = [{"containerID": 0, "hostID": 1000, "size": 10}]


def good() -> Spec:
    return {
        "ociVersion": "1.2.0",
        "process": {"args": ["true"], "cwd": "/", "env": ["A=b"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["ro"]}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}]},
    }


def test_a_good_spec_passes_and_is_not_changed() -> None:
    spec = good()
    before = copy.deepcopy(spec)
    validate(spec)
    assert spec == before


def test_unknown_fields_are_let_pass() -> None:
    validate({**good(), "vm": {"kernel": "x"}, "solaris": None, "x": 1})


def put(path: str, value: Any) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        *parents, last = path.split("/")
        target: Any = spec
        for name in parents:
            target = target[int(name)] if isinstance(target, list) else target.setdefault(name, {})
        target[int(last) if isinstance(target, list) else last] = value

    return change


BAD: list[tuple[str, Any, str, str]] = [
    ("ociVersion", None, "ociVersion", "required"),
    ("ociVersion", 1, "ociVersion", "must be a string, not an integer"),
    ("ociVersion", "2.0.0", "ociVersion", "unsupported version '2.0.0', want 1.x"),
    ("root", None, "root", "required"),
    ("root", {"path": ""}, "root.path", "must not be empty"),
    ("root", {"path": "a\0b"}, "root.path", "contains a NUL byte"),
    ("process", [], "process", "must be an object, not an array"),
    ("process/args", [], "process.args", "must not be empty"),
    ("process/args", "true", "process.args", "must be an array, not a string"),
    ("process/args", ["a", 1], "process.args[1]", "must be a string, not an integer"),
    ("process/args", ["a\0"], "process.args[0]", "contains a NUL byte"),
    ("process/args", ["\ud800"], "process.args[0]", "is not valid Unicode"),
    ("process/cwd", "rel", "process.cwd", "must be an absolute path, not 'rel'"),
    ("process/cwd", None, "process.cwd", "required"),
    ("process/env", ["A"], "process.env[0]", "invalid environment variable: missing '=' or name"),
    ("process/env", ["=b"], "process.env[0]", "invalid environment variable: missing '=' or name"),
    ("process/terminal", "yes", "process.terminal", "must be a boolean, not a string"),
    ("process/user/uid", 2**31, "process.user.uid", f"{2**31} is not in range 0-{2**31 - 1}"),
    ("process/user/uid", -1, "process.user.uid", f"-1 is not in range 0-{2**31 - 1}"),
    ("process/user/gid", True, "process.user.gid", "must be an integer, not a boolean"),
    ("process/user/umask", 0o1000, "process.user.umask", "512 is not in range 0-511"),
    (
        "process/user/additionalGids",
        [2**32],
        "process.user.additionalGids[0]",
        f"{2**32} is not in range 0-{2**31 - 1}",
    ),
    ("process/oomScoreAdj", 1001, "process.oomScoreAdj", "1001 is not in range -1000-1000"),
    ("process/consoleSize", {"height": 1}, "process.consoleSize.width", "required"),
    ("process/capabilities", {"bounding": [1]}, "process.capabilities.bounding[0]", "must be a string, not an integer"),
    (
        "process/rlimits",
        [{"type": "RLIMIT_X", "soft": 1, "hard": 1}],
        "process.rlimits[0].type",
        "unknown value 'RLIMIT_X'",
    ),
    (
        "process/rlimits",
        [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}],
        "process.rlimits[0].soft",
        "2 is above the hard limit 1",
    ),
    ("process/rlimits", [{"type": "RLIMIT_CPU", "soft": 2**64, "hard": 1}], "process.rlimits[0].soft", "not in range"),
    (
        "process/rlimits",
        [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2,
        "process.rlimits[1].type",
        "is given twice",
    ),
    ("process/scheduler", {"policy": "SCHED_NICE"}, "process.scheduler.policy", "unknown value 'SCHED_NICE'"),
    ("process/scheduler", {"policy": "SCHED_OTHER", "nice": 20}, "process.scheduler.nice", "20 is not in range -20-19"),
    ("process/scheduler", {"policy": "SCHED_OTHER", "priority": 1}, "process.scheduler.priority", "only SCHED_FIFO"),
    ("process/ioPriority", {"class": "IDLE"}, "process.ioPriority.class", "unknown value 'IDLE'"),
    ("process/execCPUAffinity", {"initial": "0-x"}, "process.execCPUAffinity.initial", "not a list of CPUs"),
    ("process/selinuxLabel", "x", "process.selinuxLabel", "SELinux is not supported by this host"),
    ("hostname", "h" * 65, "hostname", "longer than 64 bytes"),
    ("mounts/0/destination", "", "mounts[0].destination", "must not be empty"),
    ("mounts/0/destination", "proc/self", "mounts[0].destination", "cannot be mounted because it is inside /proc"),
    ("mounts/0/destination", None, "mounts[0].destination", "required"),
    ("mounts/0/destination", "/proc/self", "mounts[0].destination", "cannot be mounted because it is inside /proc"),
    ("mounts/0/destination", "/x/../proc/./sys", "mounts[0].destination", "cannot be mounted because it is inside"),
    ("mounts/0/type", "tmpfs", "mounts[0].destination", "only procfs may be mounted at /proc"),
    ("mounts/0/options", ["tmpcopyup"], "mounts[0].options", "tmpcopyup is for tmpfs only"),
    ("mounts/0/options", ["idmap"], "mounts[0].options", "only bind mounts can be id-mapped"),
    ("mounts/0", {"destination": "/x"}, "mounts[0].type", "required for what is no bind mount"),
    ("mounts/0", {"destination": "/x", "type": "bind"}, "mounts[0].source", "required for a bind mount"),
    (
        "mounts/0",
        {"destination": "/x", "type": "bind", "source": "/x", "options": ["idmap"]},
        "mounts[0].uidMappings",
        "required for an id-mapped mount without a user namespace",
    ),
    (
        "mounts/0",
        {"destination": "/x", "type": "bind", "source": "/x", "uidMappings": MAPS},
        "mounts[0].gidMappings",
        "required when the other mapping is given",
    ),
    ("hooks/prestart", [{}], "hooks.prestart[0].path", "required"),
    ("hooks/poststop", [{"path": "x"}], "hooks.poststop[0].path", "must be an absolute path, not 'x'"),
    ("hooks/prestart", [{"path": "/x", "timeout": 0}], "hooks.prestart[0].timeout", "must be greater than 0"),
    ("hooks/prestart", [{"path": "/x", "env": ["A"]}], "hooks.prestart[0].env[0]", "missing '=' or name"),
    ("annotations", {"a": 1}, "annotations.a", "must be a string, not an integer"),
    ("linux/namespaces", [], "linux.namespaces", "a mount namespace is required"),
    ("linux/namespaces/0/type", "mnt", "linux.namespaces[0].type", "unknown value 'mnt'"),
    ("linux/namespaces/1/type", "mount", "linux.namespaces[1].type", "mount is given twice"),
    ("linux/namespaces/0/path", "rel", "linux.namespaces[0].path", "must be an absolute path, not 'rel'"),
    ("linux/uidMappings", MAPS, "linux.gidMappings", "required when the other mapping is given"),
    ("linux/rootfsPropagation", "rw", "linux.rootfsPropagation", "unknown value 'rw'"),
    ("linux/cgroupsPath", "/a/../b", "linux.cgroupsPath", "must not contain '..'"),
    ("linux/maskedPaths", ["x"], "linux.maskedPaths[0]", "must be an absolute path, not 'x'"),
    ("linux/devices", [{"path": "/dev/x", "type": "z"}], "linux.devices[0].type", "unknown value 'z'"),
    ("linux/devices", [{"path": "/dev/x", "type": "c"}], "linux.devices[0].major", "required"),
    ("linux/devices", [{"path": "x", "type": "p"}], "linux.devices[0].path", "must be an absolute path, not 'x'"),
    ("linux/sysctl", {"kernel.panic": "1"}, "linux.sysctl.kernel.panic", "is not in a separate kernel namespace"),
    ("linux/sysctl", {"net.ipv4.x": "1"}, "linux.sysctl.net.ipv4.x", "not allowed in host network namespace"),
    ("linux/sysctl", {"kernel.shmmax": 1}, "linux.sysctl.kernel.shmmax", "must be a string, not an integer"),
    ("linux/sysctl", {"net/../../x": "1"}, "linux.sysctl.net/../../x", "not a sysctl name"),
    ("linux/timeOffsets", {"monotonic": {"secs": 1}}, "linux.timeOffsets", "needs a new time namespace"),
    ("linux/timeOffsets", {"realtime": {}}, "linux.timeOffsets.realtime", "unknown value 'realtime'"),
    ("linux/personality", {"domain": "SVR4"}, "linux.personality.domain", "unknown value 'SVR4'"),
    ("linux/intelRdt", {"closID": "x"}, "linux.intelRdt", "not supported"),
    ("linux/seccomp", {"listenerPath": "/x"}, "linux.seccomp.defaultAction", "required"),
    ("linux/resources", [], "linux.resources", "must be an object, not an array"),
]


@pytest.mark.parametrize(("path", "value", "field", "reason"), BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_a_bad_spec_is_refused(path: str, value: Any, field: str, reason: str) -> None:
    spec = good()
    put(path, value)(spec)
    with pytest.raises(InvalidSpec) as caught:
        validate(spec)
    assert caught.value.field == field
    assert reason in caught.value.reason
    assert caught.value.message == f"invalid config.json: {field}: {caught.value.reason}"
    assert caught.value.step == "validate"


@pytest.mark.parametrize("value", [None, 1, "x", [], True])
def test_what_is_no_object(value: Any) -> None:
    with pytest.raises(InvalidSpec):
        validate(value)


def test_a_user_namespace_needs_maps() -> None:
    spec = good()
    spec["linux"]["namespaces"].append({"type": "user"})
    with pytest.raises(InvalidSpec, match="required with a new user namespace"):
        validate(spec)
    spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = MAPS
    validate(spec)


def test_every_value_of_every_type_is_survived() -> None:
    """Whatever stands in whatever field: either it passes or it is an InvalidSpec."""
    spec = good()
    spec["linux"] |= {"devices": [{"path": "/x", "type": "c", "major": 1, "minor": 1}], "sysctl": {"kernel.sem": "1"}}
    spec["hooks"] = {"prestart": [{"path": "/x", "args": ["x"], "env": ["A=b"], "timeout": 1}]}
    spec["process"] |= {"rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}], "scheduler": {"policy": "SCHED_RR"}}

    def walk(value: Any, path: tuple[str | int, ...]) -> list[tuple[str | int, ...]]:
        found = [path] if path else []
        if isinstance(value, dict):
            for key, inner in value.items():
                found += walk(inner, (*path, key))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                found += walk(inner, (*path, index))
        return found

    refused: list[str] = []
    for path in walk(spec, ()):
        for strange in (None, True, -(2**70), 2**70, 1.5, "", "\0", [], [None], {}, {"": None}):
            broken = json.loads(json.dumps(spec))
            target = broken
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = strange
            try:
                validate(broken)
            except InvalidSpec as error:
                refused.append(error.field)
    assert len(refused) > 200
    assert all(refused)
