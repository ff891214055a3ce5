"""nftables through libnftables, in this process: no `nft` or `iptables` is started.

`Nftables.run` takes a text in nft's language and is atomic: all of it happens or nothing. `Elements` adds and deletes
map elements by netlink directly: libnftables first reads every table of the host, which costs 0.2 ms on an empty host
and 1.5 ms beside a few container engines; the message itself costs 0.05 ms. `Monitor` tells when somebody changed
rules. Not here: what the rules are (`engine/networks/firewall.py`).

Invariants: one context per engine, used by one thread at a time; its socket stays in the network namespace of its
opening. Source: libnftables(3), linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from sampan.linux import netlink
from sampan.linux.netlink import attribute

NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWCHAIN, NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE, NFT_MSG_NEWGEN = 3, 2, 5, 8, 15
NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM = 12, 14
NFTA_GEN_PROC_PID = 2
_NETLINK_NETFILTER, _NFPROTO_INET, _NESTED = 12, 1, 0x8000
_BATCH_BEGIN, _BATCH_END, _BATCH_GENMSG = 0x10, 0x11, struct.pack("=BBH", 0, 0, socket.htons(NFNL_SUBSYS_NFTABLES))
_LOSSES = frozenset({NFT_MSG_NEWCHAIN, NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE})
_TABLE, _RULE_CHAIN, _CHAIN_HOOK = 1, 2, 4
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEM = 1, 2, 3, 1
_ELEMENTS_A_MESSAGE = 500
_ELEM_KEY, _ELEM_DATA, _ELEM_KEY_END, _DATA_VALUE = 1, 2, 10, 1
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


_SELECT_LIMIT = 1024 - 8  # FD_SETSIZE, less what the library opens besides
OUTPUT_HANDLE, OUTPUT_JSON, OUTPUT_TERSE = 1 << 3, 1 << 4, 1 << 11


def _check_descriptor() -> None:
    """Refuse where the library would abort the process: it waits with select(2), which ends at descriptor 1023.

    A context made early keeps its low descriptor for life. Raises: OSError (EMFILE).
    """
    with open(os.devnull, "rb", buffering=0) as probe:
        if probe.fileno() >= _SELECT_LIMIT:
            raise OSError(errno.EMFILE, "libnftables needs a descriptor below 1024, and all of them are taken")


class Nftables:
    """One libnftables context; owns it."""

    def __init__(self) -> None:
        self._lib = _library()
        _check_descriptor()
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
    """Find the errno in a message: libnftables prints the kernel's reason at the end of the message and does
    not keep errno.
    """
    for number in (errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSPC, errno.ENOMEM):
        if os.strerror(number) in message:
            return number
    return errno.EINVAL


class Element(NamedTuple):
    """An element of a map, or of a set (no value), as the kernel keeps it.

    Concatenated parts, each padded to four bytes, network order. end: the last key of an interval, where it is one.
    """

    map: str
    key: bytes
    value: bytes = b""
    end: bytes = b""


class Transactions:
    """A socket for changes of rules, each all or nothing, in the network namespace of its opening; owns it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def send(self, parts: Sequence[tuple[int, int, bytes]], what: str) -> None:
        """Do all parts, (message type of nftables, netlink flags, body), or none. what: for the error's text.

        Raises: OSError of the first that cannot be done.
        """
        first = self._sequence + 1
        messages = [self._message(_BATCH_BEGIN, 0, _BATCH_GENMSG)]
        for n, (type_, flags, body) in enumerate(parts, 1):
            # one acknowledgement, of the last: thousands would not fit the socket's buffer. Errors come unasked.
            ack = netlink.NLM_F_ACK if n == len(parts) else 0
            messages.append(self._message(NFNL_SUBSYS_NFTABLES << 8 | type_, flags | ack, body))
        messages.append(self._message(_BATCH_END, 0, _BATCH_GENMSG))
        self._socket.send(b"".join(messages))
        while True:
            for kind, _, sequence, body in netlink.messages(self._socket.recv(_RECEIVE_BYTES)):
                if kind == netlink.NLMSG_ERROR and first <= sequence <= self._sequence:
                    (code,) = struct.unpack_from("=i", body)
                    if code:
                        raise OSError(-code, os.strerror(-code), what)
                    return

    def _message(self, type_: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        return struct.pack("=IHHII", 16 + len(body), type_, flags | netlink.NLM_F_REQUEST, self._sequence, 0) + body


class Elements:
    """Changes of map elements, by a socket that it owns."""

    def __init__(self) -> None:
        self._transactions = Transactions()

    def close(self) -> None:
        self._transactions.close()

    def change(self, table: str, *, delete: Iterable[Element] = (), add: Iterable[Element] = ()) -> None:
        """Delete elements of maps and sets of an inet table by their keys, then add others: all of it or nothing.

        Raises: OSError EEXIST (in a map), ENOENT (no such table, map or element), …
        """
        parts = [*_bodies(table, NFT_MSG_DELSETELEM, delete), *_bodies(table, NFT_MSG_NEWSETELEM, add)]
        if parts:
            self._transactions.send(parts, f"elements of table {table}")


def _bodies(table: str, type_: int, elements: Iterable[Element]) -> Iterator[tuple[int, int, bytes]]:
    """Yield (type, flags, body) of at most `_ELEMENTS_A_MESSAGE` elements of one map each: an attribute ends at 64 KiB.

    Adding to a set what it has already is fine.
    """
    by_map: dict[str, list[Element]] = {}
    for element in elements:
        by_map.setdefault(element.map, []).append(element)
    adds = type_ == NFT_MSG_NEWSETELEM
    for map_, all_ in by_map.items():
        flags = (netlink.NLM_F_CREATE | (netlink.NLM_F_EXCL if all_[0].value else 0)) if adds else 0
        packed = [_element(e.key, e.end, e.value if adds else b"") for e in all_]
        for n in range(0, len(packed), _ELEMENTS_A_MESSAGE):
            yield (
                type_,
                flags,
                struct.pack("=BBH", _NFPROTO_INET, 0, 0)
                + attribute(_LIST_TABLE, table.encode() + b"\0")
                + attribute(_LIST_SET, map_.encode() + b"\0")
                + attribute(_LIST_ELEMENTS | _NESTED, b"".join(packed[n : n + _ELEMENTS_A_MESSAGE])),
            )


def _element(key: bytes, end: bytes, value: bytes) -> bytes:
    inner = attribute(_ELEM_KEY | _NESTED, attribute(_DATA_VALUE, key))
    if end:
        inner += attribute(_ELEM_KEY_END | _NESTED, attribute(_DATA_VALUE, end))
    if value:
        inner += attribute(_ELEM_DATA | _NESTED, attribute(_DATA_VALUE, value))
    return attribute(_LIST_ELEM | _NESTED, inner)


class Monitor:
    """A socket that becomes readable when anybody changes the rules of this network namespace.

    Other programs change theirs all the time: what counts is a loss in `table`, a table that is gone, a chain at a hook
    that came, went or changed its policy, and a rule taken out of one of `chains` of other tables.
    """

    def __init__(self, table: str, chains: Collection[str]) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))
        self._socket.setblocking(False)
        self._table, self._chains = table, chains
        self._loss = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def disturbed(self) -> bool:
        """Read what is pending; True when another process did what counts."""
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
        """Follow transactions: what they change comes first, then the message that closes them and names the
        process.
        """
        foreign = False
        for type_, _, _, body in netlink.messages(datagram):
            kind = type_ & 0xFF
            if kind == NFT_MSG_NEWGEN:
                pid = netlink.attributes(body, 4).get(NFTA_GEN_PROC_PID)
                foreign |= self._loss and not (pid and _is_own(struct.unpack("!I", pid)[0]))
                self._loss = False
            elif kind in _LOSSES and not self._loss:
                self._loss = self._counts(kind, netlink.attributes(body, 4))
        return foreign

    def _counts(self, kind: int, attributes: dict[int, bytes]) -> bool:
        if attributes.get(_TABLE, b"").rstrip(b"\0").decode() == self._table or kind == NFT_MSG_DELTABLE:
            return kind != NFT_MSG_NEWCHAIN
        if kind == NFT_MSG_DELRULE:
            return attributes.get(_RULE_CHAIN, b"").rstrip(b"\0").decode() in self._chains
        return _CHAIN_HOOK in attributes


def _is_own(task: int) -> bool:
    """Return whether a task is a thread of this process: the kernel names the thread, not the process."""
    return os.path.exists(f"/proc/self/task/{task}")
