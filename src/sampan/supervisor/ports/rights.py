"""What the carrier of ports may do once it has started: the table of its rights (linux/confinement.py).

Whoever is on the network, and whoever is in a container, can send it what they like, so it is built to be taken over
without loss: it opens no file and no socket of the host's file system, starts nothing, and sees no packet but those of
its own sockets. It connects to any TCP port, because containers listen where they like.
"""

from __future__ import annotations

import fcntl
import socket
import termios

from sampan.linux.confinement import Among, Rights
from sampan.supervisor.kept.rights import SERVING
from sampan.supervisor.ports import tcp, udp

_FIONBIO = 0x5421
_KIND_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
_OPTIONS = {
    socket.SOL_SOCKET: (socket.SO_REUSEADDR, socket.SO_KEEPALIVE, socket.SO_LINGER),
    socket.IPPROTO_TCP: (socket.TCP_NODELAY, *(option for option, _ in tcp.KEEPALIVE)),
    socket.IPPROTO_IP: (udp.IP_PKTINFO,),
    socket.IPPROTO_IPV6: (socket.IPV6_V6ONLY, udp.IPV6_RECVPKTINFO),
}
_FLAGS = (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL, fcntl.F_DUPFD_CLOEXEC)

RIGHTS = Rights(
    calls={
        **SERVING,
        "socket": (
            (
                Among(0, (socket.AF_INET, socket.AF_INET6)),
                Among(1, (socket.SOCK_DGRAM, socket.SOCK_STREAM), ignoring=_KIND_FLAGS),
                Among(2, (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP)),
            ),
        ),
        "splice": (),
        "pipe2": (),
        "connect": (),
        "bind": (),
        "listen": (),
        "setsockopt": tuple((Among(1, (level,)), Among(2, options)) for level, options in _OPTIONS.items()),
        "ioctl": ((Among(1, (_FIONBIO, termios.TIOCOUTQ)),),),
        "fcntl": ((Among(1, _FLAGS),),),
    },
    capabilities=("CAP_NET_BIND_SERVICE",),
    connects=None,
)
"""The capability: for ports below 1024 that have to be opened again."""
