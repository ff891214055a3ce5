"""What a process inside may not reach: masked paths, --security-opt, and which seccomp profile it gets.

Source: Docker Engine 28.5's answers; `spec.seccomp_profile` holds the default profile's rules.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.engine.config import EngineConfig
from sampan.errors import Internal, words
from sampan.spec import go_values

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
UNCONFINED = "unconfined"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityOptions:
    """`seccomp` is "" (the default profile), "unconfined", a profile's JSON, or the path of a file that has it."""

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor_profile: str = ""
    labels: tuple[str, ...] = ()
    writable_cgroups: bool | None = None  # None: as privileged or not


def parse(asked: Iterable[str], engine: EngineConfig, *, privileged: bool) -> SecurityOptions:
    """Parse the values of --security-opt. Their syntax was checked before (`containers.validate.security_options`).

    privileged: no profile, but one that is named is applied to a privileged container as to any other.
    """
    no_new_privileges, seccomp, apparmor = engine.no_new_privileges, "", ""
    named = False
    labels: list[str] = []
    writable_cgroups: bool | None = None
    for option in asked:
        if option == "no-new-privileges":
            no_new_privileges = True
            continue
        key, separator, value = option.partition("=")
        if not separator:
            key, _, value = option.partition(":")
        if key == "no-new-privileges":
            no_new_privileges = go_values.boolean(value)
        elif key == "seccomp":
            named = value != ""
            seccomp = "" if value == "builtin" else value
        elif key == "apparmor":
            apparmor = value
        elif key == "label":
            labels.append(value)
        elif key == "writable-cgroups":
            writable_cgroups = go_values.boolean(value)
    if named:
        pass
    elif privileged:
        seccomp = UNCONFINED
    else:
        seccomp = engine.seccomp_profile if engine.seccomp_profile != "builtin" else ""
    if apparmor == UNCONFINED or privileged or not _has_apparmor():
        apparmor = ""
    return SecurityOptions(
        no_new_privileges=no_new_privileges,
        seccomp=seccomp,
        apparmor_profile=apparmor,
        labels=tuple(labels),
        writable_cgroups=writable_cgroups,
    )


@functools.cache
def _has_apparmor() -> bool:
    """Tell whether the kernel confines by AppArmor; that is decided when it boots."""
    return os.path.isdir("/sys/kernel/security/apparmor")


def names_file(options: SecurityOptions) -> bool:
    """Tell whether `profile` will read a file of the host."""
    return options.seccomp not in ("", UNCONFINED) and not options.seccomp.lstrip().startswith("{")


def profile(options: SecurityOptions, caps: Sequence[str]) -> dict[str, Any] | None:
    """Return OCI `linux.seccomp` for these options and capabilities, or None for unconfined.

    Raises: Internal when a profile is not JSON.
    """
    from sampan.spec import seccomp_profile

    if options.seccomp == UNCONFINED:
        return None
    if not options.seccomp:
        return seccomp_profile.default(caps)
    text = options.seccomp
    if names_file(options):
        try:
            with open(text) as f:
                text = f.read()
        except OSError as e:
            raise Internal(f"opening seccomp profile ({text}) failed: open {text}: {words(e)}") from e
    return seccomp_profile.resolve(_decode(text), caps)


def _decode(text: str) -> dict[str, Any]:
    try:
        decoded = json.loads(text)
    except ValueError as e:
        position = getattr(e, "pos", 0)
        rest = text[position : position + 1]
        words = (
            f"invalid character '{rest}' looking for beginning of object key string"
            if rest
            else "unexpected end of JSON input"
        )
        raise Internal(f"Decoding seccomp profile failed: {words}") from e
    if not isinstance(decoded, dict):
        raise Internal("Decoding seccomp profile failed: it is not a JSON object")
    return decoded
