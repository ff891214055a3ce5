"""The command lines that are played on runc and on sampan-runc, and how one is played.

A line is (state, words, more). `state` is the container that it finds under the id `c`: "" (none), created, running,
paused or stopped; with "!" it gets a container of its own, because it changes it. `words` is split as a shell would;
BUNDLE, DIR and ROOT are replaced. `more` may name a change of the good configuration (`config`), the text of
standard input (`stdin`), the environment (`env`), files that are there (`files`) and files to read back (`reads`).

What comes out is data: status, output and errors without times, process ids, and this run's paths. Help is reduced to
the names of commands and flags, because its sentences are each program's own.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.conformance.runtime.driver import LIMIT_S, Spec, base_spec

Answer = dict[str, Any]
COMMANDS = "checkpoint create delete events exec features kill list pause ps restore resume run spec start state update"


def _set(*path: str | int, to: Any) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        value: Any = spec
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = to

    return change


def _drop(*path: str) -> Callable[[Spec], None]:
    def change(spec: Spec) -> None:
        value: Any = spec
        for key in path[:-1]:
            value = value[key]
        del value[path[-1]]

    return change


#: name → change of the good configuration, or the text of the file
CONFIGS: dict[str, Callable[[Spec], None] | str | None] = {
    "none": None,
    "empty file": "",
    "no JSON": "{",
    "a list": "[]",
    "null": "null",
    "an empty object": "{}",
    "args of a wrong type": _set("process", "args", to="sh"),
    "uid of a wrong type": _set("process", "user", "uid", to="root"),
    "no process": _drop("process"),
    "no root": _drop("root"),
    "no linux": _drop("linux"),
    "no version": _drop("ociVersion"),
    "an old version": _set("ociVersion", to="0.9.0"),
    "a newer minor version": _set("ociVersion", to="1.9.0"),
    "a version that is none": _set("ociVersion", to="one"),
    "no args": _set("process", "args", to=[]),
    "a relative cwd": _set("process", "cwd", to="tmp"),
    "no cwd": _drop("process", "cwd"),
    "a missing program": _set("process", "args", to=["/nonesuch"]),
    "a missing program in PATH": _set("process", "args", to=["nonesuch"]),
    "a program that may not run": _set("process", "args", to=["/etc/passwd"]),
    "a directory as program": _set("process", "args", to=["/etc"]),
    "a missing root": _set("root", "path", to="/nonesuch/root"),
    "a file as root": _set("root", "path", to="/etc/hostname"),
    "a missing bind source": lambda spec: spec["mounts"].append(
        {"destination": "/mnt", "type": "bind", "source": "/nonesuch/source", "options": ["bind"]}
    ),
    "an unknown namespace": lambda spec: spec["linux"]["namespaces"].append({"type": "nonesuch"}),
    "a namespace twice": lambda spec: spec["linux"]["namespaces"].append({"type": "pid"}),
    "a terminal": _set("process", "terminal", to=True),
    "status 7": _set("process", "args", to=["sh", "-c", "exit 7"]),
    "true": _set("process", "args", to=["true"]),
    "echo": _set("process", "args", to=["echo", "hello"]),
    "ends by a signal": _set("process", "args", to=["sh", "-c", "kill -9 $$"]),
    "says its environment": _set("process", "args", to=["sh", "-c", "env | grep -e ^LISTEN -e ^NOTIFY"]),
    "an unknown rlimit": _set("process", "rlimits", to=[{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]),
    "an rlimit twice": _set("process", "rlimits", to=[{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}] * 2),
    "a soft limit above the hard one": _set("process", "rlimits", to=[{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 1}]),
    "an unknown capability": _set("process", "capabilities", "bounding", to=["CAP_NONE", "CAP_KILL"]),
    "ambient without inheritable": _set("process", "capabilities", "ambient", to=["CAP_KILL"]),
    "a hostname without a namespace": lambda spec: spec["linux"].update(
        namespaces=[entry for entry in spec["linux"]["namespaces"] if entry["type"] != "uts"]
    ),
    "a sysctl of the host": _set("linux", "sysctl", to={"kernel.panic": "1"}),
    "a sysctl of the network": _set("linux", "sysctl", to={"net.ipv4.ip_forward": "1"}),
    "an unknown sysctl": _set("linux", "sysctl", to={"net.nonesuch": "1"}),
    "a file inside proc": lambda spec: spec["mounts"].append(
        {"destination": "/proc/version", "type": "bind", "source": "/etc/hostname", "options": ["bind"]}
    ),
    "an empty destination": lambda spec: spec["mounts"].append({"destination": "", "type": "tmpfs", "source": "tmpfs"}),
    "an unknown file system": lambda spec: spec["mounts"].append(
        {"destination": "/mnt", "type": "nonesuch", "source": "none"}
    ),
    "an unknown mount option": lambda spec: spec["mounts"].append(
        {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["nonesuch"]}
    ),
    "an unknown propagation": _set("linux", "rootfsPropagation", to="nonesuch"),
    "mappings without a user namespace": _set(
        "linux", "uidMappings", to=[{"containerID": 0, "hostID": 1000, "size": 1}]
    ),
    "a user namespace without mappings": lambda spec: spec["linux"]["namespaces"].append({"type": "user"}),
    "a namespace that is not there": lambda spec: spec["linux"]["namespaces"][0].update(path="/proc/1/ns/nonesuch"),
    "a namespace of another kind": lambda spec: spec["linux"]["namespaces"][0].update(path="/proc/self/ns/net"),
    "an unknown seccomp action": _set("linux", "seccomp", to={"defaultAction": "SCMP_ACT_NONE"}),
    "an unknown seccomp call": _set(
        "linux",
        "seccomp",
        to={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["nonesuch"], "action": "SCMP_ACT_ERRNO"}]},
    ),
    "notify without a listener": _set(
        "linux",
        "seccomp",
        to={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]},
    ),
    "notify by default": _set("linux", "seccomp", to={"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/nonesuch"}),
    "notify for write": _set(
        "linux",
        "seccomp",
        to={
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/nonesuch",
            "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}],
        },
    ),
    "a listener that is not there": _set(
        "linux",
        "seccomp",
        to={
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/nonesuch/socket",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
        },
    ),
    "a failing prestart hook": _set("hooks", to={"prestart": [{"path": "/bin/false"}]}),
    "a failing createRuntime hook": _set("hooks", to={"createRuntime": [{"path": "/bin/false"}]}),
    "a failing createContainer hook": _set("hooks", to={"createContainer": [{"path": "/bin/false"}]}),
    "a failing startContainer hook": _set("hooks", to={"startContainer": [{"path": "/bin/false"}]}),
    "a failing poststart hook": _set("hooks", to={"poststart": [{"path": "/bin/false"}]}),
    "a failing poststop hook": _set("hooks", to={"poststop": [{"path": "/bin/false"}]}),
    "a missing hook": _set("hooks", to={"createRuntime": [{"path": "/nonesuch"}]}),
    "a relative hook": _set("hooks", to={"createRuntime": [{"path": "false"}]}),
    "a slow hook": _set("hooks", to={"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "9"], "timeout": 1}]}),
    "a personality": lambda spec: (
        spec["process"].update(args=["uname", "-m"]),
        spec["linux"].update(personality={"domain": "LINUX32"}),
    )[0],
    "an unknown personality": _set("linux", "personality", to={"domain": "SOLARIS"}),
    "an oom score out of range": _set("process", "oomScoreAdj", to=5000),
    "an unknown scheduler": _set("process", "scheduler", to={"policy": "SCHED_NONE"}),
    "an unknown io class": _set("process", "ioPriority", to={"class": "IOPRIO_NONE", "priority": 1}),
    "an io priority out of range": _set("process", "ioPriority", to={"class": "IOPRIO_CLASS_BE", "priority": 9}),
    "an affinity that is none": _set("process", "execCPUAffinity", to={"initial": "x"}),
    "time offsets without a namespace": _set("linux", "timeOffsets", to={"monotonic": {"secs": 1}}),
    "intelRdt": _set("linux", "intelRdt", to={"closID": "x"}),
    "annotations": _set("annotations", to={"org.example.key": "value"}),
    "a cgroup path with dots": _set("linux", "cgroupsPath", to="../../x"),
    "a device of an unknown type": _set(
        "linux", "devices", to=[{"path": "/dev/x", "type": "z", "major": 1, "minor": 3}]
    ),
    "a mapped mount without mappings": lambda spec: spec["mounts"].append(
        {"destination": "/mnt", "type": "bind", "source": "/tmp", "options": ["bind", "idmap"]}
    ),
    "a mapped tmpfs": lambda spec: spec["mounts"].append(
        {
            "destination": "/mnt",
            "type": "tmpfs",
            "source": "tmpfs",
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
        }
    ),
    "half a mapped mount": lambda spec: spec["mounts"].append(
        {
            "destination": "/mnt",
            "type": "bind",
            "source": "/tmp",
            "options": ["bind"],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
        }
    ),
    "a mapped proc": lambda spec: spec["mounts"].append(
        {
            "destination": "/mnt",
            "type": "bind",
            "source": "/proc",
            "options": ["bind"],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
        }
    ),
}

PROCESS = '{"args": ["echo", "from the file"], "cwd": "/", "env": ["PATH=/bin"]}'
#: files that stand in DIR for every line
FILES = {
    "process.json": PROCESS,
    "no-args.json": '{"cwd": "/"}',
    "no-cwd.json": '{"args": ["true"], "env": ["PATH=/bin"]}',
    "wrong.json": "{",
    "list.json": "[]",
    "typed.json": '{"args": "sh", "cwd": "/"}',
    "limits.json": '{"pids": {"limit": 77}}',
    "wrong-limits.json": '{"pids": {"limit": "many"}}',
}

Line = tuple[str, str, dict[str, Any]]


def lines() -> Iterator[Line]:
    """Every line, each once."""
    yield from _of_the_program()
    for command in COMMANDS.split():
        yield "", f"{command} --help", {}
        yield "", f"{command} -h", {}
        yield "", f"{command} --nonesuch", {}
        if command not in ("features", "list", "spec"):
            yield "", command, {}
            yield "", f"{command} no-such", {}
            yield "", f"{command} ''", {}
            yield "", f"{command} a/b", {}
        if command not in ("exec", "kill", "ps"):
            yield "", f"{command} one two three", {}
    yield from _of_create_and_run()
    yield from _of_exec()
    yield from _of_the_rest()


def _of_the_program() -> Iterator[Line]:
    for words in (
        "",
        "--help",
        "-h",
        "help",
        "h",
        "help run",
        "help nonesuch",
        "nonesuch",
        "--nonesuch",
        "-x",
        "---x list",
        "--",
        "-- list",
        "--version",
        "-v",
        "--version list",
        "--log-format nonesuch list",
        "--log-format=json list --format nonesuch",
        "--log-format text state no-such",
        "--log-format json state no-such",
        "--log /nonesuch/log list",
        "--root",
        "--debug=perhaps list",
        "--debug=false list",
        "--rootless perhaps list",
        "--rootless true list -q",
        "--root relative list",
        "--criu /x list",
        "--root /nonesuch/root list",
    ):
        yield "", words, {}
    yield "", "--log DIR/log state no-such", {"reads": ["log"]}
    yield "", "--log DIR/log --log-format json state no-such", {"reads": ["log"]}
    yield "", "--log DIR/log --debug list -q", {"reads": ["log"]}
    yield "", "--log DIR/log --debug --log-format json run -b BUNDLE c", {"reads": ["log"], "config": "true"}
    yield "", "--debug run -b BUNDLE c", {"config": "true"}
    yield "", "--debug --log-format json run -b BUNDLE c", {"config": "true"}
    yield "", "--systemd-cgroup run -b BUNDLE c", {"config": "true"}


def _of_create_and_run() -> Iterator[Line]:
    for config in CONFIGS:
        yield "", "run -b BUNDLE c", {"config": config}
    for config in ("none", "no JSON", "a terminal", "a missing program", "no process", "true", "notify by default"):
        yield "", "create -b BUNDLE c", {"config": config}
    for words in (
        "run -b /nonesuch c",
        "run -b DIR/process.json c",
        "run -b",
        "run --bundle= c",
        "run -b BUNDLE 'a b'",
        "run -b BUNDLE .",
        "run -b BUNDLE ..",
        "run -b BUNDLE -- c",
        "run -b BUNDLE -- -c",
        "run c -b BUNDLE",
        "run -b BUNDLE c --keep=x",
        "run -b BUNDLE --nonesuch c",
        "run -b BUNDLE c --nonesuch",
        "run -b BUNDLE --preserve-fds x c",
        "run -b BUNDLE --preserve-fds -1 c",
        "run -b BUNDLE --preserve-fds 9 c",
        "run -b BUNDLE --preserve-fds 99999999999999999999 c",
        "run -b BUNDLE --pid-file /nonesuch/pid c",
        "run -b BUNDLE --pid-file '' c",
        "run -b BUNDLE --console-socket /nonesuch/s c",
        "run -b BUNDLE -d --console-socket /nonesuch/s c",
        "run -b BUNDLE --pidfd-socket /nonesuch/s c",
        "create -b BUNDLE --pidfd-socket /nonesuch/s c",
        "create -b BUNDLE --console-socket /nonesuch/s c",
        "create -b BUNDLE --detach c",
        "run -b BUNDLE --no-pivot c",
        "run -b BUNDLE --no-new-keyring c",
        "run -b BUNDLE --no-subreaper c",
        "run --detach=false -b BUNDLE c",
        "run --detach=x -b BUNDLE c",
        "run -b=BUNDLE c",
        "run --b=BUNDLE c",
        "run -bundle BUNDLE c",
        "run ---bundle BUNDLE c",
    ):
        yield "", words, {"config": "true"}
    yield "", "run -b BUNDLE --pid-file DIR/pid c", {"config": "true", "reads": ["pid"]}
    yield "", "run -b BUNDLE --keep c", {"config": "true", "after": True}
    yield "", "run -b BUNDLE --keep c", {"config": "a failing startContainer hook", "after": True}
    yield "", "run -b BUNDLE c", {"config": "true", "after": True}
    yield "", "run -d -b BUNDLE c", {"config": "a terminal"}
    yield "", "run -d -b BUNDLE --console-socket DIR/no-socket c", {"config": "a terminal"}
    yield "", "run -b BUNDLE c", {"config": "says its environment", "env": {"LISTEN_FDS": "0"}}
    yield "", "run -b BUNDLE c", {"config": "says its environment", "env": {"LISTEN_FDS": "x"}}
    yield "", "run -b BUNDLE c", {"config": "says its environment", "env": {"LISTEN_FDS": "9"}}
    yield "", "run -d -b BUNDLE c", {"after": True}
    yield "", "create -b BUNDLE c", {"after": True}
    yield "running", "run -b BUNDLE c", {}
    yield "running", "create -b BUNDLE c", {}
    yield "stopped", "create -b BUNDLE c", {}


def _of_exec() -> Iterator[Line]:
    for words in (
        "exec c",
        "exec c echo hi",
        "exec -- c echo hi",
        "exec c -- echo hi",
        "exec c echo --tty -x",
        "exec c sh -c 'exit 7'",
        "exec c sh -c 'kill -15 $$'",
        "exec c nonesuch",
        "exec c /nonesuch",
        "exec c /etc/passwd",
        "exec c /etc",
        "exec c ''",
        "exec --nonesuch c true",
        "exec -e",
        "exec -e A=1 -e B=2 c sh -c 'echo $A$B'",
        "exec -e A c true",
        "exec -e =x c true",
        "exec --env A=1 --env A=2 c sh -c 'echo $A'",
        "exec --cwd /tmp c pwd",
        "exec --cwd /nonesuch c pwd",
        "exec --cwd tmp c pwd",
        "exec --cwd /etc/passwd c pwd",
        "exec -u 5 c id",
        "exec -u 5:6 c id",
        "exec -u x c id",
        "exec -u 5:x c id",
        "exec -u 5: c id",
        "exec -u :5 c id",
        "exec -u -1 c id",
        "exec -u 99999999999 c id",
        "exec -u 5:6:7 c id",
        "exec -g 7 c id",
        "exec -g 7 -g 8 c id",
        "exec -g x c id",
        "exec -g -1 c id",
        "exec -p DIR/process.json c",
        "exec --process DIR/process.json c ignored",
        "exec -p DIR/nonesuch c",
        "exec -p DIR/wrong.json c",
        "exec -p DIR/list.json c",
        "exec -p DIR/typed.json c",
        "exec -p DIR/no-args.json c",
        "exec -p DIR/no-cwd.json c",
        "exec --cap CAP_KILL c true",
        "exec --cap CAP_NONE c true",
        "exec --cap x c true",
        "exec --cap CAP_SYS_ADMIN c grep Cap /proc/self/status",
        "exec --cap CAP_SYS_ADMIN -u 5 c grep Cap /proc/self/status",
        "exec --no-new-privs c grep NoNewPrivs /proc/self/status",
        "exec --no-new-privs=false c grep NoNewPrivs /proc/self/status",
        "exec --process-label x c true",
        "exec --apparmor x c true",
        "exec --cgroup nonesuch c true",
        "exec --cgroup ../.. c true",
        "exec --cgroup nonesuch:/ c true",
        "exec --cgroup / c true",
        "exec --preserve-fds 9 c true",
        "exec --preserve-fds x c true",
        "exec --pid-file /nonesuch/pid c true",
        "exec -t c true",
        "exec -t -d c true",
        "exec -d --console-socket /nonesuch/s c true",
        "exec -t -d --console-socket /nonesuch/s c true",
        "exec --console-socket /nonesuch/s c true",
        "exec --pidfd-socket /nonesuch/s c true",
        "exec --ignore-paused c true",
        "exec c -t true",
    ):
        yield "running", words, {}
    yield "running", "exec --pid-file DIR/pid c true", {"reads": ["pid"]}
    yield "running", "exec c cat", {"stdin": "from outside"}
    yield "running", "exec c sh -c 'env | grep LISTEN'", {"env": {"LISTEN_FDS": "0"}}
    for state in ("created", "paused", "stopped"):
        yield state, "exec c echo hi", {}
    for words in ("run -b BUNDLE c", "exec c true", "start c"):
        yield "running", f"--log DIR/log {words}", {"reads": ["log"]}


def _of_the_rest() -> Iterator[Line]:
    for state in ("created", "running", "paused", "stopped"):
        yield state, "state c", {}
        yield state, "list", {}
        yield state, "list -q", {}
        yield state, "list -f json", {}
        yield state, "ps -f json c", {}
        yield state, "ps c", {}
        for words in ("start c", "delete c", "delete -f c", "pause c", "resume c", "kill c 0", "update c"):
            yield state + "!", words, {"after": True}
        yield state, "events --stats c", {}
        yield state, "checkpoint c", {}
        for words in ("kill c", "kill c KILL", "kill -a c KILL", "kill --all c KILL"):
            yield state + "!", words, {"after": state != "paused"}
    for words in (
        "list -f",
        "list -f nonesuch",
        "list --format json",
        "list --format=table",
        "list -q -f json",
        "ps -f nonesuch c",
        "ps --format table c",
        "ps c -o pid,comm",
        "ps c -o comm",
        "ps c --nonesuch-flag",
        "kill c nonesuch",
        "kill c 999",
        "kill c -1",
        "kill c sigcont",
        "kill c CONT",
        "kill c SIGCONT",
        "kill c 18",
        "kill c SIGRTMIN",
        "kill c RTMIN+1",
        "kill c CONT extra",
        "kill -s CONT c",
        "kill c CONT --all",
        "state -x c",
        "state c extra",
        "start c extra",
        "pause c extra",
        "events --interval 0s --stats c",
        "events --interval x c",
        "events --interval 0s c",
        "events --interval -1s c",
        "events --stats --interval 1h c",
        "update --memory x c",
        "update --memory 64M c",
        "update --memory -5 c",
        "update --memory-reservation x c",
        "update --memory-swap x c",
        "update --pids-limit x c",
        "update --pids-limit 50 c",
        "update --pids-limit -1 c",
        "update --cpu-period x c",
        "update --cpu-quota x c",
        "update --cpu-share x c",
        "update --cpu-share 512 c",
        "update --cpu-rt-period x c",
        "update --cpu-rt-runtime x c",
        "update --cpu-burst x c",
        "update --cpu-idle x c",
        "update --cpuset-cpus x c",
        "update --cpuset-mems x c",
        "update --cpuset-cpus 0 c",
        "update --blkio-weight x c",
        "update --blkio-weight 5 c",
        "update --kernel-memory 5 c",
        "update --l3-cache-schema L3:0=f c",
        "update --mem-bw-schema MB:0=20 c",
        "update -r DIR/limits.json c",
        "update -r DIR/nonesuch c",
        "update -r DIR/wrong.json c",
        "update -r DIR/list.json c",
        "update -r DIR/wrong-limits.json c",
        "update -r",
        "update c --pids-limit 60",
    ):
        yield "running", words, {}
    yield "running", "update -r - c", {"stdin": '{"pids": {"limit": 99}}'}
    yield "running", "update -r - c", {"stdin": ""}
    yield "running", "update -r - c", {"stdin": "null"}
    yield "", "delete -f no-such", {}
    yield "", "delete --force ''", {}
    yield "", "spec -b DIR", {"reads": ["config.json"]}
    yield "", "spec -b DIR --rootless", {"reads": ["config.json"]}
    yield "", "spec -b /nonesuch", {}
    yield "", "spec -b BUNDLE", {}
    yield "", "restore --image-path DIR/nonesuch -b BUNDLE c", {}
    yield "", "restore -b BUNDLE c", {}
    yield "", "restore --manage-cgroups-mode nonesuch -b BUNDLE c", {}
    yield "running", "checkpoint --manage-cgroups-mode nonesuch c", {}
    yield "running", "checkpoint --image-path DIR/images c", {}
    yield "running", "checkpoint --image-path DIR/images --pre-dump --leave-running c", {}


# ── playing a line ────────────────────────────────────────────────────────────────────────────────────────


def command_of(program: str) -> Callable[..., int]:
    """Return what calls a program: (arguments, cwd, env, files for 0, 1 and 2) → exit status."""

    def call(arguments: list[str], *, cwd: str, env: dict[str, str], files: tuple[str, str, str]) -> int:
        with open(files[0]) as stdin, open(files[1], "w") as out, open(files[2], "w") as err:
            done = subprocess.run(
                [program, *arguments],
                stdin=stdin,
                stdout=out,
                stderr=err,
                cwd=cwd,
                env=env,
                timeout=LIMIT_S,
                check=False,
                start_new_session=True,
            )
        return done.returncode

    return call


class Player:
    """Plays lines on one runtime; containers that no line changes are shared."""

    def __init__(self, call: Callable[..., int], directory: Path, rootfs: Path) -> None:
        self.call = call
        self.directory = directory
        self.rootfs = rootfs
        self.prefix = f"lines-{os.getpid()}"
        self._shared: dict[str, Path] = {}
        self._count = 0

    def play(self, state: str, words: str, more: dict[str, Any]) -> Answer:
        """Return {status, out, err} and, where asked, {files, after}."""
        place = self._place(state)
        config = more.get("config")
        if config is not None:
            self._configure(place, CONFIGS[config], "true")
        arguments = [
            word.replace("BUNDLE", str(place / "bundle"))
            .replace("DIR", str(place))
            .replace("ROOT", str(place / "root"))
            for word in shlex.split(words)
        ]
        environment = {"PATH": os.environ["PATH"], **more.get("env", {})}
        done = self._call(place, arguments, stdin=more.get("stdin", ""), env=environment)
        answer: Answer = {"status": done.returncode, "out": self._normal(place, done.stdout)}
        answer["err"] = _messages(self._normal(place, done.stderr))
        for name in more.get("reads", ()):
            file = place / name
            text = self._normal(place, file.read_text()) if file.exists() else None
            answer.setdefault("files", {})[name] = _messages(text) if name == "log" and text else text
            file.unlink(missing_ok=True)
        if more.get("after"):
            answer["after"] = self._status(place)
        if state not in self._shared:
            self._clean(place)
        return answer

    def close(self) -> None:
        for place in self._shared.values():
            self._clean(place)
        root = Path("/sys/fs/cgroup")
        for directory in [root / self.prefix, *root.glob(f"*/{self.prefix}")]:
            if directory.is_dir():
                directory.rmdir()

    def _call(
        self, place: Path, arguments: list[str], *, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it; its output goes to files, because a container may go on holding them."""
        root = [] if "--root" in arguments else ["--root", str(place / "root")]
        names = ("in", "out", "err")
        for name, text in zip(names, (stdin, "", "")):
            (place / name).write_text(text)
        files = (str(place / "in"), str(place / "out"), str(place / "err"))
        status = self.call([*root, *arguments], cwd=str(place), env=env or {"PATH": os.environ["PATH"]}, files=files)
        read = [(place / name).read_text(errors="replace") for name in names[1:]]
        return subprocess.CompletedProcess(arguments, status, *read)

    def _place(self, state: str) -> Path:
        if state in self._shared:
            return self._shared[state]
        self._count += 1
        place = self.directory / f"place-{self._count}"
        (place / "bundle").mkdir(parents=True)
        for name, text in FILES.items():
            (place / name).write_text(text)
        self._configure(place, lambda spec: None)
        wanted = state.rstrip("!")
        steps = {
            "": [],
            "created": ["create -b BUNDLE c"],
            "running": ["create -b BUNDLE c", "start c"],
            "paused": ["create -b BUNDLE c", "start c", "pause c"],
            "stopped": ["create -b BUNDLE c", "start c", "kill c KILL"],
        }[wanted]
        for step in steps:
            done = self._call(place, shlex.split(step.replace("BUNDLE", str(place / "bundle"))))
            assert done.returncode == 0, (step, done.stderr)
        if wanted == "stopped":
            assert self._status(place, until="stopped") == "stopped"
        if state and not state.endswith("!"):
            self._shared[state] = place
        return place

    def _configure(self, place: Path, change: Callable[[Spec], None] | str | None, *args: str) -> None:
        file = place / "bundle/config.json"
        if change is None:
            file.unlink()
        elif isinstance(change, str):
            file.write_text(change)
        else:
            spec = copy.deepcopy(base_spec(self.rootfs, *args))
            spec["linux"]["cgroupsPath"] = f"/{self.prefix}/{place.name}"
            change(spec)
            file.write_text(json.dumps(spec))

    def _status(self, place: Path, until: str = "") -> str:
        for _ in range(100 if until else 8):  # a signal needs a moment
            done = self._call(place, ["state", "c"])
            status = str(json.loads(done.stdout)["status"]) if done.returncode == 0 else "none"
            if status in (until, "none", "stopped"):
                break
        return status

    def _clean(self, place: Path) -> None:
        root = place / "root"
        for id in os.listdir(root) if root.is_dir() else ():
            self._call(place, ["delete", "--force", id])

    def _normal(self, place: Path, text: str) -> str:
        text = text.replace(str(self.rootfs), "ROOTFS").replace(str(place / "bundle"), "BUNDLE")
        text = text.replace(str(place / "root"), "ROOT").replace(str(place), "DIR")
        text = text.replace(f"{self.prefix}/{place.name}", "CGROUP").replace(self.prefix, "CGROUPS")
        for pattern, word in _VARYING:
            text = pattern.sub(word, text)
        if "\nUSAGE:\n" in text:
            return _help(text)
        if text.startswith("ID  "):  # the widths of the table are those of this run's paths
            return re.sub(" {2,}", "  ", text)
        return _reduced_events(text)


