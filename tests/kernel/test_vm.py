"""What this machine's kernel cannot show, shown by Debian's own in qemu: control groups v2, and the loss of power."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from tests.conftest import lacks
from tests.kernel.vm import power
from tests.kernel.vm.machine import Bed, missing

PYTEST = ".venv/bin/python -m pytest -q --color=no -p no:hypothesispytest --tb=short --timeout 60"
#: What the machine may skip, because it lacks what the test is about.
SKIPS = {"this machine has every controller"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def bed(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """The kernel and the disk of all boots; 300 MiB, so gone with the last of them."""
    if lacking := missing():
        lacks(f"no machine to boot: {lacking} is missing")
    made = Bed(tmp_path_factory.mktemp("machine"))
    yield made
    made.close()


def test_cgroup_v2_by_itself_and_under_an_engine(bed: Bed) -> None:
    status, output = bed.boot(f"{PYTEST} tests/kernel/test_cgroups.py tests/kernel/vm/on_v2.py", timeout_s=240)
    assert status == 0, output[-6000:]
    assert re.search(r"^\d\d passed", output, re.MULTILINE), output[-2000:]
    assert {line.split(": ", 1)[1] for line in output.splitlines() if line.startswith("SKIPPED")} <= SKIPS


@pytest.mark.skipif("SAMPAN_VM_NETWORKS" not in os.environ, reason="SAMPAN_VM_NETWORKS: some minutes")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("tests", ["kernel/test_net_vlan.py", "conformance/test_network_drivers.py -k ipvlan"])
def test_networks_that_need_links_of_another_kernel(bed: Bed, tests: str) -> None:
    """Dummies, 802.1q and ipvlan: nothing is skipped there."""
    status, output = bed.boot(f"SAMPAN_FAKE_HOST_S=500 {PYTEST} --timeout 600 tests/{tests}", timeout_s=1000)
    assert status == 0, output[-6000:]
    assert re.search(r"^\d+ passed", output, re.MULTILINE) and "skipped" not in output, output[-2000:]


def test_a_power_cut_loses_nothing_acknowledged(bed: Bed) -> None:
    data = bed.make_data()
    with bed.start(".venv/bin/python -m tests.kernel.vm.power before", data=data) as machine:
        machine.until(power.ACKNOWLEDGED, 120)
    status, output = bed.boot(".venv/bin/python -m tests.kernel.vm.power after", timeout_s=120, data=data)
    assert status == 0, output[-6000:]


def test_a_machine_that_ends_early_is_no_success(bed: Bed) -> None:
    with pytest.raises(RuntimeError, match="the machine ended early"):
        bed.boot("poweroff -f; sleep 60", timeout_s=60)
