"""Platform specifiers `os[/arch[/variant]]`, parsed and normalised as containerd does. Pure.

Source: OCI image-spec 1.1 "platform"; error texts as Docker Engine 28.5 answers them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.errors import InvalidArgument
from sampan.spec import go_values, platform_text

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

    def runs(self, other: Platform) -> bool:
        """Tell whether what is made for `other` runs where this platform is asked for.

        By containerd's rule for one platform: older variants do, and the 32-bit relatives (386 on amd64, arm on arm64).
        Weaker than `accepts`.
        """
        if self.os != other.os:
            return False
        return (other.architecture, _explicit(other)) in _runnable(self.architecture, _explicit(self))


def _explicit(platform: Platform) -> str:
    """The variant, where an architecture without one means a certain one."""
    return platform.variant or {"amd64": "v1", "arm": "v7", "arm64": "v8"}.get(platform.architecture, "")


def _runnable(architecture: str, variant: str) -> list[tuple[str, str]]:
    """(architecture, variant) of everything that runs on this one, the best first."""
    number = variant.removeprefix("v")
    if architecture == "amd64" and number.isdecimal():
        return [("amd64", f"v{n}") for n in range(min(int(number), 9), 0, -1)] + [("386", "")]
    if architecture == "arm" and number.isdecimal():
        return [("arm", f"v{n}") for n in range(min(int(number), 9), 4, -1)]
    if architecture == "arm64":
        return [("arm64", variant), ("arm64", "v8"), *_runnable("arm", "v8")]
    return [(architecture, variant)]


def best(target: Platform, offered: Sequence[Platform]) -> int | None:
    """Which of several images runs where `target` is asked for, the nearest relative first; None when none does."""
    order = _runnable(target.architecture, _explicit(target))
    runs = [
        (order.index((one.architecture, _explicit(one))), position)
        for position, one in enumerate(offered)
        if target.runs(one)
    ]
    return min(runs)[1] if runs else None


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


def parse(text: str, *, any_os: bool = False) -> Platform:
    """Parse a specifier; what is missing is the host's. any_os: also of systems that nothing here can come from.

    Raises: InvalidArgument.
    """
    platform = _parse(text)
    if platform.os != "linux" and not any_os:
        raise InvalidArgument("operating system is not supported")
    return platform


def _parse(text: str) -> Platform:
    if wrong := platform_text.malformed(text):
        raise InvalidArgument(wrong)
    parts = text.split("/")
    if len(parts) == 1:
        name = parts[0].lower()
        if name in ("linux", "windows", "darwin", "freebsd"):
            return Platform(name, HOST.architecture, HOST.variant)
        architecture, variant = _MACHINES.get(name, (name, ""))
        if architecture in _KNOWN:
            return Platform(HOST.os, architecture, variant)
        raise InvalidArgument(f"{go_values.quote(text)}: unknown operating system or architecture: invalid argument")
    architecture, variant = _MACHINES.get(parts[1].lower(), (parts[1].lower(), ""))
    if len(parts) == 3:
        variant = parts[2].lower()
    return Platform(parts[0].lower(), architecture, _DEFAULT_VARIANT.get((architecture, variant), variant))
