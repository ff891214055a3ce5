"""The creator: a fork of the shim that makes the shim's container and ends.

Making a container writes to a few hundred pages of the interpreter's memory, if only to count references, and each is a
private copy from then on. They die with the creator, while the shim, which lives as long as its container, keeps the
pages that it shares with the zygote. The creator is forked while the shim waits in reserve, so no start waits for it.

Init is cloned as the creator's sibling, so it is the shim's child: the shim reaps it, and init dies when the shim dies,
not when the creator does (PDEATHSIG follows the parent, and CLONE_PARENT makes that the shim). Until the hand-over the
creator holds init's gate: when either of the two dies in the midst of the work, so do creator and init, and whoever is
left clears the cgroup that shim.json names.

On a pair of stream sockets, one of each (frames as in wire.py, descriptors beside them):

    shim ──▶ creator    {"id", "rootfs", "seccomp", "sources"} + the process's stdio, none with a terminal, and
                        a descriptor for each of `sources`, which are places in the spec (wire.py)
    creator ──▶ shim    {"ok": values} + descriptors, for runtime.Handover  |  {"error": …}

Source: clone(2) "CLONE_PARENT", prctl(2) "PR_SET_PDEATHSIG".
"""

from __future__ import annotations

import _socket
import os
import select
import sys
from signal import SIGKILL
from typing import Any, NoReturn

from sampan.errors import InvalidArgument
from sampan.linux import process
from sampan.linux.cgroups import groups
from sampan.runtime import container as runtime
from sampan.runtime import warm
from sampan.runtime.failure import RuntimeFailure
from sampan.runtime.steps.process import close_others
from sampan.supervisor import layout, notes, title, wire
from sampan.supervisor.notes import note

_PIECE_BYTES = 16 * 1024
_QUIET_MS = 2


class Creator:
    """The shim's end."""

    def __init__(self, exec_root: str) -> None:
        self._exec_root = exec_root
        self._unframer = wire.Unframer()
        self._fds: list[int] = []
        self._peer = self._fork()

    def _fork(self) -> _socket.socket:
        shim = os.getpid()
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
        self._pid = process.fork()
        if self._pid == 0:
            _run(self._exec_root, shim, theirs)
        theirs.close()
        return ours

    def ask(self, request: wire.TaskCreateRequest, stdio: tuple[int, int, int] | None, sources: dict[str, int]) -> None:
        """Have the container of tasks/<id>/config.json made; `take` tells of it. Raises OSError.

        sources: place in the spec (wire.py) → descriptor.
        """
        message = {
            "id": request["id"],
            "rootfs": request["rootfs"],
            "seccomp": request["seccomp"],
            "sources": [*sources],
        }
        fds = [*(stdio or ()), *sources.values()]
        try:
            _send(self._peer, message, fds)
        except BrokenPipeError:  # it was killed while it waited
            self._peer.close()
            self._peer = self._fork()
            _send(self._peer, message, fds)

    def fileno(self) -> int:
        return self._peer.fileno()

    def take(self) -> runtime.Handover | None:
        """Return what has been handed over, None as long as nothing has; does not wait.

        Raises: what the creator says went wrong, with nothing left; EOFError when it was killed.
        """
        try:
            data, fds = wire.receive(self._peer, _PIECE_BYTES, wait=False)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data, fds = b"", []
        self._fds += fds
        if not data:
            raise EOFError
        for message in self._unframer.feed(data):
            if "error" in message:
                raise wire.error_from_wire(message["error"])
            return runtime.Handover(message["ok"], self._fds)
        return None

    def kill(self) -> None:
        """It is stuck."""
        try:
            os.kill(self._pid, SIGKILL)  # our child, and nobody reaps while it is at work
        except ProcessLookupError:
            pass

    def dismiss(self) -> None:
        """It has done its work, or is not needed; it ends."""
        self._peer.close()


def read_spec(directory: str) -> dict[str, Any]:
    """Read a task's config.json. Raises InvalidArgument, OSError."""
    try:
        with open(f"{directory}/config.json", "rb") as file:
            spec = wire.decode(file.read())
    except ValueError as e:
        raise InvalidArgument(f"config.json: {e}") from e
    if not isinstance(spec, dict):
        raise InvalidArgument("config.json: not an object")
    return spec


def clear(directory: str) -> None:
    """Take away what a creator left that was killed; its init has seen the end of its channel and goes by itself."""
    shim = layout.read_shim(directory)
    if shim and shim["cgroup"]:
        cgroup = groups.load(shim["cgroup"])
        try:
            cgroup.kill()
            cgroup.delete()
        except OSError as e:  # the supervisor goes on
            note(f"{directory}: {e}")


# ── the creator's side ────────────────────────────────────────────────────────────────────────────────────────────────


def _run(exec_root: str, shim: int, peer: _socket.socket) -> NoReturn:
    """Wait for the one request, make the container, hand it over, end."""
    try:
        process.prctl(process.PR_SET_PDEATHSIG, SIGKILL)
        close_others([peer.fileno()])
        title.set_title(f"sampan-creator (waiting) {exec_root}")
        process.set_name("sampan-creator")
        if os.getppid() == shim:
            _prepare(peer)
            _serve(exec_root, peer)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        notes.flush()
        os._exit(0)


def _prepare(peer: _socket.socket) -> None:
    """Use a quiet moment to get the pages that the work will write to: a third of its time, otherwise."""
    requests: Any = select.poll()
    requests.register(peer.fileno(), select.POLLIN)
    if not requests.poll(_QUIET_MS):
        warm.once()


def _serve(exec_root: str, peer: _socket.socket) -> None:
    try:
        request, fds = _receive(peer)
    except EOFError:
        return
    stdio, sources = fds[: len(fds) - len(request["sources"])], fds[len(fds) - len(request["sources"]) :]
    title.set_title(f"sampan-creator {request['id'][:12]} {exec_root}")
    directory = layout.task_dir(exec_root, request["id"])
    try:
        runtime.create_for_parent(
            read_spec(directory),  # validated by the supervisor
            id=request["id"],
            bundle=directory,
            rootfs=request["rootfs"],
            options=runtime.CreateOptions(
                stdio=(stdio[0], stdio[1], stdio[2]) if stdio else None,
                seccomp_bpf=layout.read_filter(request["seccomp"]),
                sources=dict(zip(request["sources"], sources, strict=True)),
            ),
            hand_over=lambda values, fds: _send(peer, {"ok": values}, fds),
        )
    except RuntimeFailure as e:
        _send(peer, {"error": wire.error_to_wire(wire.TaskFailed(e.step, e.errno, e.message))}, [])
    except Exception as e:
        _send(peer, {"error": wire.error_to_wire(e)}, [])


# ── both ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _send(peer: _socket.socket, message: dict[str, Any], fds: tuple[int, ...] | list[int]) -> None:
    """Send one message; the socket blocks until all of it is on its way."""
    data = wire.frame(message)
    sent = wire.send(peer, data, fds)
    if sent < len(data):
        peer.sendall(data[sent:])


def _receive(peer: _socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for one message. Raises EOFError when the other side has gone."""
    unframer = wire.Unframer()
    fds: list[int] = []
    while True:
        try:
            data, more = wire.receive(peer, _PIECE_BYTES)
        except ConnectionResetError:
            data, more = b"", []
        fds += more
        if not data:
            raise EOFError
        for message in unframer.feed(data):
            return message, fds
