"""The name service: all sandboxes of one exec root, in one loop.

sampand writes a sandbox's file (table.py) and says so on the control socket, with the sandbox's sockets when it is
new. Everything else is in the files: a name service that was killed makes the same sockets again, and goes on. A
sandbox is served until sampand drops it, or its first process has ended.

Control protocol, SOCK_SEQPACKET: {"n": number, "put": id} with the UDP and the TCP socket when they are new, or
{"n": number, "drop": id}; the answer {"n": number} says that it is done. Only our own user may ask.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from sampan.linux.loop import HANG_UP, READ, Loop
from sampan.linux.namespaces import CLONE_NEWNET, setns
from sampan.supervisor import layout
from sampan.supervisor.names import table
from sampan.supervisor.names.answers import Answers, Question
from sampan.supervisor.names.forwarder import Forwarder
from sampan.supervisor.names.held import Holding
from sampan.supervisor.names.served import Reply, Served
from sampan.supervisor.names.sockets import SOCKET, listen_on
from sampan.supervisor.names.table import Damaged, NameTable, SandboxNames
from sampan.supervisor.notes import note

_MESSAGE_BYTES = 4096
_RIGHTS_BYTES = socket.CMSG_SPACE(2 * 4)


class NameServer:
    """directory: where the sandboxes' files and the control socket are."""

    def __init__(self, directory: str, holding: Holding) -> None:
        self._directory = directory
        self._holding = holding  # the sockets, while this process is not there
        self.loop = Loop()
        self._table = NameTable()
        self._answers = Answers(self._table)
        self._forwarder = Forwarder(self.loop)
        self._host_namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._served: dict[str, Served] = {}
        self._processes: dict[str, int] = {}  # of a sandbox: the pidfd of its first process
        self._unborn: dict[str, _Control] = {}  # of a sandbox without process: who holds its namespace

    def serve(self) -> None:
        """Take up what the files say, listen, say so, and serve for ever."""
        for id in list(table.ids(self._directory)):
            self._take_up(id, ())
        self._holding.rest()
        self._listener = layout.listen(self._directory, SOCKET, kind=socket.SOCK_SEQPACKET)
        self.loop.watch(self._listener.fileno(), READ, self._accept)
        self._holding.ready()
        self.loop.run()

    # ── sandboxes ───────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, id: str, sockets: Sequence[socket.socket], by: _Control) -> None:
        """Serve a sandbox as its file says, on new sockets when there are some."""
        self._take_up(id, sockets)
        sandbox = self._table.sandboxes.get(id)
        if sandbox is not None and not sandbox.pid and sandbox.port:
            self._unborn[id] = by

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

    def left(self, by: _Control) -> None:
        """Drop the sandboxes of an engine that has gone before they had a process."""
        for id in [id for id, whose in self._unborn.items() if whose is by]:
            self._end(id)

    def _end(self, id: str) -> None:
        self.drop(id)
        with contextlib.suppress(OSError):
            os.unlink(f"{self._directory}/{table.file_name(id)}")

    def _take_up(self, id: str, sockets: Sequence[socket.socket]) -> None:
        try:
            sandbox = table.load(self._directory, id)
        except (Damaged, OSError) as error:
            note(f"names: sandbox {id[:12]} cannot be read: {error}")
            return
        if sandbox is None:
            self.drop(id)
            return
        self._table.put(sandbox)
        self._answers.changed()
        try:
            if sandbox.pid:
                self._unborn.pop(id, None)
                self._watch(sandbox)
            if sockets:
                self._serve(id, *sockets)
                self._holding.keep(id, *sockets)
            elif id not in self._served:
                self._serve_again(sandbox)
        except OSError as error:  # its process has ended, or something else has the port
            note(f"names: sandbox {id[:12]} cannot be served: {error}")
            if isinstance(error, (FileNotFoundError, ProcessLookupError)):
                self._end(id)

    def _serve(self, id: str, udp: socket.socket, tcp: socket.socket) -> None:
        def handle(packet: bytes, reply: Reply, stream: bool) -> None:
            self._handle(id, packet, reply, stream)

        old = self._served.get(id)
        if old is not None:
            old.close()
        self._served[id] = Served(self.loop, udp, tcp, handle)

    def _serve_again(self, sandbox: SandboxNames) -> None:
        """Go on with the sockets of an earlier name service, or with new ones on its port."""
        held = self._holding.take(sandbox.id)
        if held is not None:
            self._serve(sandbox.id, *held)
        elif sandbox.pid:
            made = self._listen_again(sandbox)
            self._serve(sandbox.id, *made)
            self._holding.keep(sandbox.id, *made)

    def _listen_again(self, sandbox: SandboxNames) -> tuple[socket.socket, socket.socket]:
        namespace = _open_namespace(sandbox)
        try:
            setns(namespace, CLONE_NEWNET)
            try:
                opened = listen_on(sandbox.port)
            finally:
                setns(self._host_namespace, CLONE_NEWNET)
        finally:
            os.close(namespace)
        return opened.udp, opened.tcp

    def _watch(self, sandbox: SandboxNames) -> None:
        """End with the sandbox's first process. Raises: ProcessLookupError, FileNotFoundError when it has ended."""
        if sandbox.id in self._processes:
            return
        pidfd = os.pidfd_open(sandbox.pid)
        try:
            os.close(_open_namespace(sandbox))  # the descriptor was first: what is there now is what it stands for
        except BaseException:
            os.close(pidfd)
            raise
        self._processes[sandbox.id] = pidfd
        self.loop.watch(pidfd, READ, lambda _: self._end(sandbox.id))

    def _handle(self, id: str, packet: bytes, reply: Reply, stream: bool) -> None:
        sandbox = self._table.sandboxes.get(id)
        if sandbox is None:
            return
        answer = self._answers.answer(sandbox, packet, stream=stream)
        if isinstance(answer, bytes):
            reply(answer)
        elif isinstance(answer, Question):
            servers = sandbox.servers or self._forwarder.host_servers.get()
            inside = self._served[id].udp if sandbox.servers else None
            if not sandbox.forwards:
                servers = ()
            self._forwarder.ask(id, inside, servers, packet, answer, reply, stream=stream)

    # ── control ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _accept(self, _: int) -> None:
        try:
            peer, _address = self._listener.accept()
        except OSError:
            return
        if layout.peer_uid(peer) != os.geteuid():
            peer.close()
            return
        _Control(self, peer)


