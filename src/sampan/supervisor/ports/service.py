"""The carrier: all ports of one exec root that a process carries, in one loop.

sampand writes for each address of a container which ports of the host lead there (table.py), and hands the file and the
sockets over; it keeps none of them. Everything else is in the files: a carrier that was killed gets the same sockets
from the supervisor (kept/held.py) or opens them again, and goes on.

Control protocol (kept/control.py): {"bring": [key], "put": address} with the sockets of ports, and behind them the
address's file, which is missing when no port leads there any more. Where the sockets are too many for one message,
others with `bring` alone come before it. The answer to `put` says which ports could not be had: {"failed": {key: why}}.
It comes when ports that are gone are free again.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Any

from sampan.linux.loop import Loop, Timer
from sampan.supervisor.kept import files
from sampan.supervisor.kept.control import Answer, Caller, ControlServer
from sampan.supervisor.kept.files import Damaged, items, text
from sampan.supervisor.kept.held import Holding
from sampan.supervisor.kept.processes import PORTS
from sampan.supervisor.notes import note
from sampan.supervisor.ports import tcp, udp
from sampan.supervisor.ports.room import Room
from sampan.supervisor.ports.sockets import reserve
from sampan.supervisor.ports.table import Carried, decode
from sampan.supervisor.ports.tcp import TcpPort
from sampan.supervisor.ports.udp import UdpPort

LINGER_S = 3.0  # how long it stays when no port is left: the next may come soon
_RETRY_S, _LONGEST_RETRY_S = 0.5, 30.0


class PortServer:
    """directory: where the files and the control socket are. files: so many descriptors may be open."""

    def __init__(self, directory: str, holding: Holding, descriptors: int) -> None:
        self._directory, self._holding = directory, holding
        self.loop = Loop()
        spare = max(descriptors - 1024, 256)
        self._room = Room(min(tcp.MOST, spare // 8))  # two sockets and at most two pipes for each
        self._peers = min(udp.MOST, spare // 8)
        self._wanted: dict[str, dict[str, Carried]] = {}  # by the container's address
        self._served: dict[str, TcpPort | UdpPort] = {}
        self._failed: dict[str, str] = {}
        self._freeing: dict[int, Answer] = {}  # by number: who waits until the supervisor has let go of sockets
        self._number = 0
        self._retrying: Timer | None = None
        self._pause_s = _RETRY_S
        self._idle: Timer | None = None

    def begin(self) -> None:
        """Take up what the files say, and listen. Raises: OSError."""
        for address in list(files.ids(self._directory)):
            with contextlib.suppress(OSError), open(f"{self._directory}/{files.file_name(address)}", "rb") as file:
                self._read(address, file.read())
        held = self._holding.take([key for ports in self._wanted.values() for key in ports])
        for address in self._wanted:
            self._serve_all(address, {key: sockets[0] for key, sockets in held.items()})
        self._holding.rest()
        self._holding.watch(self.loop, self._said)
        self._listener = ControlServer(self.loop, self._directory, PORTS.socket, self._asked)

    def serve(self) -> None:
        """Say that ports are carried, and carry them until none is left."""
        self._holding.ready()
        self._mind_idle()
        self.loop.run()
        self._listener.close()

    # ── ports ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _read(self, address: str, raw: bytes) -> None:
        try:
            self._wanted[address] = decode(raw, address)
        except Damaged as error:
            note(f"ports: the file of {address} cannot be read: {error}")

    def _serve_all(self, address: str, brought: Mapping[str, socket.socket]) -> None:
        """Serve what is wanted of an address and is not served, on the sockets that are there, else on new ones."""
        made = []
        for key, carried in self._wanted.get(address, {}).items():
            sock, old = brought.get(key), self._served.get(key)
            if old is not None:
                if old.carried == carried:  # it is the same socket
                    if sock is not None:
                        sock.close()
                    continue
                del self._served[key]
                sock = sock or old.socket.dup()
                old.close()
            self._failed.pop(key, None)
            try:
                sock = sock or reserve(carried.proto, carried.host_ip, carried.host_port, listens=True)
                self._served[key] = self._port(sock, carried)
                made.append(self._served[key])
            except OSError as error:
                self._failed[key] = os.strerror(error.errno) if error.errno else str(error)
        self._holding.keep([port.carried.key for port in made], [port.socket for port in made])
        if self._failed and self._retrying is None:
            self._retrying = self.loop.after(self._pause_s, self._retry)

    def _port(self, sock: socket.socket, carried: Carried) -> TcpPort | UdpPort:
        if carried.proto == "tcp":
            return TcpPort(self.loop, sock, carried, self._room)
        return UdpPort(self.loop, sock, carried, self._make_room)

    def _retry(self) -> None:
        """Try once more for ports that another program had, or that sampand has not let go of yet."""
        self._retrying = None
        before = set(self._failed)
        for address in list(self._wanted):
            self._serve_all(address, {})
        if self._failed:
            if self._pause_s >= _LONGEST_RETRY_S or before - set(self._failed):
                note(f"ports: not to be had: {self._failed}")
            self._pause_s = min(self._pause_s * 2, _LONGEST_RETRY_S)
        else:
            self._pause_s = _RETRY_S

    def _make_room(self) -> None:
        """Keep the number of all UDP clients within the bound: the port that has most loses one."""
        ports = [port for port in self._served.values() if isinstance(port, UdpPort)]
        if sum(map(len, ports)) >= self._peers:
            max(ports, key=len).forget_oldest()

    def _put(self, address: str, raw: bytes | None, brought: Mapping[str, socket.socket], answer: Answer) -> None:
        before = self._wanted.pop(address, {})
        if raw is not None:
            self._read(address, raw)
        wanted = self._wanted.get(address, {})
        gone = [key for key in before if key not in wanted]
        for key in gone:
            self._failed.pop(key, None)
            port = self._served.get(key)
            if port is not None and port.carried.address == address:
                del self._served[key]
                port.close()
        for key, sock in brought.items():
            if key not in wanted:
                sock.close()
        self._serve_all(address, brought)
        self._mind_idle()
        failed = {key: why for key, why in self._failed.items() if key in wanted}
        self._number += 1
        free = [key for key in gone if key not in self._served]
        if free and self._holding.free(self._number, free):
            self._freeing[self._number] = answer
        else:
            answer({"failed": failed})

    def _said(self, word: str, values: list[str]) -> None:
        """Hear that the supervisor has let go of sockets; also when it has ended, and what it held with it."""
        freed = [int(values[0])] if word == "freed" else list(self._freeing) if not word else []
        for number in freed:
            answer = self._freeing.pop(number, None)
            if answer is not None:
                answer({"failed": {}})

    def _held_by(self, channel: socket.socket) -> None:
        """Have all sockets held by another supervisor."""
        self._holding.replace(channel)
        self._holding.keep(list(self._served), [port.socket for port in self._served.values()])

    def _mind_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not self._wanted:
            self._idle = self.loop.after(LINGER_S, self._end)

    def _end(self) -> None:
        """End. What has been written and not told by now is found by the next: who tells it has that started."""
        self._idle = None
        self.loop.stop()

    # ── control ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _asked(self, request: Mapping[str, Any], fds: list[int], caller: Caller, answer: Answer) -> None:
        if "channel" in request:
            self._held_by(socket.socket(fileno=fds.pop()))
            answer({})
            return
        for key in map(text, items(request["bring"])):
            old, caller.kept[key] = caller.kept.get(key, -1), fds.pop(0)
            if old >= 0:
                os.close(old)
        if "put" not in request:
            answer({})
            return
        raw = files.read(fds[0]) if fds else None
        brought = {key: socket.socket(fileno=fd) for key, fd in caller.kept.items()}
        caller.kept.clear()
        self._put(text(request["put"]), raw, brought, answer)
