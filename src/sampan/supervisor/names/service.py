"""The name service: all sandboxes of one exec root, in one loop.

sampand writes a sandbox's file (table.py) and says so on the control socket, with the sandbox's sockets when it is
new. Everything else is in the files: a name service that was killed makes the same sockets again, and goes on. A
sandbox is served until sampand drops it, or its first process has ended.

Control protocol, SOCK_SEQPACKET, only for our own user. The answer {"n": number} says that it is done.

    {"n": number, "put": id, "fds": [names]}    with descriptors, in that order: `file`, the sandbox's; `process` and
                                                `namespace` once it has a process; `udp` and `tcp` when they are new
    {"n": number, "drop": id}
    {"n": number, "channel": true}              with a supervisor's end of held.py's channel

After `begin` nothing here opens a path (rights.py).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from typing import Any

from sampan.linux.loop import READ, Loop
from sampan.linux.namespaces import CLONE_NEWNET, setns
from sampan.supervisor import layout
from sampan.supervisor.kept import files
from sampan.supervisor.kept.control import Answer, Caller, ControlServer
from sampan.supervisor.kept.files import Damaged
from sampan.supervisor.kept.held import Holding
from sampan.supervisor.kept.processes import NAMES
from sampan.supervisor.names import table
from sampan.supervisor.names.answers import Answers, Question
from sampan.supervisor.names.forwarder import Forwarder
from sampan.supervisor.names.hostservers import HostFile, HostServers
from sampan.supervisor.names.served import Reply, Served
from sampan.supervisor.names.sockets import listen_on
from sampan.supervisor.names.table import NameTable, SandboxNames
from sampan.supervisor.notes import note


class NameServer:
    """directory: where the sandboxes' files and the control socket are."""

    def __init__(self, directory: str, holding: Holding) -> None:
        self._directory = directory
        self._holding = holding  # the sockets, while this process is not there
        self.loop = Loop()
        self._table = NameTable()
        self._answers = Answers(self._table)
        self._forwarder = Forwarder(self.loop)
        self._host_servers = HostServers(HostFile().servers(), lambda: holding.ask("servers"))
        self._host_namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._served: dict[str, Served] = {}
        self._processes: dict[str, int] = {}  # of a sandbox: the pidfd of its first process
        self._unborn: dict[str, Caller] = {}  # of a sandbox without process: who holds its namespace

    def begin(self) -> None:
        """Take up what the files say, and listen. Raises: OSError."""
        for id in list(files.ids(self._directory)):
            try:
                sandbox = table.load(self._directory, id)
                with Given.of(sandbox) as given:
                    self._take_up(sandbox, given)
            except FileNotFoundError:
                pass
            except ProcessLookupError:
                self._end(id)
            except (Damaged, OSError) as error:
                note(f"names: sandbox {id[:12]} cannot be read: {error}")
        self._holding.rest()
        layout.boot_id()  # it is remembered
        ControlServer(self.loop, self._directory, NAMES.socket, self._asked, self.left)
        self._holding.watch(self.loop, self._said)

    def _said(self, word: str, values: list[str]) -> None:
        if word == "servers":
            self._host_servers.put(values)

    def serve(self) -> None:
        """Say that questions are answered, and answer them for ever."""
        self._holding.ready()
        self.loop.run()

    # ── sandboxes ───────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, id: str, given: Given, by: Caller) -> None:
        """Serve a sandbox as its open file says, on new sockets when there are some."""
        try:
            sandbox = table.read(given.fds["file"], id)
        except (Damaged, OSError) as error:
            note(f"names: sandbox {id[:12]} cannot be read: {error}")
            return
        self._take_up(sandbox, given)
        if id in self._table.sandboxes and not sandbox.pid and sandbox.port:
            self._unborn[id] = by

    def held_by(self, channel: socket.socket) -> None:
        """Have all sockets held by another supervisor."""
        self._holding.replace(channel)
        for id, served in self._served.items():
            self._holding.keep([id], (served.udp, served.tcp))

    def drop(self, id: str) -> None:
        """Serve a sandbox no more."""
        self._holding.drop(id)
        self._unborn.pop(id, None)
        served = self._served.pop(id, None)
        if served is not None:
            served.close()
        pidfd = self._processes.pop(id, None)
        if pidfd is not None:
            self.loop.forget(pidfd)
            os.close(pidfd)
        self._table.drop(id)
        self._answers.changed()

    def left(self, by: Caller) -> None:
        """Drop the sandboxes of an engine that has gone before they had a process."""
        for id in [id for id, whose in self._unborn.items() if whose is by]:
            self._end(id)

    def _end(self, id: str) -> None:
        self.drop(id)
        self._holding.ended(id)

    def _take_up(self, sandbox: SandboxNames, given: Given) -> None:
        id = sandbox.id
        self._table.put(sandbox)
        self._answers.changed()
        try:
            if "process" in given.fds:
                self._unborn.pop(id, None)
                self._watch(id, given)
            sockets = given.sockets()
            if sockets is not None:
                self._serve(id, *sockets)
                self._holding.keep([id], sockets)
            elif id not in self._served:
                self._serve_again(sandbox, given)
        except OSError as error:  # something else has the port
            note(f"names: sandbox {id[:12]} cannot be served: {error}")

    def _serve(self, id: str, udp: socket.socket, tcp: socket.socket) -> None:
        def handle(packet: bytes, reply: Reply, stream: bool) -> bool:
            return self._handle(id, packet, reply, stream)

        old = self._served.get(id)
        if old is not None:
            old.close()
        self._served[id] = Served(self.loop, udp, tcp, handle)

    def _serve_again(self, sandbox: SandboxNames, given: Given) -> None:
        """Go on with the sockets of an earlier name service, or with new ones on its port."""
        held = self._holding.take([sandbox.id])
        if held:
            self._serve(sandbox.id, *held[sandbox.id])
        elif "namespace" in given.fds:
            made = self._listen_again(sandbox.port, given.fds["namespace"])
            self._serve(sandbox.id, *made)
            self._holding.keep([sandbox.id], made)

    def _listen_again(self, port: int, namespace: int) -> tuple[socket.socket, socket.socket]:
        setns(namespace, CLONE_NEWNET)
        try:
            opened = listen_on(port)
        finally:
            setns(self._host_namespace, CLONE_NEWNET)
        return opened.udp, opened.tcp

    def _watch(self, id: str, given: Given) -> None:
        """End with the sandbox's first process."""
        if id not in self._processes:
            pidfd = self._processes[id] = given.fds.pop("process")
            self.loop.watch(pidfd, READ, lambda _: self._end(id))

    def _handle(self, id: str, packet: bytes, reply: Reply, stream: bool) -> bool:
        sandbox = self._table.sandboxes.get(id)
        if sandbox is None:
            return False
        answer = self._answers.answer(sandbox, packet, stream=stream)
        if isinstance(answer, bytes):
            reply(answer)
        elif isinstance(answer, Question):
            servers = sandbox.servers or self._host_servers.get()
            inside = self._served[id].udp if sandbox.servers else None
            if not sandbox.forwards:
                servers = ()
            self._forwarder.ask(id, inside, servers, packet, answer, reply, stream=stream)
        return answer is not None

    # ── control ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _asked(self, request: Mapping[str, Any], fds: list[int], caller: Caller, answer: Answer) -> None:
        if "put" in request:
            named, fds[:] = dict(zip(map(str, request["fds"]), fds, strict=True)), []
            with Given(named) as given:
                self.put(str(request["put"]), given, caller)
        elif "channel" in request:
            self.held_by(socket.socket(fileno=fds.pop()))
        else:
            self.drop(str(request["drop"]))
        answer({})


