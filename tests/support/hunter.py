"""The attack: a program that runs inside a container with CAP_SYS_PTRACE and looks for anything of the host.

Executed as a file, not imported: `python3 hunter.py SECONDS HOST`. It looks at every process that it can see, but
itself and its pid 1, over and over: where its root, its working directory, its program and its descriptors lie, in
which namespaces and cgroup it is. HOST says what would be the host's: {"secret": path of a file that only the host
has, "namespaces": {name: inode}, "cgroup": what a container's cgroup path begins with, "programs": whether a program
that lies outside counts}. In the end it prints {"seen": processes, "looks": rounds, "hits": {kind: count},
"examples": {kind: text}}.

A place is the container's when its mount is in the container's own /proc/self/mountinfo, or in that of the process
looked at once nothing of the host is in there (a second container in the same pid namespace has mounts of its own).
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

# What has no place in any directory: a pipe, a socket, an anonymous file. Nothing leads on from there.
PLACELESS = ("pipe:", "socket:", "anon_inode:", "/memfd:")
PF_EXITING = 0x4


class Hunter:
    def __init__(self, host: dict[str, Any]) -> None:
        self.host = host
        self.seen: set[int] = set()
        self.looks = 0
        self.hits: dict[str, int] = {}
        self.examples: dict[str, str] = {}
        with open("/proc/self/mountinfo") as file:
            self.own_mounts = {line.split()[0] for line in file}
        with open("/proc/self/cgroup") as file:  # a hierarchy that the runtime does not use is the host's for everybody
            lines = file.read().splitlines()
        self.hierarchies = tuple(line[: line.index("/")] for line in lines if host["cgroup"] in line)

    def hit(self, kind: str, text: str) -> None:
        self.hits[kind] = self.hits.get(kind, 0) + 1
        self.examples.setdefault(kind, text)

    def look(self, pid: str) -> None:
        """Look at one process. It may go at any moment, and the harmless ones cannot be looked at: both are fine."""
        self.seen.add(int(pid))
        for check in (self.secret, self.places, self.descriptors, self.namespaces, self.cgroup, self.secret):
            try:
                check(pid)
            except OSError:
                pass

    def secret(self, pid: str) -> None:
        with open(f"/proc/{pid}/root{self.host['secret']}") as file:
            self.hit("secret", file.read())

    def places(self, pid: str) -> None:
        for name in ("root", "cwd") + (("exe",) if self.host["programs"] else ()):
            self.place(pid, name)

    def descriptors(self, pid: str) -> None:
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                self.place(pid, f"fd/{number}")
            except OSError:
                pass

    def place(self, pid: str, name: str) -> None:
        path = f"/proc/{pid}/{name}"
        text = os.readlink(path)
        if text.startswith(PLACELESS) or text == "/dev/null":
            return
        fd = os.open(path, os.O_PATH)
        try:
            with open(f"/proc/self/fdinfo/{fd}") as file:
                mount = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
            if mount not in self.own_mounts and not self.in_harmless_mounts(pid, mount):
                self.hit(name.partition("/")[0], f"{path} -> {text}, mount {mount}")
        finally:
            os.close(fd)

    def in_harmless_mounts(self, pid: str, mount: str) -> bool:
        """Say whether the process has this mount, and none of the host's: its root is not where the secret lies."""
        with open(f"/proc/{pid}/mountinfo") as file:
            lines = [line.split() for line in file]
        return mount in (line[0] for line in lines) and not any(line[4] == self.host["mount"] for line in lines)

    def namespaces(self, pid: str) -> None:
        for name, inode in self.host["namespaces"].items():
            if os.stat(f"/proc/{pid}/ns/{name}").st_ino == inode:
                self.hit(f"ns/{name}", f"{pid}: {inode}")

    def cgroup(self, pid: str) -> None:
        with open(f"/proc/{pid}/cgroup") as file:
            lines = file.read().splitlines()
        with open(f"/proc/{pid}/stat") as file:
            if int(file.read().rpartition(")")[2].split()[6]) & PF_EXITING:  # shown in the root of every v1 hierarchy
                return
        for line in lines:
            if line.startswith(self.hierarchies) and self.host["cgroup"] not in line:
                self.hit("cgroup", f"{pid}: {line}")

    def hunt(self, seconds: float) -> None:
        known = {"1", str(os.getpid())}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.looks += 1
            for pid in os.listdir("/proc"):
                if pid.isdigit() and pid not in known:
                    self.look(pid)


def main() -> None:
    hunter = Hunter(json.loads(sys.argv[2]))
    print("ready", flush=True)
    hunter.hunt(float(sys.argv[1]))
    print(
        json.dumps(
            {
                "seen": len(hunter.seen),
                "looks": hunter.looks,
                "hits": hunter.hits,
                "examples": hunter.examples,
            }
        )
    )


if __name__ == "__main__":
    main()