_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), "TIME"),
    (re.compile(r'"pid": ?[1-9]\d*'), '"pid": 999'),
    (re.compile(r"^(c +)[1-9]\d* +", re.M), r"\1PID "),
    (re.compile(r"^\[\d+\]\n", re.M), "[PID]\n"),
    (re.compile(r"^\w+ +\d+ +\d+ +\d+ .*$", re.M), "PS LINE"),
    (re.compile(r"^ *\d+ sleep$", re.M), "PS LINE"),
    (re.compile(r"\A[1-9]\d{1,6}\Z"), "PID"),
    (re.compile(r"/proc/\d+/"), "/proc/PID/"),
    (re.compile(r"(runc|sampan-runc|__main__.py) version .*(\n(commit|spec|go|python|libseccomp): .*)+"), "VERSION"),
    (re.compile(r"(?:/[\w.-]+)*/?\b(runc|sampan-runc|__main__\.py)(: \\?\")"), r"RUNC\2"),
    (re.compile(r"/sys/fs/cgroup/[\w./-]*"), "CGROUP_FILE"),
    (re.compile(r"IDMapping:0x\w+"), "IDMapping:ADDRESS"),
    (re.compile(r"(nsexec(?:-\d)?)\[\d+\]"), r"\1[PID]"),
    (re.compile(r',\n\t+\{\n\t+"type": "cgroup"\n\t+\}(?!,\n\t+\{\n\t+"dest)'), ""),  # with v2 alone
    (re.compile(r"adding pid \d+"), "adding pid PID"),
    (re.compile(r"/run/(runc|sampan-runc)\b"), "/run/RUNC"),
    (re.compile(r"\(fd ?=? ?\d+\)|fd=\d+"), "FD"),
)


