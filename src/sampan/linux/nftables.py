"""nftables through libnftables, in this process: no `nft` or `iptables` is started.

`Nftables.run` takes a text in nft's language and is atomic: all of it happens or nothing. Not here: what the rules are
(`engine/networks/firewall.py`). `Monitor` tells when somebody changed rules.

Invariants: one context per engine, used by one thread at a time; its socket stays in the network namespace of its
opening. Source: libnftables(3), linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from functools import cache

NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWCHAIN, NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE, NFT_MSG_NEWGEN = 3, 2, 5, 8, 15
NFTA_GEN_PROC_PID = 2
_CTX_DEFAULT = 0
_RECEIVE_BYTES = 1 << 17


@cache
def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL("libnftables.so.1", use_errno=True)
    lib.nft_ctx_new.argtypes, lib.nft_ctx_new.restype = [ctypes.c_uint32], ctypes.c_void_p
    lib.nft_ctx_free.argtypes, lib.nft_ctx_free.restype = [ctypes.c_void_p], None
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(lib, name).argtypes, getattr(lib, name).restype = [ctypes.c_void_p], ctypes.c_int
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(lib, name).argtypes, getattr(lib, name).restype = [ctypes.c_void_p], ctypes.c_char_p
    lib.nft_run_cmd_from_buffer.argtypes, lib.nft_run_cmd_from_buffer.restype = (
        [ctypes.c_void_p, ctypes.c_char_p],
        ctypes.c_int,
    )
    lib.nft_ctx_output_set_flags.argtypes, lib.nft_ctx_output_set_flags.restype = [ctypes.c_void_p, ctypes.c_uint], None
    return lib


OUTPUT_HANDLE, OUTPUT_JSON, OUTPUT_TERSE = 1 << 3, 1 << 4, 1 << 11


class Nftables:
    """One libnftables context; owns it."""

    def __init__(self) -> None:
        self._lib = _library()
        self._context: int | None = self._lib.nft_ctx_new(_CTX_DEFAULT)
        if not self._context:
            raise OSError(errno.ENOMEM, "nft_ctx_new failed")
        self._lib.nft_ctx_buffer_output(self._context)
        self._lib.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        if self._context:
            self._lib.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str, *, flags: int = 0) -> str:
        """Execute nft commands; return what they print (`flags`: OUTPUT_…).

        Raises: OSError with nft's message (errno EINVAL when it names none).
        """
        if not self._context:
            raise OSError(errno.EBADF, "the nftables context is closed")
        self._lib.nft_ctx_output_set_flags(self._context, flags)
        failed = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._lib.nft_ctx_get_output_buffer(self._context) or b""
        said = self._lib.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            lines = said.decode(errors="replace").strip().splitlines() or ["nft failed and does not say why"]
            raise OSError(_errno_of(lines[0]), lines[0])
        return bytes(output).decode(errors="replace")


def _errno_of(message: str) -> int:
    """libnftables prints the kernel's reason at the end of the message and does not keep errno."""
    for number in (errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSPC, errno.ENOMEM):
        if os.strerror(number) in message:
            return number
    return errno.EINVAL


class Monitor:
    """A socket that becomes readable when anybody changes the rules of this network namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 12)  # NETLINK_NETFILTER
        self._socket.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))
        self._socket.setblocking(False)
        self._loss = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def disturbed(self) -> bool:
        """Read what is pending; True when another process deleted tables, chains or rules, or created a chain."""
        suspicious = False
        while True:
            try:
                datagram = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return suspicious
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                suspicious = True  # notifications were lost: assume the worst
                continue
            suspicious |= self._foreign_loss(datagram)

    def _foreign_loss(self, datagram: bytes) -> bool:
        """Follow transactions: what they delete comes first, then the message that closes them and names the process."""
        foreign, offset = False, 0
        while offset + 20 <= len(datagram):
            length, type_ = struct.unpack_from("=IH", datagram, offset)
            kind = type_ & 0xFF
            if kind in (NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE, NFT_MSG_NEWCHAIN):
                self._loss = True
            elif kind == NFT_MSG_NEWGEN:
                pid = _attribute(datagram[offset + 20 : offset + length], NFTA_GEN_PROC_PID)
                foreign |= self._loss and not (pid and _is_own(struct.unpack("!I", pid)[0]))
                self._loss = False
            offset += (length + 3) & ~3
        return foreign


def _is_own(task: int) -> bool:
    """Whether a task is a thread of this process: the kernel names the thread, not the process."""
    return os.path.exists(f"/proc/self/task/{task}")


def _attribute(data: bytes, wanted: int) -> bytes | None:
    offset = 0
    while offset + 4 <= len(data):
        length, type_ = struct.unpack_from("=HH", data, offset)
        if type_ & 0x3FFF == wanted:
            return data[offset + 4 : offset + length]
        offset += max((length + 3) & ~3, 4)
    return None
