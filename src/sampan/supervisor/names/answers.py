"""One question, one answer: what the name service says by itself, and what it forwards. Pure.

A question is looked at once: whatever is wrong with it, it gets the answer that Docker's resolver gives, or none.
dnslib reads and writes the messages; its work is kept, so a question asked again costs a lookup.

Source: RFC 1035, RFC 6891 (EDNS); the answers are those of Docker Engine 28.5's resolver.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

import dnslib

from sampan.supervisor.names.table import NameTable, SandboxNames

TTL_S = 600
UDP_BYTES = 512
STREAM_BYTES = 0xFFFF
HEADER_BYTES = 12
_FORMERR, _NOTIMP, _SERVFAIL, _REFUSED = 1, 4, 2, 5
_RESPONSE, _TRUNCATED = 0x8000, 0x0200
_OPCODE, _COPIED = 0x7800, 0x7900  # what a refusal repeats of the question's flags: opcode and RD
_A, _PTR, _MX, _AAAA, _OPT = 1, 12, 15, 28, 41
KEPT = 4096  # answers in the cache; a sandbox can fill it, so it is emptied when it is full
_ROTATIONS = 32


@dataclass(frozen=True, slots=True)
class Question:
    """A question that is forwarded. section: its bytes, which an answer must repeat.

    room: the largest answer that the client says it takes; when it says nothing, answers go on as they come.
    """

    section: bytes
    room: int


class Answers:
    """The answers of one table; `changed` after each change of it."""

    def __init__(self, table: NameTable) -> None:
        self._table = table
        self._kept: dict[tuple[str, bool, bytes], list[bytes]] = {}
        self._turn = 0

    def changed(self) -> None:
        """Forget what was answered before a change of the table."""
        self._kept.clear()

    def answer(self, sandbox: SandboxNames, packet: bytes, *, stream: bool = False) -> bytes | Question | None:
        """Return the answer; a `Question` when others are to be asked; None when there is nothing to say.

        stream: it came by TCP, which has room for everything.
        """
        key = sandbox.id, stream, packet[2:]
        kept = self._kept.get(key)
        if kept is not None:
            self._turn += 1
            return packet[:2] + kept[self._turn % len(kept)]
        if len(packet) < HEADER_BYTES or packet[2] & 0x80:
            return None
        if int.from_bytes(packet[2:4], "big") & _OPCODE:
            return refusal(packet, _NOTIMP)
        if int.from_bytes(packet[4:6], "big") != 1:
            return refusal(packet, _FORMERR)
        try:
            asked = dnslib.DNSRecord.parse(packet)
            own = self._own(sandbox, asked)
            section = question_section(packet)
        except (dnslib.DNSError, ValueError, LookupError):
            return refusal(packet, _FORMERR)
        if own is None:
            return Question(section, STREAM_BYTES if stream else _edns_bytes(asked) or STREAM_BYTES)
        if len(self._kept) >= KEPT:
            self._kept.clear()
        packed = [_fitting(message, _room(asked, stream))[2:] for message in own]
        self._kept[key] = packed
        return packet[:2] + packed[0]

    def _own(self, sandbox: SandboxNames, asked: dnslib.DNSRecord) -> list[bytes] | None:
        """Return the answer in all the orders in which it is given in turn; None for what is not ours to answer."""
        question = asked.q
        name = b".".join(question.qname.label)
        if question.qtype in (_A, _AAAA):
            addresses = self._table.addresses(sandbox, name)
            if addresses is None:
                return None
            version = 4 if question.qtype == _A else 6
            fitting = [a for a in addresses if ipaddress.ip_address(a).version == version]
            make = dnslib.A if version == 4 else dnslib.AAAA
            turns = min(len(fitting), _ROTATIONS) or 1
            return [_packed(asked, question.qtype, [make(a) for a in fitting[n:] + fitting[:n]]) for n in range(turns)]
        if question.qtype == _PTR:
            address = _reversed(name)
            found = self._table.name_of(sandbox, address) if address else None
            return None if found is None else [_packed(asked, _PTR, [dnslib.PTR(_label(found))])]
        if question.qtype == _MX and self._table.addresses(sandbox, name) is not None:
            return [_packed(asked, _MX, [])]  # there is none; upstream must not be asked about our names
        return None


def _label(name: str) -> dnslib.DNSLabel:
    """Return a name for dnslib, as bytes: for text it would load the codec for international names, from a file."""
    return dnslib.DNSLabel(tuple(part.encode() for part in name.split(".")))


def _packed(asked: dnslib.DNSRecord, type_: int, records: Sequence[dnslib.RD]) -> bytes:
    header = dnslib.DNSHeader(id=0, bitmap=0, qr=1, rd=asked.header.rd, ra=1)
    reply = dnslib.DNSRecord(header, q=asked.q)
    for record in records:
        reply.add_answer(dnslib.RR(asked.q.qname, type_, rdata=record, ttl=TTL_S))
    return bytes(reply.pack())


def _fitting(message: bytes, room: int) -> bytes:
    """Return a message of our own with as many records as fit; all of them on TCP, where room is the largest."""
    if len(message) <= room:
        return message
    reply = dnslib.DNSRecord.parse(message)
    reply.header.tc = 1
    while len(packed := bytes(reply.pack())) > room:
        reply.rr.pop()
    return packed


def _room(asked: dnslib.DNSRecord, stream: bool) -> int:
    return STREAM_BYTES if stream else max(UDP_BYTES, _edns_bytes(asked))


def _edns_bytes(asked: dnslib.DNSRecord) -> int:
    """Return the size of answers that the client takes by UDP; 0 when it does not say."""
    return max((record.rclass for record in asked.ar if record.rtype == _OPT), default=0)


def question_section(packet: bytes) -> bytes:
    """Return the bytes of the only question of a message that has been read."""
    at = HEADER_BYTES
    while packet[at]:
        at += packet[at] + 1
    return packet[HEADER_BYTES : at + 5]


def repeats(answer: bytes, section: bytes) -> bool:
    """Return whether an answer is one to this question: the same, but for the case of letters."""
    if len(answer) < HEADER_BYTES or not answer[2] & 0x80 or answer[4:6] != b"\0\1":
        return False
    return answer[HEADER_BYTES : HEADER_BYTES + len(section)].lower() == section.lower()


def code(answer: bytes) -> int:
    """Return the response code of an answer."""
    return answer[3] & 0x0F


def refusal(packet: bytes, code: int) -> bytes:
    """Return an answer of nothing but a header."""
    flags = _RESPONSE | int.from_bytes(packet[2:4], "big") & _COPIED | code
    return packet[:2] + flags.to_bytes(2, "big") + bytes(8)


def failure(packet: bytes, section: bytes, *, refused: bool = False) -> bytes:
    """Return the answer to a question that could not be forwarded."""
    flags = _RESPONSE | int.from_bytes(packet[2:4], "big") & 0x0100 | (_REFUSED if refused else _SERVFAIL)
    return packet[:2] + flags.to_bytes(2, "big") + b"\0\1" + bytes(6) + section


def truncated(answer: bytes, section: bytes) -> bytes:
    """Return what is sent of a forwarded answer that does not fit: the client asks again by TCP."""
    flags = int.from_bytes(answer[2:4], "big") | _TRUNCATED
    return answer[:2] + flags.to_bytes(2, "big") + b"\0\1" + bytes(6) + section


def _reversed(name: bytes) -> str:
    """Return the address that a name below in-addr.arpa or ip6.arpa stands for; empty when it is none."""
    text = name.decode("ascii", "replace").lower()
    try:
        if text.endswith(".in-addr.arpa"):
            parts = text.removesuffix(".in-addr.arpa").split(".")
            return str(ipaddress.IPv4Address(".".join(reversed(parts))))
        if text.endswith(".ip6.arpa"):
            nibbles = text.removesuffix(".ip6.arpa").split(".")
            if len(nibbles) == 32:
                return str(ipaddress.IPv6Address(int("".join(reversed(nibbles)), 16)))
    except ValueError:
        pass
    return ""
