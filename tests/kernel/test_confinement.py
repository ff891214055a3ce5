"""A process of ours that is taken over: what it has given up it does not get back (linux/confinement.py)."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from sampan.linux import confinement, landlock, seccomp
from sampan.linux.confinement import Among, Without
from sampan.supervisor.names.rights import RIGHTS

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]

_CANNOT = {"become a program": "ENOENT"}  # this one fails in any case, unconfined for another reason


def tried(kind: str, directory: Path) -> dict[str, str]:
    """What comes of each attempt in a process of its own."""
    directory.mkdir()
    for name in ("secret", "deleted"):
        (directory / name).write_text(name)
    with socket.socket(socket.AF_UNIX) as engine, socket.socket() as other:
        engine.bind(str(directory / "engine"))
        other.bind(("127.0.0.1", 0))
        for peer in (engine, other):
            peer.listen()
        command = ["unshare", "-m", sys.executable, "-m", "tests.support.takeover", kind, str(directory)]
        done = subprocess.run([*command, str(other.getsockname()[1])], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, str] = json.loads(done.stdout)
    return outcomes


def gets_no_further(kind: str, tmp_path: Path, *, but: Collection[str] = ()) -> None:
    """Who takes a process over has nothing of what everybody has, but what is named."""
    free = tried("free", tmp_path / "free")
    assert {name for name, outcome in free.items() if outcome != _CANNOT.get(name, "done")} == set(), free
    confined = tried(kind, tmp_path / "confined")
    refused = {"EPERM", "EACCES", "can't start new thread"}
    assert {name for name, outcome in confined.items() if outcome not in refused} == set(but), confined
    assert (tmp_path / "confined" / "deleted").exists() and not (tmp_path / "confined" / "made").exists()


def test_who_takes_the_name_service_over_gets_no_further(tmp_path: Path) -> None:
    without_landlock = {"connect to another port"} if landlock.abi() < 4 else set()  # Linux 6.7
    gets_no_further("names", tmp_path, but=without_landlock)


def test_who_takes_the_carrier_over_gets_no_further(tmp_path: Path) -> None:
    """It connects to where containers listen, and that may be any port."""
    gets_no_further("ports", tmp_path, but=["connect to another port"])


def run(codes: list[str], **calls: confinement.Alternatives) -> list[str]:
    """What comes of pieces of code in a process that has `calls` and what every Python needs; until it is killed."""
    script = f"""
import ctypes, os, socket
from sampan.linux.confinement import Among, Rights, Without, confine
confine(Rights(calls={{**dict.fromkeys({list(RIGHTS.calls)!r}, ()), **{calls!r}}}))
for code in {codes!r}:
    try:
        exec(code)
        print("done", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )


def test_a_call_is_allowed_when_one_alternative_holds() -> None:
    both = ((Among(0, (2, 10)), Among(1, (1,), ignoring=0o2004000)), (Among(0, (16,)), Without(1, 1)))
    refused = "Operation not permitted"
    asked = {
        "socket.socket(2, 1)": "done",
        "socket.socket(10, 1)": "done",
        "socket.socket(2, 2)": refused,
        "socket.socket(16, 2)": "done",
        "socket.socket(16, 3)": refused,
        "socket.socket(1, 1)": refused,
    }
    assert run(list(asked), socket=both) == [*asked.values(), ""]


def test_a_call_by_another_architectures_number_kills() -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x86_64 alone has a second set of numbers")
    codes = ["os.getpid()", "ctypes.CDLL(None).syscall(0x40000000 + 39)", "os.getpid()"]
    assert run(codes) == ["done", ""]


def test_the_numbers_are_those_of_libseccomp() -> None:
    library = seccomp._library()
    for column, (machine, audit) in enumerate({"x86_64": 0xC000003E, "aarch64": 0xC00000B7}.items()):
        token = library.seccomp_arch_resolve_name(machine.encode())
        assert token & 0xFFFFFFFF == audit
        for name, numbers in confinement.NUMBERS.items():
            known = ctypes.c_int(library.seccomp_syscall_resolve_name_arch(token, name.encode())).value
            assert max(known, -1) == numbers[column], (machine, name)


def test_each_machine_has_a_filter() -> None:
    for machine in ("x86_64", "aarch64", "riscv64"):
        assert 0 < len(confinement.program(RIGHTS.calls, machine)) // 8 < 4096
    with pytest.raises(KeyError):
        confinement.program(RIGHTS.calls, "s390x")
