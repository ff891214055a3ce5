"""System call filters: actions, argument conditions, and Docker's default profile call by call."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sampan.spec import seccomp_profile
from tests.conformance.runtime.driver import CAPS, Runtime, console_socket
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


# What a runtime calls between the moment it may load the filter and the program: profiles of before 2020 lack many.
OWN_CALLS = [
    "capget",
    "capset",
    "chdir",
    "close",
    "close_range",
    "faccessat",
    "faccessat2",
    "fchown",
    "fchownat",
    "fcntl",
    "fstat",
    "getcwd",
    "getpid",
    "getppid",
    "gettid",
    "getuid",
    "ioctl",
    "lseek",
    "newfstatat",
    "openat",
    "openat2",
    "poll",
    "prctl",
    "prlimit64",
    "recvfrom",
    "recvmsg",
    "rt_sigaction",
    "rt_sigprocmask",
    "sendmsg",
    "sendto",
    "setgroups",
    "setpriority",
    "setresgid",
    "setresuid",
    "setsid",
    "statx",
    "umask",
    "unlinkat",
]


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_the_filter_is_the_program_s_not_the_runtime_s(runtime: Runtime, probe: Path, no_new_privileges: bool) -> None:
    """A program that makes no call but exit runs under a filter without the calls of its runtime, one after the other.

    runc 1.1 makes some of them itself behind the filter; whatever it can start must start.
    """
    spec = runtime.spec("/bin/probe", "nothing")
    spec["process"]["noNewPrivileges"] = no_new_privileges
    spec["process"]["user"] = {"uid": 1000, "gid": 1000}
    spec["mounts"].append(
        {"destination": "/bin/probe", "type": "bind", "source": str(probe), "options": ["bind", "ro"]}
    )
    (runtime.rootfs / "bin/probe").touch()
    failed = []
    for name in OWN_CALLS:
        spec["linux"]["seccomp"] = profile({"names": [name], "action": "SCMP_ACT_ERRNO"})
        if runtime.run(spec).returncode:
            failed.append(name)
    if runtime.name == "sampan-runc":
        assert failed == ([] if no_new_privileges else ["capset"])
    else:
        assert no_new_privileges or "capset" in failed


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_exec_under_a_filter_without_the_runtime_s_calls(runtime: Runtime, no_new_privileges: bool) -> None:
    spec = runtime.spec()
    spec["process"]["noNewPrivileges"] = no_new_privileges
    old = ["faccessat2", "openat2", "close_range", "statx", "pidfd_open", "clone3"]
    spec["linux"]["seccomp"] = profile({"names": old, "action": "SCMP_ACT_ERRNO", "errnoRet": 1})
    id = runtime.start(spec)
    assert runtime.ok("exec", "--user", "1000:1000", id, "id", "-u") == "1000\n"


#: What a static busybox needs from its execve on.
PROGRAM = [
    "brk",
    "arch_prctl",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "prlimit64",
    "readlink",
    "readlinkat",
    "getrandom",
    "mprotect",
    "mmap",
    "munmap",
    "newfstatat",
    "fstat",
    "ioctl",
    "setuid",
    "setgid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "prctl",
    "write",
    "writev",
    "exit_group",
    "clock_nanosleep",
    "nanosleep",
]
#: What the runtime needs beside that, under no_new_privs and without. runc needs as much, and more: it joins the gate,
#: looks for the program and closes descriptors under the filter.
RUNTIME = {True: ["execve"], False: ["execve", "read", "write", "capset"]}


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("plain", "SCMP_ACT_ERRNO"),
        ("plain", "SCMP_ACT_TRAP"),
        ("plain", "SCMP_ACT_KILL_PROCESS"),
        ("user namespace", "SCMP_ACT_KILL_PROCESS"),
        ("capabilities", "SCMP_ACT_KILL_PROCESS"),
        ("terminal", "SCMP_ACT_KILL_PROCESS"),
    ],
)
def test_the_runtime_needs_next_to_nothing_of_a_filter(
    rootfs: Path, tmp_path: Path, root: None, kind: str, action: str, no_new_privileges: bool
) -> None:
    """One run stands for a run without each call in turn: nothing but the program's calls and `RUNTIME` is allowed."""
    runtime = Runtime("sampan-runc", [sys.executable, "-m", "sampan.runtime"], tmp_path, rootfs)
    spec = runtime.spec("busybox", "sleep", "1000")
    spec["process"]["noNewPrivileges"] = no_new_privileges
    spec["linux"]["seccomp"] = {
        "defaultAction": action,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": [*PROGRAM, *RUNTIME[no_new_privileges]], "action": "SCMP_ACT_ALLOW"}],
    }
    if kind == "user namespace":
        spec["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            spec["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 1000}]
    if kind == "capabilities":
        spec["process"]["user"] = {"uid": 5, "gid": 5, "additionalGids": [6]}
        for name in ("inheritable", "ambient"):
            spec["process"]["capabilities"][name] = list(CAPS)
    try:
        if kind == "terminal":
            spec["process"]["terminal"] = True
            with console_socket(tmp_path) as (path, receive):
                id = runtime.create(spec, "--console-socket", path)
                os.close(receive())
        else:
            id = runtime.create(spec)
            runtime.ok("start", id)
            assert runtime.ok("exec", id, "busybox", "echo", "started") == "started\n"
    finally:
        runtime.clean()
