"""The system calls that every kept process needs to serve (linux/confinement.py): to wait, move bytes, and have memory.

What opens a file or a socket, or changes one, is not here: each process has its own table of that.
"""

from __future__ import annotations

import mmap

from sampan.linux.confinement import Alternatives, Among, Without

_NOT_EXECUTABLE = Without(2, mmap.PROT_EXEC)

SERVING: dict[str, Alternatives] = {
    "epoll_wait": (),
    "epoll_pwait": (),
    "recvfrom": (),
    "sendto": (),
    "epoll_ctl": (),
    "close": (),
    "clock_gettime": (),
    "futex": (),
    "brk": (),
    "mmap": ((_NOT_EXECUTABLE,),),
    "munmap": (),
    "mremap": (),
    "madvise": (),
    "mprotect": ((_NOT_EXECUTABLE,),),
    "accept4": (),
    "getsockname": (),
    "getpeername": (),
    "getsockopt": (),
    "shutdown": (),
    "sendmsg": (),
    "recvmsg": (),
    "poll": (),
    "ppoll": (),
    "read": (),
    "pread64": (),
    "write": (),
    "writev": (),
    "lseek": (),
    "ftruncate": ((Among(0, (2,)),),),
    "getrandom": (),
    "getpid": (),
    "geteuid": (),
    "gettid": (),
    "sched_yield": (),
    "rt_sigaction": (),
    "rt_sigprocmask": (),
    "rt_sigreturn": (),
    "restart_syscall": (),
    "exit": (),
    "exit_group": (),
}
