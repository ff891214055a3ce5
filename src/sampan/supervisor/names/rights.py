"""What the name service may do once it has started: the table of its rights (linux/confinement.py).

It answers whoever is in a container, so it is built to be taken over without loss: it opens no file, connects to no
socket of the host's file system and starts nothing. What it needs of files it has read before, or gets as descriptors
from sampand, or asks the supervisor for (held.py).

It may enter network namespaces, but no other kind: with `setns` of anything else, and with netlink, raw sockets and
the options of sockets, `CAP_SYS_ADMIN` and `CAP_NET_ADMIN` would be worth much more.
"""

from __future__ import annotations

import fcntl
import socket

from sampan.linux.confinement import Among, Rights
from sampan.linux.namespaces import CLONE_NEWNET
from sampan.supervisor.kept.rights import SERVING

SIOCGSKNS = 0x894C  # the network namespace of a socket
SIOCGIFINDEX = 0x8933
_FIONBIO = 0x5421
_KIND_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK

RIGHTS = Rights(
    calls={
        **SERVING,
        "socket": (
            (
                Among(0, (socket.AF_INET, socket.AF_INET6)),
                Among(1, (socket.SOCK_DGRAM, socket.SOCK_STREAM), ignoring=_KIND_FLAGS),
                Among(2, (0,)),
            ),
        ),
        "connect": (),
        "bind": (),
        "listen": (),
        "setsockopt": ((Among(1, (socket.SOL_SOCKET,)), Among(2, (socket.SO_REUSEADDR,))),),
        "fcntl": ((Among(1, (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL)),),),
        "ioctl": ((Among(1, (SIOCGSKNS, SIOCGIFINDEX, _FIONBIO)),),),
        "setns": ((Among(1, (CLONE_NEWNET,)),),),
    },
    capabilities=("CAP_SYS_ADMIN", "CAP_NET_ADMIN"),
    connects=(53,),
)
"""Capabilities: for setns(2), and for the namespace of a socket."""
