"""A Debian root file system for tests: real packages, 170 MB in 8,700 files, with a working apt.

Made once by mmdebstrap (a quarter of a minute, from the distribution's mirror), kept in the cache directory, used by
every later run. `SAMPAN_TEST_CACHE` names another directory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.machine import lacks

SUITE = "bookworm"
TIMEOUT_S = 300


def root_tar() -> Path:
    """The uncompressed tar of a Debian root (`minbase`: what Debian calls required, and apt)."""
    return _made("minbase")


def base_tar() -> Path:
    """What stands for `debian:bookworm` as the base of a build: `apt-get update` and `install` work in it."""
    return _made("minbase")


def cache() -> Path:
    """Where what is made once is kept."""
    given = os.environ.get("SAMPAN_TEST_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sampan-tests"
    base.mkdir(parents=True, exist_ok=True)
    return base


def _made(variant: str) -> Path:
    """The file of a variant; one process makes it, others wait. Skips by name where it cannot be made."""
    path = cache() / f"{SUITE}-{variant}.tar"
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _make(path, variant)
    return path


def _make(path: Path, variant: str) -> None:
    if shutil.which("mmdebstrap") is None:
        lacks("mmdebstrap is not installed")
    with tempfile.TemporaryDirectory(prefix="mmdebstrap-", dir=path.parent) as scratch:
        os.chmod(scratch, 0o755)  # apt's own user reads below it
        made = Path(scratch) / path.name
        command = ["mmdebstrap", "--quiet", f"--variant={variant}", SUITE, str(made)]
        environment = {**os.environ, "TMPDIR": scratch}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S, check=False)
        if done.returncode != 0:
            lacks(f"mmdebstrap cannot make {SUITE}: {done.stderr.strip().splitlines()[-1:]}")
        made.rename(path)
