"""The engine's firewall, kept in force: when another program flushes our rules, they are applied again.

What the rules are is decided by firewall.py and the drivers; enforcer.py puts them into the kernel. Here is when.

Invariant: what blocks is done in the host's namespace thread; everything else happens on the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from sampan.engine.background import Background
from sampan.engine.networks import firewall
from sampan.engine.networks import host as hosts
from sampan.engine.networks.enforcer import FOREIGN_CHAINS, Enforcer
from sampan.engine.networks.firewall import NetworkRules, Published, Ruleset, Way
from sampan.engine.networks.host import HostNetwork
from sampan.engine.networks.plumbing import read_sysctl, write_sysctl
from sampan.linux import conntrack
from sampan.linux.nftables import Monitor, Nftables

log = logging.getLogger(__name__)

_REAPPLY_DELAY_S = 0.02  # another program's reload is many changes: look when it has got going
_FORWARD_CHAIN = (
    "add table ip filter\nadd chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }\n"
)


class FirewallKeeper:
    """`begin` it when the host's network is open; `stop` leaves the rules as they are, `remove` takes them out.

    networks: what each network that is set up wants of the rules, whenever it is asked.
    """

    def __init__(
        self, host: HostNetwork, background: Background, networks: Callable[[], Iterable[NetworkRules]]
    ) -> None:
        self._config = host.config
        self._host = host
        self._background = background
        self._networks = networks
        self._published: dict[str, set[Published]] = {}  # by container address
        self._api: tuple[tuple[str, int], ...] = ()
        self.ways: Callable[[], Iterable[Way]] = tuple  # between containers, for networks where these are kept apart
        self._open: frozenset[Way] = frozenset()
        self._applied: tuple[NetworkRules, ...] = ()
        self._reapplying: asyncio.Task[None] | None = None
        self._monitor: Monitor | None = None
        self._disturbed = False
        self._turned_forwarding_on = False
        self._stale_ports: set[int] = set()
        self._forgetting = ThreadPoolExecutor(1, thread_name_prefix="conntrack")

    async def begin(self, table: str, *, before: str = "") -> None:
        """Begin to keep rules, in the table of this name; `apply` puts them in.

        before: the table that an earlier daemon of this engine had; its rules go, when it was another.
        """
        if before and not self._config.iptables:
            await self._host.run(_forget, before)
        elif before not in ("", table):
            await self._host.run(Enforcer(self._host.plumbing, before).remove)
        self._enforcer = Enforcer(self._host.plumbing, table)
        self._table = table
        if self._config.ip_forward:
            await self._host.run(self._forward)
        if self._config.iptables:
            self._monitor = Monitor(table, FOREIGN_CHAINS)
            asyncio.get_running_loop().add_reader(self._monitor, self._rules_changed)

    async def stop(self) -> None:
        """Leave the rules alone from now on. Idempotent."""
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor)
            self._monitor.close()
            self._monitor = None
        if self._reapplying is not None:
            self._reapplying.cancel()
            await asyncio.gather(self._reapplying, return_exceptions=True)

    def close(self) -> None:
        """End the thread that forgets flows: no port comes or goes any more. Idempotent."""
        self._forgetting.shutdown()

    async def remove(self) -> None:
        """Take all rules out of the kernel, after `stop`; what cannot be taken out stays."""
        if self._config.iptables:
            with contextlib.suppress(OSError):
                await self._host.run(self._enforcer.remove)
            with contextlib.suppress(OSError):
                await self._host.run(self._enforcer.remove_administrators)

    # ── forwarding ──────────────────────────────────────────────────────────────────────────────────────────────

    def _forward(self) -> None:
        if read_sysctl("net/ipv4/ip_forward") == "1":
            return
        # A host that did not forward must not become a router for others: drop by policy what no engine accepts.
        if self._config.iptables and not self._config.ip_forward_no_drop:
            self._host.plumbing.nft(_FORWARD_CHAIN)
        write_sysctl("net/ipv4/ip_forward", "1")
        self._turned_forwarding_on = True

    async def stop_forwarding(self) -> None:
        """Let the host forward no more, if it did not before `begin`, unless another engine has come to live off it."""
        await self._host.run(self._unforward)

    def _unforward(self) -> None:
        """Undo `_forward`, unless another engine has come to live off it."""
        if not self._turned_forwarding_on or hosts.engines(self._host.plumbing.host):
            return
        write_sysctl("net/ipv4/ip_forward", "0")
        with contextlib.suppress(OSError):  # not there, or with rules of others in it
            self._host.plumbing.nft("delete chain ip filter FORWARD")
            self._host.plumbing.nft("delete table ip filter")

    # ── rules ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def apply(self) -> None:
        """Put all rules into the kernel, in place of what is there."""
        if not self._config.iptables:
            return
        self._applied = networks = tuple(self._networks())
        self._open = ways = self._needed(networks)
        rules = Ruleset(
            table=self._table,
            networks=networks,
            ways=tuple(ways),
            api=self._api,
            direct_routing=self._config.allow_direct_routing,
        )

        def work() -> None:
            # the ports are looked at here: what is published after this is put in after this
            ports = [port for address in tuple(self._published) for port in self._ports_of(address)]
            self._enforcer.apply(replace(rules, published=tuple(ports)))
            # packets from 127.0.0.1 may be translated into the networks, now that the raw chain is in place
            for n in networks:
                write_sysctl(f"net/ipv4/conf/{n.interface}/route_localnet", "1")
                if any(
                    firewall.leads(n, way) for way in ways
                ):  # ports of the bridge do not see each other: by the host
                    write_sysctl(f"net/ipv4/conf/{n.interface}/proxy_arp_pvlan", "1")

        await self._host.run(work)

    def _needed(self, networks: Sequence[NetworkRules]) -> frozenset[Way]:
        apart = [n for n in networks if not n.icc]
        ways = self.ways() if apart else ()
        return frozenset(way for way in ways if any(firewall.leads(n, way) for n in apart))

    async def ways_changed(self) -> None:
        """Open and close what has changed of the ways between containers. Raises: OSError."""
        if self._needed(tuple(self._networks())) != self._open:
            await self.apply()

    async def networks_changed(self) -> None:
        """Follow what networks want of the rules, where that is something else now. Raises: OSError."""
        if tuple(self._networks()) != self._applied:
            await self.apply()

    async def protect_api(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Keep containers from these TCP addresses of our API; ("", port) is every address."""
        self._api = tuple(addresses)
        await self.apply()

    def _rules_changed(self) -> None:
        if self._monitor is None or not self._monitor.disturbed():
            return
        self._disturbed = True
        if self._reapplying is None or self._reapplying.done():
            self._reapplying = self._background.spawn(self._restore_rules(), "restoring the firewall's rules")

    async def _restore_rules(self) -> None:
        while self._disturbed:
            await asyncio.sleep(_REAPPLY_DELAY_S)
            self._disturbed = False
            try:
                if await self._host.run(self._enforcer.intact):
                    await self._host.run(self._enforcer.pass_foreign, {n.interface for n in self._networks()})
                else:
                    log.warning("firewall: another program removed our rules; applying them again")
                    await self.apply()
            except OSError as error:  # in the middle of another program's changes: the next one wakes us again
                log.error("firewall: rules cannot be restored: %s", error)

    # ── published ports ─────────────────────────────────────────────────────────────────────────────────────────

    def note(self, ports: Iterable[Published]) -> None:
        """Count these ports among all that are to be in the kernel."""
        for port in ports:
            # never changed in place: the namespace thread looks at it
            self._published[port.address] = self._ports_of(port.address) | {port}

    def drop(self, ports: Iterable[Published]) -> None:
        """Count these ports no more among all that are to be in the kernel."""
        for port in ports:
            left = self._ports_of(port.address) - {port}
            if left:
                self._published[port.address] = left
            else:
                self._published.pop(port.address, None)

    def _ports_of(self, address: str) -> set[Published]:
        return self._published.get(address, set())

    def follow_in_thread(self, addresses: Iterable[str]) -> OSError | None:
        """Make the kernel's ports of containers' addresses what is noted; for use inside `HostNetwork.run`.

        Returns why it could not: then `apply` is due.
        """
        try:
            for address in addresses if self._config.iptables else ():
                self._enforcer.publish(address, self._ports_of(address))
        except OSError as error:
            return error
        return None

    async def follow(self, ports: Iterable[Published]) -> None:
        """Put into the kernel, or take out of it, what has been noted or dropped of these. Raises: OSError."""
        ports = list(ports)
        addresses = sorted({port.address for port in ports})
        if addresses and self._config.iptables:
            await self.mind(await self._host.run(self.follow_in_thread, addresses))
        self.forget_flows(ports)

    async def mind(self, error: OSError | None) -> None:
        """Apply all rules again when the table was not as it was left. Raises: OSError."""
        if error is not None:
            log.warning("firewall: %s; applying all rules again", error)
            await self.apply()

    def forget_flows(self, published: Iterable[Published]) -> None:
        """Make clients of UDP ports that sent before meet the rules as they are now.

        It is not waited for, and not done in the namespace thread: it takes the kernel some milliseconds.
        """
        ports = {p.host_port for p in published if p.proto == "udp" and p.host_port}
        if ports and self._config.iptables:
            self._stale_ports |= ports
            self._forgetting.submit(self._forget)

    def _forget(self) -> None:
        """Forget the flows of all ports that are due: one walk for many."""
        ports, self._stale_ports = self._stale_ports, set()
        if not ports:
            return
        try:
            conntrack.forget(socket.IPPROTO_UDP, ports)
        except OSError as error:  # a kernel without connection tracking over netlink
            log.debug("connections to ports %s are not forgotten: %s", ports, error)


def _forget(table: str) -> None:
    """Take away the rules of an earlier daemon that kept some: without a keeper they would stand in the way."""
    try:
        with contextlib.closing(Nftables()) as nftables:
            nftables.run(firewall.remove(table))
    except OSError as error:
        log.warning("the rules of an earlier start cannot be taken away: %s", error)
