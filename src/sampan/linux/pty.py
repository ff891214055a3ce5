"""Pseudo-terminals by descriptor: no path below /dev/pts is ever opened by name.

Source: pts(4), ioctl_tty(2).
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from sampan.linux.syscalls import DEVPTS_SUPER_MAGIC, fstatfs_type

TIOCSPTLCK = 0x40045431
TIOCGPTN = 0x80045430
TIOCGPTPEER = 0x5441
_O_FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC


def open_pair(pts_fd: int) -> tuple[int, int]:
    """Open a new terminal of the devpts instance whose root directory is `pts_fd`; return (master, slave).

    Raises: OSError when the directory is not on devpts, or has no ptmx.
    """
    if fstatfs_type(pts_fd) != DEVPTS_SUPER_MAGIC:
        raise OSError(19, "not a devpts file system", "/dev/pts")
    master = os.open("ptmx", _O_FLAGS | os.O_NOFOLLOW, dir_fd=pts_fd)
    try:
        return master, peer(master)
    except BaseException:
        os.close(master)
        raise


def peer(master: int) -> int:
    """Unlock the terminal behind `master` and open its slave."""
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    return fcntl.ioctl(master, TIOCGPTPEER, _O_FLAGS)


def set_size(fd: int, height: int, width: int) -> None:
    """Set the window size in rows and columns."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def get_size(fd: int) -> tuple[int, int]:
    """Return the window size as (height, width)."""
    height, width, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    return height, width


def change_output(fd: int, *, set_: int = 0, clear: int = 0) -> None:
    """Change the output flags (OPOST, ONLCR …) of a terminal."""
    mode = termios.tcgetattr(fd)
    mode[1] = (mode[1] | set_) & ~clear
    termios.tcsetattr(fd, termios.TCSANOW, mode)


def leave_line_ends(fd: int) -> None:
    """Have a terminal write line feeds as they are: who shows them makes the line ends."""
    change_output(fd, clear=termios.ONLCR)


def make_controlling(fd: int) -> None:
    """Make the terminal the controlling one of the calling session leader."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
