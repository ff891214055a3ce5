"""What this machine's kernel cannot show, shown by a Debian kernel in qemu: control groups v2 with their controllers."""

from __future__ import annotations

import shlex
import sys

import pytest

from sampan.linux import cgroups
from tests.kernel.vm import boot


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_cgroup_v2(root: None) -> None:
    if cgroups.mode() == "unified":
        pytest.skip("this machine has cgroup v2: test_cgroups.py has shown it already")
    lacking = boot.missing()
    if lacking:
        pytest.skip(f"no machine to boot: {lacking} is missing")
    script = [sys.executable, "-m", "pytest", "-q", "--timeout", "60", "tests/kernel/test_cgroups.py"]
    status, output = boot.boot(shlex.join(script), timeout_s=390)
    assert status == 0, output[-4000:]
    assert " passed" in output
