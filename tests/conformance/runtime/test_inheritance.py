"""What init has, a process of exec has: everything that a process gets from the configuration, as one table.

The values are those of both runtimes; the same report is made by init and by exec.
"""

from __future__ import annotations

from tests.conformance.runtime.driver import Runtime, Spec

# name → (what prints it, what init and exec must print)
TABLE = {
    "ids": ("grep -e ^Uid -e ^Gid /proc/self/status | tr -s '\\t\\n' ' '", "Uid: 5 5 5 5 Gid: 6 6 6 6"),
    "groups": ("grep ^Groups /proc/self/status", "Groups:\t7 8"),
    "umask": ("umask", "0077"),
    "no_new_privs": ("grep ^NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
    "seccomp": ("grep '^Seccomp:' /proc/self/status", "Seccomp:\t2"),
    "inheritable": ("grep ^CapInh /proc/self/status", "CapInh:\t0000000000000020"),
    "permitted": ("grep ^CapPrm /proc/self/status", "CapPrm:\t0000000000000020"),
    "effective": ("grep ^CapEff /proc/self/status", "CapEff:\t0000000000000020"),
    "bounding": ("grep ^CapBnd /proc/self/status", "CapBnd:\t0000000000000021"),
    "ambient": ("grep ^CapAmb /proc/self/status", "CapAmb:\t0000000000000020"),
    "open files": ("grep '^Max open files' /proc/self/limits | tr -s ' '", "Max open files 100 200 files"),
    "core": ("grep '^Max core' /proc/self/limits | tr -s ' '", "Max core file size 0 0 bytes"),
    "oom score": ("cat /proc/self/oom_score_adj", "123"),
    "nice": ("busybox cut -d' ' -f19 /proc/self/stat", "3"),
    "policy": ("busybox cut -d' ' -f41 /proc/self/stat", "3"),
    "io priority": ("busybox ionice -p $$", "best-effort: prio 6"),
    "personality": ("uname -m", "i686"),
    "timer slack": ("cat /proc/self/timerslack_ns", "50000"),
    "affinity": ("test $(busybox nproc) = $(grep -c ^processor /proc/cpuinfo) && echo every", "every"),
    "session": ("busybox test $(busybox cut -d' ' -f6 /proc/$$/stat) = $$ && echo own", "own"),
    "session keyring": ("grep -c _ses /proc/keys", None),
    "cgroup": ("busybox tail -n1 /proc/self/cgroup", None),
    "profile": ("cat /proc/self/attr/current 2>&1", None),
    "home": ("echo $HOME", "/home/five"),
    "directory": ("pwd", "/tmp"),
    "environment": ("env | busybox sort | grep -v -e ^SHLVL -e ^PWD", "A=1\nHOME=/home/five\nPATH=/bin"),
    "namespaces": ("ls -l /proc/self/ns | grep -v children | busybox sed 's/.* //' | tr '\\n' ' '", None),
}


def _spec(runtime: Runtime) -> Spec:
    spec = runtime.spec("sh", "-c", f"{_script()}; exec sleep 1000")
    process = spec["process"]
    process["user"] = {"uid": 5, "gid": 6, "additionalGids": [7, 8], "umask": 0o77}
    process["env"] = ["PATH=/bin", "A=1", "HOME=/home/five"]
    process["cwd"] = "/tmp"
    process["oomScoreAdj"] = 123
    process["capabilities"] = {
        "bounding": ["CAP_KILL", "CAP_CHOWN"],
        **{name: ["CAP_KILL"] for name in ("permitted", "effective", "inheritable", "ambient")},
    }
    process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 3}
    process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    spec["linux"]["personality"] = {"domain": "LINUX32"}
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}],
    }
    return spec


def _script() -> str:
    return "; ".join(f"echo '== {name}'; {command}" for name, (command, _) in TABLE.items()) + "; echo '== end'"


def _report(text: str) -> dict[str, str]:
    parts = text.split("== ")[1:]
    return {name: value.strip() for name, _, value in (part.partition("\n") for part in parts)}


def test_exec_gets_what_init_gets(runtime: Runtime) -> None:
    id = runtime.start(_spec(runtime))
    second = _report(runtime.ok("exec", "--cwd", "/tmp", id, "sh", "-c", _script()))
    first = _report(runtime.output.read_text())
    assert first.keys() == second.keys() == {*TABLE, "end"}
    if runtime.is_old_runc:  # it knows no scheduler, no ioPriority and no personality of exec
        return
    assert {name: (first[name], second[name]) for name in TABLE if first[name] != second[name]} == {}
    said = {name: value for name, (_, value) in TABLE.items() if value is not None}
    assert {name: first[name] for name in said} == said