def _help(text: str) -> str:
    """Reduce a help to its first lines, when it has any before the name, and the names of commands and flags."""
    before, _, rest = text.partition("NAME:\n")
    names = re.findall(r"^   (--?[a-z][^ ,]*(?: value)?(?:, -[^ ]+(?: value)?)*|[a-z]+(?:, h)?)  ", rest, re.M)
    return "; ".join([before.strip(), *sorted(names)])


def _reduced_events(text: str) -> str:
    if not text.startswith('{"type":"stats"'):
        return text
    return "".join(f"{json.loads(line)['type']} {json.loads(line)['id']}\n" for line in text.splitlines())


def _messages(text: str) -> list[str]:
    """Return what was logged as "level: message", what was printed as it is; debug lines are one."""
    found: list[str] = []
    for line in text.splitlines():
        match = re.match(r'time="?TIME"? level=(\w+) msg=("(?:[^"\\]|\\.)*"|\S*)(.*)', line)
        if match:
            level, message = match[1], match[2]
            message = json.loads(message) if message.startswith('"') else message
        elif line.startswith("{") and '"level"' in line:
            entry = json.loads(line)
            assert {"level", "msg", "time"} <= entry.keys(), line
            level, message = entry["level"] + " (json)", entry["msg"]
        else:
            found.append(line)
            continue
        entry_text = level if level.startswith("debug") else f"{level}: {message}"
        if not (level.startswith("debug") and entry_text in found):
            found.append(entry_text)
    return found
