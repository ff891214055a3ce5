"""features: the OCI features document, made of the tables the runtime itself works by.

Source: OCI runtime-spec 1.2 features.md, features-linux.md.
"""

from __future__ import annotations

import json
from typing import Any

from sampan.linux import capabilities, seccomp
from sampan.linux.namespaces import TYPES
from sampan.runtime import options
from sampan.runtime.__main__ import VERSION, Invocation
from sampan.runtime.cli.output import print_out
from sampan.runtime.plan import OCI_VERSION
from sampan.runtime.validate import HOOK_KINDS


def features(call: Invocation) -> int:
    print_out(json.dumps(document(), indent=4) + "\n")
    return 0


def document() -> dict[str, Any]:
    words = {
        *options.ATTRIBUTES,
        *options.RECURSIVE_ATTRIBUTES,
        *options.PROPAGATION,
        *options.SUPERBLOCK,
        "bind",
        "rbind",
        "remount",
        "tmpcopyup",
        "idmap",
        "ridmap",
    }
    linux = {
        "namespaces": sorted(TYPES),
        "capabilities": list(capabilities.NAMES),
        "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
        "seccomp": {
            "enabled": True,
            "actions": sorted(seccomp.ACTIONS),
            "operators": sorted(seccomp.OPERATORS),
            "archs": sorted(seccomp.ARCHITECTURES),
            "knownFlags": sorted(seccomp.FLAGS),
            "supportedFlags": seccomp.supported_flags(),
        },
        "apparmor": {"enabled": True},
        "selinux": {"enabled": False},
        "intelRdt": {"enabled": False},
        "mountExtensions": {"idmap": {"enabled": True}},
    }
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(HOOK_KINDS),
        "mountOptions": sorted(words),
        "linux": linux,
        "annotations": {"org.sampan.runtime.version": VERSION},
    }
