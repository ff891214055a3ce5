"""Configurations that nobody meant: each is taken, or refused by one line that names a field; never another error.

What is run here is all that the runtime does before its first side effect: reading, validation, the plan, the filter.
SAMPAN_FUZZ is the number of inputs (default: 1000).
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sampan.runtime import plan
from sampan.runtime.cli.create import without_nulls
from sampan.runtime.cli.update import resources_of
from sampan.runtime.container import _seccomp_loader
from sampan.runtime.failure import RuntimeFailure
from sampan.runtime.process_plan import build, inherit
from sampan.runtime.validate import validate, validate_process
from sampan.runtime.validate_resources import validate_resources

INPUTS = int(os.environ.get("SAMPAN_FUZZ", "1000"))

GOOD: dict[str, Any] = {
    "ociVersion": "1.2.1",
    "process": {
        "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [5]},
        "args": ["sh"],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "terminal": False,
        "consoleSize": {"height": 20, "width": 80},
        "capabilities": {"bounding": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
        "noNewPrivileges": True,
        "oomScoreAdj": 10,
        "scheduler": {"policy": "SCHED_OTHER", "nice": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {"initial": "0", "final": "0-1"},
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "a",
    "domainname": "b",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {
            "destination": "/mnt",
            "type": "bind",
            "source": "/tmp",
            "options": ["rbind", "ro", "idmap"],
            "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
        },
    ],
    "hooks": {"createRuntime": [{"path": "/bin/true", "args": ["true"], "env": ["A=1"], "timeout": 3}]},
    "annotations": {"a": "b"},
    "linux": {
        "namespaces": [{"type": name} for name in ("pid", "mount", "uts", "ipc", "network", "user", "time", "cgroup")],
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        "timeOffsets": {"monotonic": {"secs": 1, "nanosecs": 2}},
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
        "cgroupsPath": "/a/b",
        "rootfsPropagation": "rprivate",
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "personality": {"domain": "LINUX"},
        "resources": {
            "devices": [{"allow": False, "type": "a", "major": -1, "minor": 2, "access": "rwm"}],
            "memory": {"limit": 1000000, "swap": 2000000, "reservation": 5, "swappiness": 3, "disableOOMKiller": False},
            "cpu": {"shares": 5, "quota": 5000, "period": 10000, "cpus": "0", "mems": "0", "idle": 0, "burst": 0},
            "pids": {"limit": 5},
            "blockIO": {
                "weight": 100,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 10}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 5}],
            "network": {"classID": 5, "priorities": [{"name": "lo", "priority": 3}]},
            "rdma": {"mlx": {"hcaHandles": 3, "hcaObjects": 4}},
            "unified": {"memory.high": "5"},
        },
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "",
            "syscalls": [
                {
                    "names": ["read"],
                    "action": "SCMP_ACT_ALLOW",
                    "errnoRet": 2,
                    "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
    },
}

NUMBERS = [0, -1, 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e300, float("inf"), float("nan"), True, False]
TEXTS = [
    "",
    "/",
    "..",
    "../../x",
    "a\0b",
    "\ud800",
    "x" * 5000,
    "/proc",
    "//",
    "0-99999999999",
    "-",
    "1,",
    "=",
    "é",
    "::",
]
OTHERS: list[Any] = [None, [], {}, [None], [[]], [{}], {"": None}, [1], ["a"], {"a": {"b": []}}, {"type": "x"}]
ODD = [*NUMBERS, *TEXTS, *OTHERS]
KINDS = ("set", "set", "set", "drop", "twice", "key")


def places(value: Any, parent: Any = None, key: Any = None) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything inside."""
    found = [] if parent is None else [(parent, key)]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in list(inner):
        found += places(entry, value, name)
    return found


def mutated(good: Any, steps: list[tuple[int, str, Any]]) -> Any:
    """Return a copy with some places changed: another value, nothing, twice, or under another key."""
    whole = [copy.deepcopy(good)]
    for number, kind, odd in steps:
        all_places = places(whole)
        parent, key = all_places[number % len(all_places)]
        if kind == "set" or parent is whole:
            parent[key] = copy.deepcopy(odd)
        elif kind == "drop":
            del parent[key]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif isinstance(odd, str):
            parent[odd] = parent.pop(key)
        if not whole:
            whole.append(None)
    return whole[0]


def inputs(good: Any) -> Iterator[Any]:
    """Yield INPUTS documents, the same ones in each run of this number."""
    dice = random.Random(INPUTS)
    for _ in range(INPUTS):
        steps = [(dice.randrange(400), dice.choice(KINDS), dice.choice(ODD)) for _ in range(dice.choice((1, 1, 2, 3)))]
        yield without_nulls(mutated(good, steps))


def refused(check: Callable[[Any], object], document: Any) -> str:
    """Return what is said against a document, or nothing; any other error is the test's failure."""
    try:
        check(document)
    except RuntimeFailure as error:
        return error.message
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} for {document!r}") from error
    return ""


def check_configuration(spec: Any) -> None:
    validate(spec)
    plan.build(spec, id="c", bundle="/tmp").describe()
    if spec["linux"].get("seccomp"):
        _seccomp_loader(spec, None)


def check_process(process: Any) -> None:
    validate_process(process, "process")
    build(inherit(GOOD["process"], process)).describe()


@pytest.mark.timeout(120 + INPUTS // 10)
@pytest.mark.parametrize(
    ("good", "check"),
    [
        (GOOD, check_configuration),
        (GOOD["process"], check_process),
        (GOOD["linux"]["resources"], lambda document: validate_resources(resources_of(document), "resources")),
    ],
    ids=["config.json", "exec --process", "update --resources"],
)
def test_a_document_is_taken_or_refused_in_one_line(good: Any, check: Callable[[Any], object]) -> None:
    said = [refused(check, document) for document in inputs(good)]
    assert not [message for message in said if "\n" in message.rstrip()]
    assert "" in said and any(said)


def test_the_good_one_is_good() -> None:
    validate(GOOD)
    with pytest.raises(RuntimeFailure):
        validate(mutated(GOOD, [(1, "set", 10**30)]))
