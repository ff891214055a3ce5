"""Keeps the firewall as decided: applies rulesets, and notices when another program flushes them.

Forward chains of other programs that drop by policy (Docker's, ufw's) or by their last rule (firewalld's) get rules
that accept what is ours. These carry the comment `sampan:<table>:…` and go away with their network or the engine.

Invariants: blocking, runs in the namespace thread; `apply` is idempotent.
Source: nft(8), libnftables-json(5); docs.docker.com/engine/network/packet-filtering-firewalls.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sampan.engine.networks import firewall
from sampan.engine.networks.firewall import Published, Ruleset
from sampan.engine.networks.plumbing import Plumbing
from sampan.linux.nftables import OUTPUT_HANDLE, OUTPUT_JSON, OUTPUT_TERSE, Element

_USER_CHAIN = "DOCKER-USER"
_CLOSES = re.compile(r"(counter( packets \d+ bytes \d+)? )?(drop|reject)\b")
_EMPTY = (
    f"table inet {firewall.ADMINISTRATORS} {{\n\tchain forward {{\n"
    "\t\ttype filter hook forward priority filter - 1; policy accept;\n\t}\n}\n"
)
FOREIGN_CHAINS = (_USER_CHAIN, "FORWARD")  # where rules of ours may be, by the names iptables gives them


@dataclass(frozen=True, slots=True, order=True)
class Chain:
    family: str
    table: str
    name: str


class Enforcer:
    """The rules of one engine in the kernel."""

    def __init__(self, plumbing: Plumbing, table: str) -> None:
        self._plumbing = plumbing
        self._table = table
        self._standing = ""
        self._elements: dict[str, set[Element]] = {}  # by container address

    def apply(self, rules: Ruleset) -> None:
        """Make the kernel's rules these, atomically, then let the networks through foreign forward chains."""
        self._plumbing.nft(firewall.administrators() + firewall.render(rules))
        by_address: dict[str, list[Published]] = {}
        for port in rules.published:
            by_address.setdefault(port.address, []).append(port)
        self._elements = {a: {s.wire() for s in firewall.spans(ports)} for a, ports in by_address.items()}
        self._standing = self._listing()
        self.pass_foreign({n.interface for n in rules.networks})

    def publish(self, address: str, ports: Collection[Published]) -> None:
        """Make these the ports that are published of a container's address, with as few changes as will do.

        Raises: OSError when the table is not as it was left: then `apply` is due.
        """
        wanted = {span.wire() for span in firewall.spans(ports)}
        standing = self._elements.get(address, set())
        self._plumbing.change_elements(self._table, delete=standing - wanted, add=wanted - standing)
        self._keep(address, wanted)

    def _keep(self, address: str, elements: set[Element]) -> None:
        if elements:
            self._elements[address] = elements
        else:
            self._elements.pop(address, None)

    def intact(self) -> bool:
        """Return whether our table stands with the chains and rules that `apply` left; elements are not looked at."""
        return self._listing() == self._standing

    def _listing(self) -> str:
        try:
            return self._plumbing.nft(f"list table inet {self._table}", flags=OUTPUT_TERSE)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return ""
            raise

    def remove(self) -> None:
        """Take everything of ours away, in foreign chains too."""
        self.pass_foreign(set())
        self._plumbing.nft(firewall.remove(self._table))

    def remove_administrators(self) -> None:
        """Take the administrator's table away when there is nothing in it."""
        table = f"table inet {firewall.ADMINISTRATORS}"
        if self._plumbing.nft(f"list {table}") == _EMPTY:
            self._plumbing.nft(f"delete {table}")

    # ── foreign forward chains ──────────────────────────────────────────────────────────────────────────────────

    def pass_foreign(self, links: set[str]) -> None:
        listed = self._chains()
        wanted: set[tuple[Chain, str, str]] = set()
        closed = [chain for chain in sorted(set(_candidates(listed))) if self._closes(chain)]
        for chain in dropping(listed, self._table, closed):
            wanted |= {(chain, way, link) for way in ("iifname", "oifname") for link in links}
        commands = []
        present: set[tuple[Chain, str, str]] = set()
        for chain, handle, way, link in self._ours(sorted(set(_candidates(listed)))):
            if (chain, way, link) in wanted and (chain, way, link) not in present:
                present.add((chain, way, link))
            else:
                commands.append(f"delete rule {chain.family} {chain.table} {chain.name} handle {handle}")
        for chain, way, link in sorted(wanted - present):
            comment = f"sampan:{self._table}:{way}:{link}"
            where = f"{chain.family} {chain.table} {chain.name}"
            commands.append(f'insert rule {where} {way} "{link}" counter accept comment "{comment}"')
        if commands:
            self._plumbing.nft("\n".join(commands) + "\n")

    def _closes(self, chain: Chain) -> bool:
        """Return whether a foreign forward chain ends with a rule that lets nothing through."""
        if chain.table in (self._table, firewall.ADMINISTRATORS):
            return False
        text = self._plumbing.nft(f"list chain {chain.family} {chain.table} {chain.name}")
        rules = [line.strip() for line in text.splitlines()[2:] if line.strip() not in ("", "}")]
        return bool(rules) and _CLOSES.match(rules[-1]) is not None

    def _chains(self) -> list[dict[str, Any]]:
        listed = json.loads(self._plumbing.nft("list chains", flags=OUTPUT_JSON) or "{}")
        return [item["chain"] for item in listed.get("nftables", []) if "chain" in item]

    def _ours(self, chains: Iterable[Chain]) -> Iterator[tuple[Chain, int, str, str]]:
        """Return rules of ours in these chains: (chain, handle, iifname or oifname, link)."""
        for chain in chains:
            text = self._plumbing.nft(f"list chain {chain.family} {chain.table} {chain.name}", flags=OUTPUT_HANDLE)
            for line in text.splitlines():
                _, found, rest = line.partition(f'comment "sampan:{self._table}:')
                if found:
                    way, _, link = rest.partition('"')[0].partition(":")
                    yield chain, int(rest.rpartition("# handle ")[2]), way, link


def _candidates(chains: list[dict[str, Any]]) -> Iterator[Chain]:
    """Return chains that may hold rules of ours: forward base chains of iptables' tables, and DOCKER-USER."""
    for chain in chains:
        if chain["family"] in ("ip", "ip6", "inet") and (
            chain.get("hook") == "forward" or chain["name"] == _USER_CHAIN
        ):
            yield Chain(chain["family"], chain["table"], chain["name"])


def dropping(chains: list[dict[str, Any]], own_table: str, closed: Collection[Chain] = ()) -> Iterator[Chain]:
    """Return where to accept, for each foreign forward chain that drops by policy, or by its last rule (`closed`).

    That is the users' chain of its table, or the chain itself.
    """
    names = {(c["family"], c["table"], c["name"]) for c in chains}
    for chain in chains:
        if chain.get("hook") != "forward" or chain["table"] in (own_table, firewall.ADMINISTRATORS):
            continue
        family, table = chain["family"], chain["table"]
        if chain.get("policy") != "drop" and Chain(family, table, chain["name"]) not in closed:
            continue
        user = (family, table, _USER_CHAIN)
        yield Chain(*user) if user in names else Chain(family, table, chain["name"])
