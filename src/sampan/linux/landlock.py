"""landlock(7): a process takes the file system, TCP ports, and signals to others away from itself.

No rule names a file: what a process of ours needs is open before, or comes to it as a descriptor.

Source: landlock(7), Documentation/userspace-api/landlock.rst, include/uapi/linux/landlock.h (ABI 1 to 7).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable

from sampan.linux.syscalls import INT, PTR, SIZE, STR, UINT, bind, fail

_create_ruleset = bind(444, STR, SIZE, UINT)
_add_rule = bind(445, INT, INT, STR, UINT)
_restrict_self = bind(446, INT, UINT)
_version = bind(444, PTR, SIZE, UINT)

_CREATE_RULESET_VERSION = 1
_RULE_NET_PORT = 2
_FS_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_NET_CONNECT_TCP = 2
_SCOPE_ALL = 3  # abstract unix sockets, signals
_NET_SINCE, _SCOPE_SINCE = 4, 6


def abi() -> int:
    """Return the version of Landlock that the kernel offers; 0 for none."""
    return max(_version(None, 0, _CREATE_RULESET_VERSION), 0)


def restrict(connects: Iterable[int] | None) -> list[str]:
    """Take away every file, every TCP connection but those to the ports `connects`, and signals to other processes.

    None leaves all TCP connections.

    Needs no_new_privs. Returns what this kernel cannot take away. Raises: OSError
    """
    version = abi()
    if version < 1:
        return ["the kernel has none"]
    net = _NET_CONNECT_TCP if version >= _NET_SINCE and connects is not None else 0
    scope = _SCOPE_ALL if version >= _SCOPE_SINCE else 0
    attributes = struct.pack("QQQ", _FS_ALL[min(version, max(_FS_ALL))], net, scope)
    known = {True: 24, False: 16 if net else 8}[bool(scope)]
    ruleset = _create_ruleset(attributes[:known], known, 0)
    if ruleset < 0:
        fail()
    try:
        for port in (connects or ()) if net else ():
            if _add_rule(ruleset, _RULE_NET_PORT, struct.pack("QQ", _NET_CONNECT_TCP, port), 0) < 0:
                fail()
        if _restrict_self(ruleset, 0) < 0:
            fail()
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # a kernel without TCP
            return ["TCP ports"]
        raise
    finally:
        os.close(ruleset)
    return [] if net or connects is None else ["TCP ports: the kernel is older than 6.7"]
