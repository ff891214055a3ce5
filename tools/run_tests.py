"""Run all tests: those that need the host's own network in one pytest, all others in a second one beside it.

The second one has a mount and a network namespace of its own when it is root's, so that neither sees a mount, a link or
a rule of the other. It works while the first one waits, and the other way round. Its report comes behind the first
one's; both run to their end when one fails, and the result is one.

    tools/run_tests.py [OPTION …]          options are for both
    tools/run_tests.py PATH … [OPTION …]   with a path or a node id: one pytest, as it stands
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("tests/unit", "tests/builder", "tests/conformance", "tests/kernel")
OUTSIDE = ("tests/kernel/images/test_power_loss.py", "tests/kernel/test_vm.py")
"""The one has a whole engine, the other fetches a kernel when there is none yet."""
ALONE = """
set -e
ip link set lo up
groups=$(mktemp -d)
mount --rbind /sys/fs/cgroup "$groups"
mount -t sysfs sysfs /sys
mount --move "$groups" /sys/fs/cgroup
rmdir "$groups"
exec "$@"
"""
NOTHING_COLLECTED = 5


def rooms(root: Path = ROOT) -> tuple[list[str], list[str]]:
    """Return what each of the two is given: (on the host, beside it)."""
    found = sorted(f"tests/{path.name}" for path in (root / "tests").iterdir() if path.is_dir() or _is_test(path))
    on_host = [path for path in found if path not in BESIDE and any((root / path).rglob("test_*.py"))]
    beside = [f"--ignore={path}" for path in OUTSIDE]
    return [*on_host, *OUTSIDE], [*BESIDE, *beside]


def _is_test(path: Path) -> bool:
    return path.name.startswith("test_") and path.suffix == ".py"


def main(options: list[str], root: Path = ROOT) -> int:
    """Run both; return the first status that is not 0, the host's first."""
    pytest = [sys.executable, "-m", "pytest"]
    if any((root / option.partition("::")[0]).exists() for option in options if not option.startswith("-")):
        return subprocess.run([*pytest, *options], cwd=root, check=False).returncode
    on_host, beside = rooms(root)
    alone = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", ALONE, "sh"]
    began = time.monotonic()
    with tempfile.TemporaryFile() as report:
        runs = [
            subprocess.Popen([*pytest, *on_host, *options], cwd=root),
            subprocess.Popen(
                [*(alone if os.geteuid() == 0 else ()), *pytest, *beside, *options],
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=report,
                stderr=subprocess.STDOUT,
            ),
        ]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: both have got it too, and clean up
        signal.signal(signal.SIGTERM, lambda *_: [run.send_signal(signal.SIGINT) for run in runs])
        status = [run.wait() for run in runs]
        print(f"\nBeside that, {' '.join(BESIDE)}:", flush=True)
        last = _show(report)
    failed = [code for code in status if code not in (0, NOTHING_COLLECTED)]
    took = f"{time.monotonic() - began:.0f} s together"
    verdict = "failed" if failed else "passed"
    print(f"\nAll tests {verdict}: on the host {status[0]}, beside it {status[1]} ({last}); {took}")
    return failed[0] if failed else max(status) if min(status) == NOTHING_COLLECTED else 0


def _show(report: BinaryIO) -> str:
    """Copy a report to our output; return its last line."""
    report.seek(0)
    shutil.copyfileobj(report, sys.stdout.buffer)
    sys.stdout.flush()
    size = report.seek(0, os.SEEK_END)
    report.seek(max(0, size - 4096))
    lines = report.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip(" =") if lines else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
