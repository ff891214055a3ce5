"""Docker's seccomp profiles: the default one, and any in Docker's format, resolved to OCI `linux.seccomp`.

Docker's format adds to OCI's what depends on the container and the machine: `archMap` (architecture → those it can also
run), and per rule `includes`/`excludes` by capability, architecture and kernel version. The default profile's rules are
data in `seccomp_profile.json`, as Docker Engine 28.5.2 applies them (read back from the specs it writes).

Not here: compiling and loading (linux/seccomp.py).

Source: https://docs.docker.com/engine/security/seccomp/; OCI runtime-spec 1.2 config-linux.md "Seccomp".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable
from functools import cache
from importlib import resources
from typing import Any

Profile = dict[str, Any]

#: machine as uname says it → (Go's name, which profiles use in `arches`; libseccomp's name)
ARCHITECTURES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "i686": ("386", "SCMP_ARCH_X86"),
}


class InvalidProfile(ValueError):
    """The profile contradicts itself; the message is Docker's."""


def default(capabilities: Iterable[str], *, privileged: bool = False) -> Profile:
    """Return Docker's default profile for a container with these capabilities ("CAP_CHOWN", …) on this machine.

    A privileged container has no filter: {} then.
    """
    return {} if privileged else resolve(docker_default(), capabilities)


@cache
def docker_default() -> Profile:
    """Return the default profile in Docker's format; callers must not change it."""
    text = resources.files("sampan.spec").joinpath("seccomp_profile.json").read_text("utf-8")
    profile: Profile = json.loads(text)
    return profile


def resolve(
    profile: Profile,
    capabilities: Iterable[str],
    *,
    machine: str | None = None,
    kernel: tuple[int, int] | None = None,
) -> Profile:
    """Turn a profile in Docker's format into OCI `linux.seccomp`.

    Args:
        machine: as uname(2) says it; this machine's when None. kernel: (major, minor) likewise.

    Raises:
        InvalidProfile: in Docker's words.
    """
    go_arch, native = ARCHITECTURES.get(machine or os.uname().machine, ("", ""))
    release = kernel or kernel_version(os.uname().release)
    granted = frozenset(capabilities)
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidProfile(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or "
            "'archMap'"
        )
    result: Profile = {"defaultAction": profile.get("defaultAction", "")}
    for key in ("defaultErrnoRet", "architectures", "flags", "listenerPath", "listenerMetadata"):
        if profile.get(key) not in (None, "", []):
            result[key] = profile[key]
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == native:
            result["architectures"] = [native, *(entry.get("subArchitectures") or ())]
            break
    result["syscalls"] = []
    for rule in profile.get("syscalls") or ():
        if rule.get("name"):
            if rule.get("names"):
                raise InvalidProfile(
                    "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
                )
            rule = {**rule, "names": [rule["name"]]}
        if _applies(rule, granted, go_arch, release):
            result["syscalls"].append(_oci_rule(rule))
    return result


def _applies(rule: Profile, capabilities: Collection[str], arch: str, release: tuple[int, int]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if excludes.get("arches") and arch in excludes["arches"]:
        return False
    if any(capability in capabilities for capability in excludes.get("caps") or ()):
        return False
    if excludes.get("minKernel") and release >= kernel_version(excludes["minKernel"]):
        return False
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if not all(capability in capabilities for capability in includes.get("caps") or ()):
        return False
    return not (includes.get("minKernel") and release < kernel_version(includes["minKernel"]))


def _oci_rule(rule: Profile) -> Profile:
    result: Profile = {"names": rule.get("names") or [], "action": rule.get("action", "")}
    if rule.get("errnoRet") is not None:
        result["errnoRet"] = rule["errnoRet"]
    if rule.get("args"):
        result["args"] = [
            {key: value for key, value in arg.items() if value or key != "valueTwo"} for arg in rule["args"]
        ]
    return result


def kernel_version(release: str) -> tuple[int, int]:
    """Parse "6.18.44-x" or "4.8" to (major, minor).

    Raises:
        InvalidProfile: when it is neither.
    """
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None:
        raise InvalidProfile(f"unable to parse kernel version: {release}")
    return int(match[1]), int(match[2])
