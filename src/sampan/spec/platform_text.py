"""Platforms as text, os[/architecture[/variant]]: what is wrong with one, in containerd's words.

Source: github.com/containerd/platforms, as Docker Engine 28.5 and its client answer.
"""

from __future__ import annotations

_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd"})
_ARCHITECTURES = frozenset(
    {"amd64", "x86_64", "x86-64", "386", "arm64", "aarch64", "arm", "armhf", "ppc64le", "s390x", "riscv64"}
)
_SYSTEM_AND_VERSION = r"^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+[A-Za-z0-9_.%-]+)*)\\))?$"  # as Go quotes it
_COMPONENT = "^[A-Za-z0-9_.-]+$"


def problem(text: str) -> str:
    """Return what is wrong with a platform; empty when nothing is, or when there is none."""
    import re  # the command line does without it until somebody names a platform

    if not text:
        return ""
    if "*" in text:
        return f'"{text}": wildcards not yet supported: invalid argument'
    system, *others = parts = text.lower().split("/")
    if not re.fullmatch(_SYSTEM_AND_VERSION.replace("\\\\", "\\"), system):
        return (
            f'"{system}" is an invalid OS component of "{text}": OSAndVersion specifier component must match'
            f' "{_SYSTEM_AND_VERSION}": invalid argument'
        )
    for part in others:
        if not re.fullmatch(_COMPONENT, part):
            return (
                f'"{part}" is an invalid component of "{text}": platform specifier component must match'
                f' "{_COMPONENT}": invalid argument'
            )
    if len(parts) > 3:
        return f'"{text}": cannot parse platform specifier: invalid argument'
    if len(parts) == 1 and parts[0] not in _SYSTEMS | _ARCHITECTURES:
        return f'"{text}": unknown operating system or architecture: invalid argument'
    return ""