def _open_namespace(sandbox: SandboxNames) -> int:
    """Open a sandbox's namespace by its process.

    Raises: FileNotFoundError, ProcessLookupError when that has ended, also when another process has its number.
    """
    namespace = os.open(f"/proc/{sandbox.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if os.fstat(namespace).st_ino != sandbox.namespace or layout.boot_id() != sandbox.boot:
        os.close(namespace)
        raise ProcessLookupError(sandbox.pid, "another process")
    return namespace


class _Control:
    """A connection of an engine."""

    def __init__(self, service: NameServer, peer: socket.socket) -> None:
        self._service, self._peer = service, peer
        peer.setblocking(False)
        service.loop.watch(peer.fileno(), READ, self._ready)

    def _ready(self, mask: int) -> None:
        try:
            message, rights, _, _ = self._peer.recvmsg(_MESSAGE_BYTES, _RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            message, rights = b"", []
        if not message:
            self._service.loop.forget(self._peer.fileno())
            self._peer.close()
            self._service.left(self)
            return
        numbers = rights[0][2] if rights else b""
        sockets = [
            socket.socket(fileno=int.from_bytes(numbers[n : n + 4], sys.byteorder)) for n in range(0, len(numbers), 4)
        ]
        try:
            request: dict[str, Any] = json.loads(message)
            if "put" in request:
                self._service.put(str(request["put"]), sockets if len(sockets) == 2 else (), self)
            else:
                self._service.drop(str(request["drop"]))
            self._peer.send(json.dumps({"n": request["n"]}).encode())
        except (ValueError, KeyError, TypeError) as error:
            note(f"names: a request that is none: {error}")
        except OSError:
            pass  # nobody reads the answer: the files say it all
        if mask & HANG_UP:
            self._ready(READ)
