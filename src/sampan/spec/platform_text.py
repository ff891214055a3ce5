"""Platforms as text, os[/architecture[/variant]]: what is wrong with one, in containerd's words.

Source: github.com/containerd/platforms, as Docker Engine 28.5 and its client answer.
"""

from __future__ import annotations

_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd"})
_ARCHITECTURES = frozenset(
    {"amd64", "x86_64", "x86-64", "386", "arm64", "aarch64", "arm", "armhf", "ppc64le", "s390x", "riscv64"}
)
_SYSTEM_AND_VERSION = r"^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$"
_COMPONENT = "^[A-Za-z0-9_.-]+$"


def malformed(text: str) -> str:
    """Return what is wrong with the form of a platform; empty when nothing is."""
    import re  # the command line does without both until somebody names a platform

    from sampan.spec import go_values

    shown = go_values.quote(text)
    if "*" in text:
        return f"{shown}: wildcards not yet supported: invalid argument"
    parts = text.split("/")
    for number, part in enumerate(parts):
        pattern, kind = (_COMPONENT, "platform") if number else (_SYSTEM_AND_VERSION, "OSAndVersion")
        what = "an invalid component" if number else "an invalid OS component"
        if not re.fullmatch(pattern, part):
            return (
                f"{go_values.quote(part)} is {what} of {shown}: {kind} specifier component must match "
                f"{go_values.quote(pattern)}: invalid argument"
            )
    return f"{shown}: cannot parse platform specifier: invalid argument" if len(parts) > 3 else ""


def problem(text: str) -> str:
    """Return what is wrong with a platform; empty when nothing is, or when there is none."""
    if not text:
        return ""
    from sampan.spec import go_values

    system, *others = text.lower().split("/")
    if (wrong := malformed(text)) or others or system in _SYSTEMS | _ARCHITECTURES:
        return wrong
    return f"{go_values.quote(text)}: unknown operating system or architecture: invalid argument"
