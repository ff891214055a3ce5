"""Hand a terminal's master to whoever listens on a console socket, as `--console-socket` of an OCI runtime promises.

One message on a stream socket: the descriptor as SCM_RIGHTS, a name as data.

Source: the reference runtime's docs/terminals.md.
"""

from __future__ import annotations

import _socket
import array
import os


def send_master(path: str, master: int) -> None:
    """Send `master` to the listener at `path`; the caller still owns it. Raises: OSError."""
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
    try:
        client.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")  # sun_path holds 107 bytes only
        client.sendmsg([b"/dev/ptmx"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [master]))])
    finally:
        client.close()
        os.close(directory)
