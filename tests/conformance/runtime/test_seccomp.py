"""System call filters: actions, argument conditions, and Docker's default profile call by call."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sampan.spec import seccomp_profile
from tests.conformance.runtime.driver import CAPS, Runtime
from tests.conftest import lacks

PROBE = Path(__file__).with_name("syscall_probe.c")


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ALLOW") -> dict[str, Any]:
    return {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": list(rules)}


def test_an_errno_of_its_own(runtime: Runtime) -> None:
    spec = runtime.spec("mkdir", "/tmp/x")
    spec["linux"]["seccomp"] = profile({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28})
    done = runtime.run(spec)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


def test_a_condition_on_an_argument(runtime: Runtime) -> None:
    spec = runtime.spec("sh", "-c", "chmod 0700 /tmp/a; chmod 0777 /tmp/a")
    spec["process"]["args"][2] = "touch /tmp/a; chmod 0700 /tmp/a && echo one; chmod 0777 /tmp/a || echo two"
    mode = {"index": 1, "value": 0o777, "op": "SCMP_CMP_EQ"}
    at = {"index": 2, "value": 0o777, "op": "SCMP_CMP_EQ"}
    spec["linux"]["seccomp"] = profile(
        {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": [mode]},
        {"names": ["fchmodat"], "action": "SCMP_ACT_ERRNO", "args": [at]},
    )
    assert runtime.says(spec) == "one\ntwo\n"


def test_kill(runtime: Runtime) -> None:
    spec = runtime.spec("sh", "-c", "mkdir /tmp/x; echo survived $?")
    spec["linux"]["seccomp"] = profile({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"})
    assert runtime.says(spec) == "survived 159\n"  # 128 + SIGSYS


def test_without_no_new_privileges(runtime: Runtime) -> None:
    """The filter is loaded while the process may still load one."""
    spec = runtime.spec("sh", "-c", "grep Seccomp: /proc/self/status; mkdir /tmp/x || echo refused")
    spec["process"]["noNewPrivileges"] = False
    spec["linux"]["seccomp"] = profile({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"})
    assert runtime.says(spec).split() == ["Seccomp:", "2", "refused"]


def test_names_that_nobody_knows_are_passed_over(runtime: Runtime) -> None:
    spec = runtime.spec("true")
    spec["linux"]["seccomp"] = profile({"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"})
    assert runtime.says(spec) == ""


def test_a_wrong_action_is_named(runtime: Runtime) -> None:
    spec = runtime.spec()
    spec["linux"]["seccomp"] = profile(default="SCMP_ACT_FOO")
    assert "SCMP_ACT_FOO" in runtime.create(spec, status=1)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static program that tries every system call number and prints what each answers."""
    compiler = shutil.which("gcc")
    if compiler is None:
        lacks("gcc, to build the probe of system calls")
    path = tmp_path_factory.mktemp("probe") / "probe"
    subprocess.run([str(compiler), "-static", "-O1", "-o", str(path), str(PROBE)], check=True)
    return path


def verdicts(runtime: Runtime, probe: Path, seccomp: dict[str, Any] | None) -> dict[int, str]:
    spec = runtime.spec("/bin/probe")
    spec["mounts"].append(
        {"destination": "/bin/probe", "type": "bind", "source": str(probe), "options": ["bind", "ro"]}
    )
    (runtime.rootfs / "bin/probe").touch()
    if seccomp is not None:
        spec["linux"]["seccomp"] = seccomp
    return {int(number): answer for number, answer in map(str.split, runtime.says(spec).splitlines())}


def test_docker_s_profile_call_by_call(runtime: Runtime, probe: Path) -> None:
    """What the profile allows answers as without a filter; the rest EPERM; what is newer than the profile ENOSYS."""
    resolved = seccomp_profile.default(CAPS)
    free, filtered = verdicts(runtime, probe, None), verdicts(runtime, probe, resolved)
    changed = {number: answer for number, answer in filtered.items() if answer != free[number]}
    assert {"1"} <= set(changed.values()) <= {"1", "38"}
    mount, unshare, clone3, add_key, ptrace, getpid = 165, 272, 435, 248, 101, 39
    assert changed[mount] == changed[unshare] == changed[add_key] == "1"
    assert changed[clone3] == "38"
    assert ptrace not in changed
    assert getpid not in changed
    assert filtered[600] == "38"
