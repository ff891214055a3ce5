"""What somebody would try who runs code in one of our processes: in one confined as such a process is, and free.

python -m tests.support.takeover names|ports|free DIRECTORY PORT

DIRECTORY has `secret`, a file, `deleted`, another, and `engine`, a listening unix socket; on PORT of 127.0.0.1 somebody
listens. Prints a JSON object: for each attempt the name of its errno, or "done".
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import sys
import threading
from collections.abc import Callable

from sampan.linux.confinement import confine
from sampan.linux.namespaces import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, setns, unshare
from sampan.linux.process import pidfd_getfd
from sampan.linux.syscalls import openat2
from sampan.supervisor.names import rights as names
from sampan.supervisor.ports import rights as ports

KINDS = {"names": names.RIGHTS, "ports": ports.RIGHTS}
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Try everything, and say what came of it."""
    kind, directory, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    attempts = _attempts(directory, port)
    if kind in KINDS:
        confine(KINDS[kind])
    print(json.dumps({name: _outcome(attempt) for name, attempt in attempts.items()}))


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except RuntimeError as error:  # a thread
        return str(error)
    return "done"


def _attempts(directory: str, port: int) -> dict[str, Callable[[], object]]:
    mount_namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    pidfd = os.pidfd_open(os.getpid())
    own = os.getpid()

    def fork() -> None:
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)

    def connect(family: int, kind: int, address: str | tuple[str, int]) -> None:
        with socket.socket(family, kind) as peer:
            peer.connect(address)

    def call(name: str, *arguments: object) -> None:
        if getattr(_LIBC, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)

    def started() -> None:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()

    return {
        "open a file": lambda: os.close(os.open(f"{directory}/secret", os.O_RDONLY)),
        "open a file, by openat2": lambda: os.close(openat2(-100, f"{directory}/secret", os.O_RDONLY)),
        "make a file": lambda: os.close(os.open(f"{directory}/made", os.O_WRONLY | os.O_CREAT)),
        "look at a file": lambda: os.stat(f"{directory}/secret"),
        "list a directory": lambda: os.listdir(directory),
        "delete a file": lambda: os.unlink(f"{directory}/deleted"),
        "rename a file": lambda: os.rename(f"{directory}/secret", f"{directory}/renamed"),
        "link to a file": lambda: os.symlink("/", f"{directory}/link"),
        "connect to the engine": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, f"{directory}/engine"),
        "connect to another port": lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port)),
        "fork": fork,
        "start a thread": started,
        "start a program": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
        "become a program": lambda: call("execve", b"/nonexistent", None, None),
        "memory for a program": lambda: os.close(os.memfd_create("x")),
        "executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
        "make memory executable": lambda: call(
            "mprotect", ctypes.c_void_p(id(_PAGES) & ~4095), ctypes.c_size_t(4096), 7
        ),
        "a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close(),
        "a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
        "a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "another mount namespace": lambda: setns(mount_namespace, CLONE_NEWNS),
        "any namespace": lambda: setns(mount_namespace, 0),
        "a new network namespace": lambda: unshare(CLONE_NEWNET),
        "a descriptor of another process": lambda: os.close(pidfd_getfd(pidfd, 0)),
        "a signal to another process": lambda: os.kill(os.getppid(), 0),
        "mount": lambda: call("mount", b"none", directory.encode(), b"tmpfs", 0, None),
        "the limits of another": lambda: call("prlimit64", own, 7, None, ctypes.create_string_buffer(16)),
        "a new user namespace": lambda: unshare(CLONE_NEWUSER),  # no right over the host's is left
        "change the root": lambda: os.chroot(directory),
    }


_PAGES = bytearray(3 * 4096)

if __name__ == "__main__":
    main()
