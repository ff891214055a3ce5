"""Docker's profile format → OCI `linux.seccomp`, and OCI's → classic BPF."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from sampan.linux import seccomp
from sampan.spec import seccomp_profile
from sampan.spec.seccomp_profile import InvalidProfile, resolve

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
X86_64, X86 = 0xC000003E, 0x40000003


def run_bpf(program: bytes, number: int, args: tuple[int, ...] = (), arch: int = X86_64) -> int:
    """Interpret a filter as the kernel does: the arbiter of what we and libseccomp assemble."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(args + (0,) * 6)[:6])
    accumulator, at = 0, 0
    instructions = list(struct.iter_unpack("<HBBI", program[: len(program) // 8 * 8]))
    while True:
        code, jt, jf, k = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x06:
            return int(k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x05:
            at += k
        else:
            taken = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[code]
            at += jt if taken else jf


def rule(*names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def names(profile: dict[str, Any]) -> set[str]:
    return {name for entry in profile["syscalls"] for name in entry["names"]}


def test_capabilities_include_and_exclude() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            rule("mount", includes={"caps": ["CAP_SYS_ADMIN"]}),
            rule("clone3", excludes={"caps": ["CAP_SYS_ADMIN"]}),
            rule("both", includes={"caps": ["CAP_A", "CAP_B"]}),
        ],
    }
    assert names(resolve(profile, [])) == {"clone3"}
    assert names(resolve(profile, ["CAP_SYS_ADMIN", "CAP_A"])) == {"mount"}
    assert names(resolve(profile, ["CAP_A", "CAP_B"])) == {"clone3", "both"}


def test_architecture_and_kernel() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        "syscalls": [
            rule("arm", includes={"arches": ["arm64"]}),
            rule("other", excludes={"arches": ["arm64"]}),
            rule("new", includes={"minKernel": "4.8"}),
            rule("old", excludes={"minKernel": "5.10"}),
        ],
    }
    resolved = resolve(profile, [], machine="aarch64", kernel=(4, 9))
    assert names(resolved) == {"arm", "new", "old"}
    assert resolved["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    other = resolve(profile, [], machine="x86_64", kernel=(4, 7))
    assert names(other) == {"other", "old"}
    assert "architectures" not in other


def test_contradictions_are_refused() -> None:
    with pytest.raises(InvalidProfile, match="both 'name' and 'names' are specified"):
        resolve({"defaultAction": "x", "syscalls": [{"name": "a", "names": ["b"], "action": "x"}]}, [])
    with pytest.raises(InvalidProfile, match="both 'architectures' and 'archMap' are specified"):
        resolve({"defaultAction": "x", "architectures": ["a"], "archMap": [{"architecture": "b"}]}, [])


def test_the_default_profile_is_docker_s() -> None:
    plain, admin = seccomp_profile.default(["CAP_CHOWN"]), seccomp_profile.default(["CAP_SYS_ADMIN"])
    assert (plain["defaultAction"], plain["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    assert {"ptrace", "landlock_create_ruleset", "mseal"} <= names(plain)
    assert not {"mount", "bpf", "io_uring_setup", "keyctl", "kexec_load"} & names(plain)
    assert {"mount", "bpf", "setns"} <= names(admin)
    assert seccomp_profile.default([], privileged=True) == {}


@pytest.fixture(scope="module")
def compiled() -> bytes:
    return seccomp.compile({**seccomp_profile.default(["CAP_CHOWN"]), "flags": []})


@pytest.mark.parametrize(
    ("call", "args", "answer"),
    [
        ("getpid 39", (), ALLOW),
        ("mount 165", (), EPERM),
        ("clone3 435", (), ENOSYS),
        ("socket 41", (2,), ALLOW),
        ("socket 41", (40,), EPERM),  # AF_VSOCK
        ("personality 135", (0xFFFFFFFF,), ALLOW),
        ("personality 135", (1,), EPERM),
        ("clone 56", (0x11,), ALLOW),
        ("clone 56", (0x10000000,), EPERM),  # CLONE_NEWUSER
        ("fchmodat2 452", (), ALLOW),  # newer than libseccomp 2.5
        ("removexattrat 466", (), ALLOW),
        ("uretprobe 335", (), ALLOW),
        ("beyond the profile 470", (), ENOSYS),
        ("far beyond 1000", (), ENOSYS),
    ],
)
def test_the_default_profile_compiled(compiled: bytes, call: str, args: tuple[int, ...], answer: int) -> None:
    assert run_bpf(compiled, int(call.rpartition(" ")[2]), args) == answer


def test_the_other_architectures_of_the_machine(compiled: bytes) -> None:
    assert run_bpf(compiled, 20, arch=X86) == ALLOW  # getpid of i386
    assert run_bpf(compiled, 21, arch=X86) == EPERM  # mount
    assert run_bpf(compiled, 39 | 1 << 30) == ALLOW  # getpid of x32
    assert run_bpf(compiled, 39, arch=0x40000028) not in (ALLOW, EPERM)  # arm: a foreign architecture is killed


def test_flags_travel_with_the_program() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}
    program = seccomp.compile(profile)
    assert len(program) % 8 == 4
    assert program[-4:] == struct.pack("<I", 2)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"defaultAction": "FOO"}, "string FOO is not a valid action"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["PDP11"]}, "string PDP11 is not a valid arch"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}, "seccomp flag X is not known"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW",
             "syscalls": [
                 {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "?"}]}
             ]},
            "string . is not a valid operator",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(profile: dict[str, Any], message: str) -> None:
    with pytest.raises(OSError, match=message):
        seccomp.compile(profile)


def test_several_conditions_on_one_argument_are_alternatives() -> None:
    conditions = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (1, 2)]
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["close"], "action": "SCMP_ACT_ERRNO", "args": conditions}],
    }
    program = seccomp.compile(profile)
    assert [run_bpf(program, 3, (value,)) for value in (0, 1, 2)] == [ALLOW, EPERM, EPERM]


def test_cached_compiles_once(tmp_path: Path) -> None:
    profile = seccomp_profile.default(["CAP_CHOWN"])
    path = seccomp.cached(profile, str(tmp_path / "seccomp"))
    assert Path(path).read_bytes() == seccomp.compile(profile)
    before = Path(path).stat()
    assert seccomp.cached(profile, str(tmp_path / "seccomp")) == path
    assert Path(path).stat().st_ino == before.st_ino
    assert [entry.name for entry in (tmp_path / "seccomp").iterdir()] == [Path(path).name]


def test_two_who_ask_at_once_get_the_same_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile's first use by two starts at the same time; each compiles, neither takes the other's file away."""
    both, compiled = Barrier(2), seccomp.compile

    def compile_together(profile: dict[str, Any]) -> bytes:
        both.wait(10)
        return compiled(profile)

    monkeypatch.setattr(seccomp, "compile", compile_together)
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: seccomp.cached({"defaultAction": "SCMP_ACT_ALLOW"}, str(tmp_path)), range(2)))
    assert paths[0] == paths[1]
    assert os.listdir(tmp_path) == [Path(paths[0]).name]
