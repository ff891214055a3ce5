"""Which image runs where: containerd's rule for one platform, as the reference applies it to local images."""

from __future__ import annotations

import pytest

from sampan.engine import platforms
from sampan.engine.platforms import Platform
from sampan.errors import InvalidArgument


@pytest.mark.parametrize(
    ("asked", "own", "runs"),
    [
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64", "linux/arm/v7", True),
        ("linux/arm64/v8", "linux/arm/v6", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/arm/v8", "linux/arm/v7", True),
        ("linux/arm", "linux/arm/v5", True),
        ("linux/amd64/v2", "linux/amd64", True),
        ("linux/amd64", "linux/amd64/v2", False),
        ("linux/amd64", "linux/386", True),
        ("linux/386", "linux/amd64", False),
        ("linux/amd64", "linux/arm64", False),
        ("linux/riscv64", "linux/riscv64", True),
        ("windows/amd64", "linux/amd64", False),
    ],
)
def test_what_runs_where(asked: str, own: str, runs: bool) -> None:
    system, architecture, *variant = own.split("/")
    assert platforms.parse(asked, any_os=True).runs(Platform(system, architecture, *variant)) is runs


def test_only_linux_images_are_made_here() -> None:
    with pytest.raises(InvalidArgument, match=r"^operating system is not supported$"):
        platforms.parse("windows/amd64")
    assert platforms.parse("windows/amd64", any_os=True) == Platform("windows", "amd64")
