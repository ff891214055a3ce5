"""Questions to a name service from inside a container's network namespace, and a resolver that answers as asked.

dnslib reads and writes the messages, here and in the engine; what is compared is what a real engine has answered.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dnslib

from sampan.linux.namespaces import CLONE_NEWNET, setns

SERVER = ("127.0.0.11", 53)


class Inside:
    """A thread in the network namespace of a process."""

    def __init__(self, pid: int) -> None:
        self._pool = ThreadPoolExecutor(1)
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            self._pool.submit(setns, namespace, CLONE_NEWNET).result()
        finally:
            os.close(namespace)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()

    def ask(self, packet: bytes, *, tcp: bool = False, timeout_s: float = 8.0) -> bytes:
        """Return the raw answer. Raises: OSError."""
        return self._pool.submit(_ask, packet, tcp, timeout_s).result()

    def run(self, work: Callable[[], None]) -> None:
        """Do something in the namespace. Raises: whatever it raises."""
        self._pool.submit(work).result()

    def addresses(self, name: str, type_: str = "A", *, timeout_s: float = 8.0) -> list[str]:
        """Return the addresses of a name, sorted; empty when the answer has none. Raises: TimeoutError."""
        packet = bytes(dnslib.DNSRecord.question(name, type_).pack())
        answer = dnslib.DNSRecord.parse(self.ask(packet, timeout_s=timeout_s))
        return sorted(str(record.rdata) for record in answer.rr)


def _ask(packet: bytes, tcp: bool, timeout_s: float) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as peer:
        peer.settimeout(timeout_s)
        peer.connect(SERVER)
        if not tcp:
            peer.send(packet)
            return peer.recv(1 << 16)
        peer.sendall(len(packet).to_bytes(2, "big") + packet)
        received = b""
        while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
            more = peer.recv(1 << 16)
            if not more:
                raise ConnectionResetError("closed")
            received += more
        return received[2:]


class Upstream:
    """A resolver on one address, UDP and TCP. The first label of a name says what it answers; see `_reply`.

    honest: it answers all names as they deserve. seen: (name, type) of each question.
    """

    def __init__(self, address: str, *, honest: bool = False) -> None:
        self._honest = honest
        self.seen: list[tuple[str, str]] = []
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp = socket.socket()
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._udp.bind((address, 53))
        self._tcp.bind((address, 53))
        self._tcp.listen()
        self._threads = [threading.Thread(target=serve) for serve in (self._datagrams, self._streams)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop answering."""
        for peer in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._udp.close()
        self._tcp.close()

    def _datagrams(self) -> None:
        while True:
            packet, client = self._udp.recvfrom(1 << 16)
            if not packet:
                return
            answer = self._reply(packet, tcp=False)
            if answer:
                self._udp.sendto(answer, client)

    def _streams(self) -> None:
        while True:
            try:
                peer, _ = self._tcp.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                answer = self._reply(peer.recv(1 << 16)[2:], tcp=True)
                if not answer:
                    continue
                peer.sendall(len(answer).to_bytes(2, "big") + answer)

    def _reply(self, packet: bytes, *, tcp: bool) -> bytes:
        asked = dnslib.DNSRecord.parse(packet)
        name, type_ = str(asked.q.qname), dnslib.QTYPE.get(asked.q.qtype)
        self.seen.append((name, str(type_)))
        reply = asked.reply()
        kind = "" if self._honest else name.partition(".")[0]
        if kind == "nx":
            reply.header.rcode = 3
            reply.add_auth(*dnslib.RR.fromZone("example. 30 IN SOA a. b. 1 2 3 4 5"))
        elif kind in ("servfail", "refused"):
            reply.header.rcode = 2 if kind == "servfail" else 5
        elif kind == "hang":
            return b""
        elif kind == "big" and not tcp:
            reply.header.tc = 1
        elif kind in ("big", "bigudp"):
            for n in range(60):
                reply.add_answer(*dnslib.RR.fromZone(f"{name} 7 IN A 192.0.2.{n}"))
        elif kind == "wrongid":
            reply.header.id ^= 1
        elif kind == "wrongname":
            reply.questions = [dnslib.DNSQuestion("bank.example")]
            reply.add_answer(*dnslib.RR.fromZone("bank.example 60 IN A 192.0.2.66"))
        elif kind == "noanswer":
            reply.header.qr = 0
        elif kind == "cut":
            return bytes(reply.pack())[:11]
        elif kind == "rubbish":
            return os.urandom(400)
        elif kind == "huge" and tcp:
            for n in range(3000):
                reply.add_answer(*dnslib.RR.fromZone(f"{name} 7 IN A 192.0.{n >> 8}.{n & 255}"))
        elif kind == "huge":
            reply.header.tc = 1
        elif kind == "chain":
            for n in range(9):
                reply.add_answer(*dnslib.RR.fromZone(f"c{n}.{name} 7 IN CNAME c{n + 1}.{name}"))
            reply.add_answer(*dnslib.RR.fromZone(f"c9.{name} 7 IN A 192.0.2.7"))
        elif kind != "empty" and type_ in _RECORDS:
            reply.add_answer(*dnslib.RR.fromZone(f"{name} 33 IN {type_} {_RECORDS[type_]}"))
        return bytes(reply.pack())


_RECORDS = {
    "A": "192.0.2.7",
    "AAAA": "2001:db8::7",
    "SRV": "1 2 80 t.example.",
    "TXT": '"hello"',
    "MX": "10 mx.example.",
    "PTR": "up.example.",
}


@contextlib.contextmanager
def upstream(address: str, *, honest: bool = False) -> Iterator[Upstream]:
    """A resolver for the time of the block."""
    made = Upstream(address, honest=honest)
    try:
        yield made
    finally:
        made.close()


def shown(answer: bytes) -> dict[str, Any]:
    """Return what of an answer a client sees: code, flags, records; their order is not part of it."""
    message = dnslib.DNSRecord.parse(answer)
    header = message.header
    return {
        "code": dnslib.RCODE.get(header.rcode),
        "flags": [name for name in ("aa", "tc", "rd", "ra") if getattr(header, name)],
        "answer": sorted(str(record) for record in message.rr),
        "authority": sorted(str(record) for record in message.auth),
        "questions": len(message.questions),
    }
