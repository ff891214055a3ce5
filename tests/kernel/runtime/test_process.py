"""Identity, capabilities, limits, seccomp, devices, hooks: what the process gets and what it does not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sampan.runtime import container
from sampan.runtime.container import RuntimeFailure
from sampan.runtime.process_plan import inherit
from tests.kernel.runtime.harness import Bench, Spec, default_spec, reap

PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\nbig:x:4294967297:0::/:\n"
GROUP = "root:x:0:\nbob:x:1001:\nwheel:x:10:root,bob\nstaff:x:50:bob\n"
FILES = {"etc/passwd": PASSWD, "etc/group": GROUP}


def run_as(bench: Bench, username: str, extra: list[str] | None = None, script: str = "id -u; id -g; id -G") -> Any:
    spec = default_spec(["sh", "-c", script])
    spec["process"]["user"] = {"username": username, "additionalGroupNames": extra or []}
    return bench.run(spec, files=FILES)


@pytest.mark.parametrize(
    ("username", "extra", "uid", "gid", "groups"),
    [
        ("", [], 0, 0, {0, 10}),
        ("bob", [], 1000, 1001, {1001, 10, 50}),
        ("1000", [], 1000, 1001, {1001, 10, 50}),
        ("bob:wheel", [], 1000, 10, {10}),
        ("1234", [], 1234, 0, {0}),
        ("5:7", ["staff", "99"], 5, 7, {7, 50, 99}),
    ],
)
def test_user_names(bench: Bench, username: str, extra: list[str], uid: int, gid: int, groups: set[int]) -> None:
    lines = run_as(bench, username, extra).out.splitlines()
    assert (int(lines[0]), int(lines[1]), set(map(int, lines[2].split()))) == (uid, gid, groups)


@pytest.mark.parametrize(
    ("username", "extra", "message"),
    [
        ("ghost", [], "unable to find user ghost: no matching entries in passwd file"),
        ("bob:ghosts", [], "unable to find group ghosts: no matching entries in group file"),
        ("bob", ["ghosts"], "unable to find group ghosts: no matching entries in group file"),
        ("3000000000", [], "uids and gids must be in range 0-2147483647"),
        ("0:2147483648", [], "uids and gids must be in range 0-2147483647"),
        ("big", [], "uids and gids must be in range 0-2147483647"),
    ],
)
def test_users_that_are_not_there(bench: Bench, username: str, extra: list[str], message: str) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        run_as(bench, username, extra)
    assert (caught.value.step, caught.value.message) == ("user", message)


def test_supplementary_groups_are_exact(bench: Bench) -> None:
    """CVE-2022-36109, CVE-2023-25173: what the caller has is not inherited."""
    os.setgroups([3, 4])
    try:
        spec = default_spec(["id", "-G"], user={"uid": 5, "gid": 6, "additionalGids": []})
        assert bench.run(spec).out == "6\n"
    finally:
        os.setgroups([])


def test_standard_streams_belong_to_the_user(bench: Bench) -> None:
    result = run_as(bench, "bob", script="echo again > /dev/stdout; echo err > /dev/stderr")
    assert (result.out, result.err) == ("again\n", "err\n")


def test_capabilities_are_exactly_those_of_the_spec(bench: Bench) -> None:
    out = bench.shell("grep Cap /proc/self/status").out.split()
    assert dict(zip(out[::2], out[1::2])) == {
        "CapInh:": "0" * 16,
        "CapPrm:": "00000000a80425fb",
        "CapEff:": "00000000a80425fb",
        "CapBnd:": "00000000a80425fb",
        "CapAmb:": "0" * 16,
    }


def test_no_capabilities_object_means_none(bench: Bench) -> None:
    spec = default_spec(["grep", "Cap", "/proc/self/status"])
    del spec["process"]["capabilities"]
    assert set(bench.run(spec).out.split()[1::2]) == {"0" * 16}


def test_ambient_capabilities_reach_a_user_who_is_not_root(bench: Bench) -> None:
    spec = default_spec(["grep", "Cap", "/proc/self/status"], user={"uid": 9, "gid": 9})
    sets = spec["process"]["capabilities"]
    sets["ambient"] = sets["inheritable"] = ["CAP_NET_BIND_SERVICE"]
    out = bench.run(spec).out.split()
    values = dict(zip(out[::2], out[1::2]))
    assert values["CapEff:"] == values["CapAmb:"] == values["CapInh:"] == f"{1 << 10:016x}"


def test_an_ambient_capability_alone_makes_nothing_inheritable(bench: Bench) -> None:
    """CVE-2022-24769: what the spec does not list as inheritable never is."""
    spec = default_spec(["grep", "-E", "CapInh|CapAmb", "/proc/self/status"])
    spec["process"]["capabilities"]["ambient"] = ["CAP_KILL"]
    assert bench.run(spec).out.split()[1::2] == ["0" * 16, "0" * 16]


def test_exec_without_capabilities_gets_the_containers(bench: Bench) -> None:
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    out = bench.exec(made, ["grep", "CapEff", "/proc/self/status"]).out
    assert out.split()[1] == "00000000a80425fb"
    out = bench.exec(made, ["grep", "CapEff", "/proc/self/status"], capabilities={}).out
    assert out.split()[1] == "0" * 16


def test_no_new_privileges(bench: Bench) -> None:
    spec = default_spec(["grep", "NoNewPrivs", "/proc/self/status"], noNewPrivileges=True)
    assert bench.run(spec).out.split()[1] == "1"


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_seccomp(bench: Bench, no_new_privileges: bool) -> None:
    spec = default_spec(["sh", "-c", "grep Seccomp: /proc/self/status; mkdir /x"], noNewPrivileges=no_new_privileges)
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64" if os.uname().machine == "x86_64" else "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 11}],
    }
    made = bench.run(spec)
    assert made.out.split() == ["Seccomp:", "2"]
    assert "Resource temporarily unavailable" in made.err


def test_an_apparmor_profile_that_is_not_there(bench: Bench) -> None:
    """Named, never skipped: on a host without AppArmor as on one that lacks the profile."""
    spec = default_spec(["true"], apparmorProfile="sampan-no-such-profile")
    with pytest.raises(RuntimeFailure) as caught:
        bench.create(spec)
    assert caught.value.step == "apparmor"
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    with pytest.raises(RuntimeFailure) as caught:
        bench.exec(made, ["true"], apparmorProfile="sampan-no-such-profile")
    assert caught.value.step == "apparmor"


def test_rlimits(bench: Bench) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    assert (
        bench.run(default_spec(["sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c"], rlimits=limits)).out == "99\n100\n0\n"
    )


def test_an_rlimit_that_the_kernel_refuses(bench: Bench) -> None:
    too_much = int(Path("/proc/sys/fs/nr_open").read_text()) + 1
    with pytest.raises(RuntimeFailure, match="error setting rlimit type 7: operation not permitted"):
        bench.run(default_spec(["true"], rlimits=[{"type": "RLIMIT_NOFILE", "soft": too_much, "hard": too_much}]))


def test_umask_and_cwd(bench: Bench) -> None:
    spec = default_spec(
        ["sh", "-c", "umask; pwd; stat -c %a ."], cwd="/made/for/me", user={"uid": 0, "gid": 0, "umask": 0o77}
    )
    assert bench.run(spec).out == "0077\n/made/for/me\n755\n"
    assert bench.shell("umask").out == "0022\n"


def test_a_cwd_that_is_a_file(bench: Bench) -> None:
    with pytest.raises(RuntimeFailure, match=r"mkdir /etc/passwd: not a directory"):
        bench.run(default_spec(["true"], cwd="/etc/passwd"))


def test_exec_into_a_missing_cwd(bench: Bench) -> None:
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    with pytest.raises(RuntimeFailure) as caught:
        bench.exec(made, ["true"], cwd="/nope")
    assert caught.value.message == 'chdir to cwd ("/nope") set in config.json failed: no such file or directory'


def test_oom_score_nice_and_io_priority(bench: Bench) -> None:
    process: dict[str, Any] = {
        "oomScoreAdj": 321,
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
    }
    script = "cat /proc/self/oom_score_adj; cut -d' ' -f19,41 /proc/self/stat; ionice -p $$"
    assert bench.run(default_spec(["sh", "-c", script], **process)).out.splitlines() == [
        "321",
        "5 3",
        "best-effort: prio 6",
    ]


def test_hostname_domainname_and_sysctl(bench: Bench) -> None:
    spec = default_spec(["sh", "-c", "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward"])
    spec["domainname"] = "example"
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    before = Path("/proc/sys/kernel/domainname").read_text()
    assert bench.run(spec).out == "tester\nexample\n1\n"
    assert Path("/proc/sys/kernel/domainname").read_text() == before


def test_a_sysctl_that_is_not_there(bench: Bench) -> None:
    spec = default_spec(["true"])
    spec["linux"]["sysctl"] = {"net.nosuchthing": "1"}
    with pytest.raises(RuntimeFailure) as caught:
        bench.run(spec)
    assert caught.value.message == "open /proc/sys/net/nosuchthing: no such file or directory"


def test_personality(bench: Bench) -> None:
    spec = default_spec(["uname", "-m"])
    spec["linux"]["personality"] = {"domain": "LINUX32"}
    expected = "i686" if os.uname().machine == "x86_64" else "armv8l"
    assert bench.run(spec).out.strip() == expected


def test_devices(bench: Bench) -> None:
    spec = default_spec(["sh", "-c", "ls -l /dev /dev/sub; echo x > /dev/null && head -c 3 /dev/zero | wc -c"])
    spec["linux"]["devices"] = [
        {"path": "/dev/kmsg2", "type": "c", "major": 1, "minor": 11, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/dev/sub/pipe", "type": "p", "fileMode": 0o622},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
    ]
    result = bench.run(spec)
    lines = {line.split()[-1]: line.split() for line in result.out.splitlines() if len(line.split()) > 5}
    assert lines["kmsg2"][:6] == ["crw-r-----", "1", "3", "4", "1,", "11"]
    assert lines["pipe"][0] == "prw--w--w-"
    assert lines["null"][0] == "crw-------"
    assert lines["urandom"][0] == "crw-rw-rw-"
    for name, target in (("fd", "/proc/self/fd"), ("ptmx", "pts/ptmx"), ("stderr", "/proc/self/fd/2")):
        assert f"{name} -> {target}\n" in result.out
    assert result.out.endswith("3\n")


def test_the_device_cgroup_holds(bench: Bench) -> None:
    spec = default_spec(["sh", "-c", "mknod /k c 1 11; cat /k; echo > /dev/null && echo fine"])
    spec["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    result = bench.run(spec)
    assert "Operation not permitted" in result.err
    assert result.out == "fine\n"


def test_limits_of_the_cgroup(bench: Bench) -> None:
    spec = default_spec(["sleep", "100"])
    spec["linux"]["resources"] = {"pids": {"limit": 17}, "memory": {"limit": 64 << 20}}
    made = bench.create(spec)
    stats = made.cgroup.stats()
    assert stats["pids"]["limit"] == 17
    assert stats["memory"]["limit"] == 64 << 20
    made.update({"pids": {"limit": 19}})
    assert made.cgroup.stats()["pids"]["limit"] == 19


def hook(path: Path, name: str, **more: Any) -> Spec:
    """A hook that appends its name, its mount namespace and the state it got to a file."""
    script = f'read -r state; echo "{name} $(readlink /proc/self/ns/mnt) $MARK $state" >> {path}'
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": [f"MARK={name}1", "PATH=/bin:/usr/bin"], **more}


def test_hooks_of_all_kinds_in_order_and_in_their_namespaces(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    spec = default_spec(["sh", "-c", "cat /hooked"])
    spec["hooks"] = {kind: [hook(log, kind)] for kind in kinds}
    spec["hooks"]["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /hooked"]}]
    spec["annotations"] = {"a": "b"}
    made = bench.create(spec)
    assert [line.split()[0] for line in log.read_text().splitlines()] == kinds[:3]
    pid = made.pid
    made.start()
    assert reap(made) == 0
    lines = [line.split(" ", 3) for line in log.read_text().splitlines()]
    assert [line[0] for line in lines] == kinds
    assert [line[2] for line in lines] == [f"{kind}1" for kind in kinds]
    host = os.readlink("/proc/self/ns/mnt")
    assert [line[1] == host for line in lines] == [True, True, False, True, True]
    states = [json.loads(line[3]) for line in lines]
    assert [state["status"] for state in states] == ["creating", "creating", "creating", "running", "stopped"]
    assert states[0] == {
        "ociVersion": "1.2.1",
        "id": made.id,
        "status": "creating",
        "pid": pid,
        "bundle": made.bundle,
        "annotations": {"a": "b"},
    }
    assert json.loads((bench.upper / "hooked").read_text())["status"] == "created"


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_that_fails_undoes_the_create(bench: Bench, kind: str) -> None:
    spec = default_spec(["true"])
    spec["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 3"]}]}
    with pytest.raises(RuntimeFailure) as caught:
        bench.create(spec)
    assert caught.value.message == f"error running {kind} hook #0: exit status 3, stdout: , stderr: why"


def test_a_hook_has_a_timeout(bench: Bench) -> None:
    spec = default_spec(["true"])
    spec["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]}
    with pytest.raises(RuntimeFailure, match=r"hook ran past specified timeout of 1\.0s"):
        bench.create(spec)


def test_a_hook_that_is_not_there(bench: Bench) -> None:
    spec = default_spec(["true"])
    spec["hooks"] = {"prestart": [{"path": "/nope"}]}
    with pytest.raises(RuntimeFailure, match="fork/exec /nope: no such file or directory"):
        bench.create(spec)


def test_a_poststart_hook_that_fails_kills_the_container(bench: Bench) -> None:
    spec = default_spec(["sleep", "100"])
    spec["hooks"] = {"poststart": [{"path": "/bin/false"}]}
    made = bench.create(spec)
    with pytest.raises(RuntimeFailure, match="error running poststart hook #0"):
        made.start()
    assert reap(made) == 137


def test_exec_affinity(bench: Bench) -> None:
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    result = bench.exec(made, ["grep", "Cpus_allowed_list", "/proc/self/status"], execCPUAffinity={"final": "0"})
    assert result.out.split()[1] == "0"


EVERYTHING: Spec = {
    "user": {"uid": 1000, "gid": 1001, "additionalGids": [7], "umask": 0o027},
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456}],
    "oomScoreAdj": 321,
    "scheduler": {"policy": "SCHED_BATCH", "nice": 3},
    "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
    "noNewPrivileges": True,
    "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]},
}
# policy and nice of stat's fields 41 and 19, and what else of the process document shows
SHOW = (
    "id; umask; ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; "
    "cut -d')' -f2 /proc/self/stat | cut -d' ' -f18,40; "
    "ionice -p $$; grep -E 'NoNewPrivs|Seccomp:|Cap' /proc/self/status; uname -m"
)
SECCOMP = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["sync"], "action": "SCMP_ACT_ERRNO"}]}


def whole_process(*args: str) -> Spec:
    spec = default_spec(list(args), **EVERYTHING)
    spec["linux"].update(personality={"domain": "LINUX32"}, seccomp=SECCOMP)
    return spec


def test_exec_gets_everything_that_init_gets(bench: Bench) -> None:
    init = bench.run(whole_process("sh", "-c", SHOW))
    assert "uid=1000 gid=1001" in init.out
    assert {"0027", "123", "456", "321", "3 3", "idle"} <= set(init.out.splitlines())
    assert "i686" in init.out or os.uname().machine != "x86_64"
    made = bench.create(whole_process("sleep", "100"))
    made.start()
    assert bench.exec(made, ["sh", "-c", SHOW], **EVERYTHING).out == init.out


def test_exec_takes_from_the_container_what_its_process_leaves_open(bench: Bench) -> None:
    """Limits, scheduling, capabilities and the umask, as runc does; whoever keeps the container keeps no more of it."""
    made = bench.create(whole_process("sleep", "100"))
    made.start()
    out = bench.exec(made, ["sh", "-c", SHOW], user={"uid": 0, "gid": 0}).out
    assert {"0027", "123", "456", "321", "3 3", "idle"} <= set(out.splitlines())
    kept = container._kept(made.spec)
    assert inherit(kept["process"], {"args": ["x"]}) == inherit(made.spec["process"], {"args": ["x"]})
