"""What the tests look at on the host: which kernel objects exist, and what they may leave behind (nothing)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


def lacks(reason: str) -> None:
    """Skip with a name; on CI a skip of what CI must have is a failure."""
    if os.environ.get("SAMPAN_CI"):
        pytest.fail(f"CI must have this: {reason}")
    pytest.skip(reason)


@dataclass(frozen=True, slots=True)
class Census:
    """Kernel objects that carry our name, plus this process's mounts and the namespaces of our processes."""

    mounts: frozenset[str]
    links: frozenset[str]
    cgroups: frozenset[str]
    tables: frozenset[str]

    def added(self, before: Census) -> dict[str, set[str]]:
        """Return what exists now and did not exist `before`, by kind; empty kinds are left out."""
        kinds = ("mounts", "links", "cgroups", "tables")
        grown = {kind: set(getattr(self, kind) - getattr(before, kind)) for kind in kinds}
        return {kind: names for kind, names in grown.items() if names}


def census(parent: str = "sampan") -> Census:
    """Count what an engine can leave behind: mounts, links, cgroups below `parent`, nft tables."""
    mounts = frozenset(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    links = frozenset(name for name in os.listdir("/sys/class/net") if not name.startswith("veth") or _ours(name))
    cgroups = frozenset(str(path) for root in Path("/sys/fs/cgroup").iterdir() for path in _below(root, parent))
    out = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    return Census(mounts, links, cgroups, frozenset(line for line in out.splitlines() if "sampan" in line))


def _ours(name: str) -> bool:
    """True for a link whose bridge is one of ours; other engines' veths come and go while we test."""
    master = Path("/sys/class/net") / name / "master"
    return not master.exists() or master.resolve().name.startswith("sampan")


def _below(root: Path, parent: str) -> Iterator[Path]:
    base = root / parent
    if base.is_dir():
        yield from (path for path in base.iterdir() if path.is_dir())


def _grown(before: Census, *, cgroups: bool) -> dict[str, set[str]]:
    return {kind: names for kind, names in census().added(before).items() if cgroups or kind != "cgroups"}


@contextmanager
def leaves_nothing(*, within_s: float = 5.0, cgroups: bool = True) -> Iterator[None]:
    """Fail when the block leaves a mount, link, cgroup or nft table behind (the kernel may take `within_s` to
    let go).

    cgroups: the block makes some. All tests share them, also those that run beside this one.
    """
    before = census()
    yield
    deadline = time.monotonic() + within_s
    while (grown := _grown(before, cgroups=cgroups)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not grown, f"left behind: {grown}"


def processes(mark: str) -> dict[int, str]:
    """Return {pid: command line} of the processes whose command line contains `mark` (an exec root, say)."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if mark in line and int(entry) != os.getpid():
                found[int(entry)] = line
    return found


def pss_kib(pid: int) -> int:
    """Return the proportional set size of a process in KiB (/proc/PID/smaps_rollup)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise LookupError(pid)
