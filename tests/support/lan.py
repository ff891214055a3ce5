"""Hosts on a LAN, each a network namespace of its own that a process holds: for engines that talk to each other.

lan (a bridge) ── eth0 192.0.2.1 of the first host, 192.0.2.2 of the second, …
"""

from __future__ import annotations

import subprocess
from typing import Any


class Place:
    """A network namespace; gone, with all that is in it, after `close`."""

    def __init__(self) -> None:
        # it ends with us, whatever happens
        self._holder = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--net",
                "sh",
                "-c",
                "ip link set lo up; echo; exec sleep 100000",
            ],
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        with self._holder.stdout as said:
            said.readline()
        self.pid = self._holder.pid

    @property
    def enter(self) -> list[str]:
        """A command that runs another one in this namespace."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net"]

    def run(self, command: str, **options: Any) -> str:
        """Run a shell command here; it must succeed."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*self.enter, "sh", "-ec", command], capture_output=True, text=True, timeout=60, **options
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


class Lan:
    """Some hosts; `hosts[0]` has the address `address(0)`, and so on."""

    def __init__(self, count: int, *, mtu: int = 1500) -> None:
        self._switch = Place()
        self.hosts = [Place() for _ in range(count)]
        self._switch.run("ip link add br0 type bridge && ip link set br0 up")
        for n, host in enumerate(self.hosts):
            self._switch.run(
                f"ip link add h{n} mtu {mtu} type veth peer name eth0 mtu {mtu} netns /proc/{host.pid}/ns/net"
                f" && ip link set h{n} master br0 up"
            )
            host.run(f"ip address add {self.address(n)}/24 dev eth0 && ip link set eth0 up")

    @staticmethod
    def address(n: int) -> str:
        return f"192.0.2.{n + 1}"

    def close(self) -> None:
        for place in (self._switch, *self.hosts):
            place.close()
