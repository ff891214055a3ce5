"""Keeps the firewall as decided: applies rulesets, and notices when another program flushes them.

Forward chains of other programs that drop by policy (Docker's, ufw's) get rules that accept what is ours. The accept
rules in those foreign chains carry the comment `sampan:<table>:…` and go away with their network or the engine.

Invariants: blocking, runs in the namespace thread; `apply` is idempotent.
Source: nft(8), libnftables-json(5); docs.docker.com/engine/network/packet-filtering-firewalls.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.engine.networks import firewall
from sampan.engine.networks.firewall import Published, Ruleset
from sampan.engine.networks.plumbing import Plumbing
from sampan.linux.nftables import OUTPUT_HANDLE, OUTPUT_JSON, OUTPUT_TERSE

_USER_CHAIN = "DOCKER-USER"
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

    def apply(self, rules: Ruleset) -> None:
        """Make the kernel's rules these, atomically, then let the networks through foreign forward chains."""
        self._plumbing.nft(firewall.render(rules))
        self._standing = self._listing()
        self.pass_foreign({n.interface for n in rules.networks})

    def publish(self, ports: Sequence[Published], *, direct: bool = False) -> None:
        """Add ports; direct: open them at the containers' addresses too.

        Raises: OSError when the table is not as it was left: then `apply` is due.
        """
        self._plumbing.add_elements(self._table, firewall.elements(ports))
        if direct:
            self._plumbing.add_elements(self._table, firewall.direct_elements(ports))

    def unpublish(self, ports: Sequence[Published], *, others: Collection[Published] | None = None) -> None:
        """Take ports out; others: those that stay open at the containers' addresses. Raises: OSError as `publish`."""
        self._plumbing.delete_elements(self._table, firewall.elements(ports))
        if others is not None:
            stay = {port.direct() for port in others}
            gone = [element for element in firewall.direct_elements(ports) if element not in stay]
            self._plumbing.delete_elements(self._table, gone)

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

    # ── foreign forward chains ──────────────────────────────────────────────────────────────────────────────────

    def pass_foreign(self, links: set[str]) -> None:
        listed = self._chains()
        wanted: set[tuple[Chain, str, str]] = set()
        for chain in dropping(listed, self._table):
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


def dropping(chains: list[dict[str, Any]], own_table: str) -> Iterator[Chain]:
    """Return where to accept, for each foreign forward chain that drops by policy.

    That is the users' chain of its table, or the chain itself.
    """
    names = {(c["family"], c["table"], c["name"]) for c in chains}
    for chain in chains:
        if chain.get("hook") != "forward" or chain.get("policy") != "drop" or chain["table"] == own_table:
            continue
        family, table = chain["family"], chain["table"]
        user = (family, table, _USER_CHAIN)
        yield Chain(*user) if user in names else Chain(family, table, chain["name"])
