"""Platform specifiers `os[/arch[/variant]]`, parsed and normalised as containerd does. Pure.

Source: OCI image-spec 1.1 "platform"; error texts as Docker Engine 28.5 answers them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sampan.errors import InvalidArgument

_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+")
_PATTERN = "^[A-Za-z0-9_.-]+$"
_MACHINES = {
    "x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "i386": ("386", ""), "i686": ("386", ""),
    "aarch64": ("arm64", ""), "armhf": ("arm", "v7"), "armel": ("arm", "v6"), "armv7l": ("arm", "v7"),
}  # fmt: skip
_KNOWN = frozenset(
    [
        "386",
        "amd64",
        "arm",
        "arm64",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mipsle",
        "ppc64",
        "ppc64le",
        "riscv64",
        "s390x",
        "wasm",
    ]
)
_DEFAULT_VARIANT = {("arm", ""): "v7", ("arm64", "v8"): "v8", ("arm64", "8"): "v8", ("amd64", "v1"): ""}


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")

    def accepts(self, other: Platform) -> bool:
        """Whether an image for `other` is one for this platform; no variant here means any."""
        return (self.os, self.architecture) == (other.os, other.architecture) and self.variant in ("", other.variant)


_BASELINE = {"amd64": 1, "arm": 7, "arm64": 8}  # what an architecture without a variant means


def rank(target: Platform, offered: Platform) -> int | None:
    """How far an offered image is from the machine asked for: 0 is exact, None does not run there.

    A newer variant runs what an older one runs (arm/v7 takes v6 and v5).
    """
    if (target.os, target.architecture) != (offered.os, offered.architecture):
        return None
    wanted, given = _level(target), _level(offered)
    if wanted is None or given is None:
        return 0 if target.variant == offered.variant else None
    return wanted - given if given <= wanted else None


def _level(platform: Platform) -> int | None:
    if not platform.variant:
        return _BASELINE.get(platform.architecture, 0)
    digits = platform.variant.removeprefix("v")
    return int(digits) if digits.isdecimal() and len(digits) < 4 else None


def of(config: Mapping[str, Any]) -> Platform:
    """The platform that an image configuration names."""
    return Platform(config.get("os") or "linux", config.get("architecture") or "", config.get("variant") or "")


def _host() -> Platform:
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


HOST = _host()


def parse(text: str) -> Platform:
    """Parse a specifier; what is missing is the host's. Raises: InvalidArgument."""
    parts = text.split("/")
    if len(parts) > 3:
        raise InvalidArgument(f'"{text}": too many slashes: invalid argument')
    for part in parts:
        if not _COMPONENT.fullmatch(part):
            raise InvalidArgument(
                f'"{part}" is an invalid component of "{text}": platform specifier component must match '
                f'"{_PATTERN}": invalid argument'
            )
    if len(parts) == 1:
        name = parts[0].lower()
        if name in ("linux", "windows", "darwin", "freebsd"):
            return _supported(Platform(name, HOST.architecture, HOST.variant))
        architecture, variant = _MACHINES.get(name, (name, ""))
        if architecture in _KNOWN:
            return Platform(HOST.os, architecture, variant)
        raise InvalidArgument(f'"{text}": unknown operating system or architecture: invalid argument')
    architecture, variant = _MACHINES.get(parts[1].lower(), (parts[1].lower(), ""))
    if len(parts) == 3:
        variant = parts[2].lower()
    return _supported(Platform(parts[0].lower(), architecture, _DEFAULT_VARIANT.get((architecture, variant), variant)))


def _supported(platform: Platform) -> Platform:
    if platform.os != "linux":
        raise InvalidArgument("operating system is not supported")
    return platform