class Given:
    """The descriptors of a sandbox, by name; what is not taken out is closed at the end."""

    def __init__(self, fds: dict[str, int]) -> None:
        self.fds = fds

    @classmethod
    def of(cls, sandbox: SandboxNames) -> Given:
        """Open what a sandbox's first process leads to.

        Raises: FileNotFoundError, ProcessLookupError when that has ended, also when another process has its number.
        """
        if not sandbox.pid:
            return cls({})
        with cls({"process": os.pidfd_open(sandbox.pid)}) as opened:
            namespace = opened.fds["namespace"] = _open_namespace(sandbox.pid)
            if os.fstat(namespace).st_ino != sandbox.namespace or layout.boot_id() != sandbox.boot:
                raise ProcessLookupError(errno.ESRCH, "another process")
            fds, opened.fds = opened.fds, {}
        return cls(fds)

    def sockets(self) -> tuple[socket.socket, socket.socket] | None:
        """Take out the two sockets, when they are there."""
        if not {"udp", "tcp"} <= self.fds.keys():
            return None
        return socket.socket(fileno=self.fds.pop("udp")), socket.socket(fileno=self.fds.pop("tcp"))

    def __enter__(self) -> Given:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.fds.values():
            os.close(fd)


def _open_namespace(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, "it has ended") from error
