"""The processes that a supervisor keeps beside itself: what they are called and where their things lie. Pure.

Of each there is one for an exec root. It has a directory there with its table files, its lock, which holds its pid, and
its control socket.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptProcess:
    """One kind of process. what: in messages. sockets: how many the supervisor holds for each thing that is served.

    always: it is kept once it has been wanted; else only while there are table files.
    """

    what: str
    directory: str
    lock: str
    socket: str
    module: str
    sockets: int
    always: bool


NAMES = KeptProcess(
    what="the name service",
    directory="names",
    lock="names.pid",
    socket="names.sock",
    module="sampan.supervisor.names.main",
    sockets=2,
    always=True,
)
PORTS = KeptProcess(
    what="the carrier of ports",
    directory="ports",
    lock="ports.pid",
    socket="ports.sock",
    module="sampan.supervisor.ports.main",
    sockets=1,
    always=False,
)
