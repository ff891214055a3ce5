"""What a RUN step asks of its task, in both dialects."""

from __future__ import annotations

import pytest

from sampan.engine.builder.ops import Limits, RunOp, ScratchOp
from sampan.engine.builder.solver.runspec import RunStep, network_mode, task_options
from sampan.engine.config import EngineConfig
from sampan.engine.tasks import security, spec
from sampan.engine.tasks.capabilities import DEFAULT, permitted
from sampan.engine.tasks.options import NamespaceMode, Rlimit
from sampan.spec.oci_runtime import Mount

ENGINE = EngineConfig(default_cgroupns_mode="private")


def step(
    *, classic: bool = False, security: str = "sandbox", network: str = "default", limits: Limits | None = None
) -> RunStep:
    op = RunOp(
        base=ScratchOp(),
        args=("sh", "-c", "x"),
        env=("A=1",),
        security=security,
        network=network,
        limits=limits or Limits(),
    )
    return RunStep(id="build-1", op=op, hostname="h", classic=classic)


def test_a_step_has_no_privilege_unless_it_is_insecure() -> None:
    found = task_options(step(), ENGINE)
    assert found.process.capabilities == tuple(DEFAULT) and not found.privileged
    assert (found.masked_paths, found.readonly_paths) == (security.MASKED_PATHS, security.READONLY_PATHS)
    assert found.process.security.seccomp == ""
    found = task_options(step(security="insecure"), ENGINE)
    assert found.process.capabilities == permitted() and found.privileged
    assert not found.masked_paths and found.process.security.seccomp == security.UNCONFINED


def test_a_steps_limits() -> None:
    limits = Limits(
        memory_bytes=7, cpu_period_us=3, shm_size_bytes=5, ulimits=(("nofile", 1, 2),), cgroup_parent="builds"
    )
    found = task_options(step(limits=limits), ENGINE)
    assert (found.limits.memory_bytes, found.limits.memory_swap_bytes, found.limits.cpu_period_us) == (7, 14, 3)
    assert (found.shm_size_bytes, found.cgroup_parent) == (5, "/builds")
    assert found.process.rlimits == (Rlimit("RLIMIT_NOFILE", 1, 2),)


@pytest.mark.parametrize(
    ("network", "bridge", "mode"),
    [
        ("default", "", "bridge"),
        ("sandbox", "", "bridge"),
        ("", "none", "none"),
        ("host", "none", "host"),
        ("n", "", "n"),
    ],
)
def test_a_steps_network(network: str, bridge: str, mode: str) -> None:
    engine = EngineConfig(bridge=bridge)
    asked = step(network=network)
    assert network_mode(asked.op, engine) == mode
    own = NamespaceMode.HOST if mode == "host" else NamespaceMode.OWN
    assert task_options(asked, engine).namespaces.network is own


@pytest.mark.parametrize("classic", [True, False])
def test_the_two_dialects_differ_in_hostname_and_files(classic: bool) -> None:
    asked = step(classic=classic)
    options = task_options(asked, ENGINE, [Mount("bind", "/mine", "/etc/hosts", ("bind",))], ["S=1"])
    assert ("HOSTNAME=h" in options.process.env) is classic and {"A=1", "S=1"} < set(options.process.env)
    files = tuple((f"/etc/{name}", f"/d/{name}") for name in asked.files)
    found = spec.build(options, spec.Provisions(files=files, namespaces={"network": "/n"}))
    etc = {m["destination"]: m for m in found["mounts"] if m["destination"].startswith("/etc/")}
    assert ("/etc/hostname" in etc) is classic
    assert etc["/etc/hosts"]["source"] == "/mine"  # what the step mounts there comes first
    assert ("ro" in etc["/etc/resolv.conf"]["options"]) is not classic
    assert {"type": "network", "path": "/n"} in found["linux"]["namespaces"] and found["hostname"] == "h"
