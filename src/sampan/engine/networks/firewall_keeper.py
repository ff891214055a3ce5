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

from sampan.engine.background import Background
from sampan.engine.networks import firewall
from sampan.engine.networks import host as hosts
from sampan.engine.networks.enforcer import FOREIGN_CHAINS, Enforcer
from sampan.engine.networks.firewall import NetworkRules, Published, Ruleset
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
        self._published: set[Published] = set()
        self._api: tuple[tuple[str, int], ...] = ()
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
        networks = tuple(self._networks())
        rules = Ruleset(
            table=self._table,
            networks=networks,
            published=tuple(self._published),
            api=self._api,
            direct_routing=self._config.allow_direct_routing,
        )

        def work() -> None:
            self._enforcer.apply(rules)
            # packets from 127.0.0.1 may be translated into the networks, now that the raw chain is in place
            for n in networks:
                write_sysctl(f"net/ipv4/conf/{n.interface}/route_localnet", "1")

        await self._host.run(work)

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
        """Count these ports among all that `apply` puts in."""
        self._published.update(ports)

    def drop(self, ports: Iterable[Published]) -> None:
        """Count these ports no more among all that `apply` puts in."""
        self._published.difference_update(ports)

    def add_in_thread(self, ports: Sequence[Published]) -> OSError | None:
        """Put noted ports in; for use inside `HostNetwork.run`. Returns why it could not: then `apply` is due."""
        try:
            if self._config.iptables:
                self._enforcer.publish(ports, direct=self._config.allow_direct_routing)
        except OSError as error:
            return error
        return None

    async def add(self, ports: Sequence[Published]) -> None:
        """Put noted ports in. Raises: OSError."""
        await self.mind(await self._host.run(self.add_in_thread, ports) if ports else None)
        self.forget_flows(ports)

    async def take_out(self, ports: Sequence[Published]) -> None:
        """Take ports out that are noted no more. Raises: OSError."""

        def work() -> OSError | None:
            try:
                # looked at here: a port that is added after this is put in after this
                others = tuple(self._published) if self._config.allow_direct_routing else None
                self._enforcer.unpublish(ports, others=others)
            except OSError as error:
                return error
            return None

        if ports and self._config.iptables:
            await self.mind(await self._host.run(work))

    async def mind(self, error: OSError | None) -> None:
        """Apply all rules again when the table was not as it was left. Raises: OSError."""
        if error is not None:
            log.warning("firewall: %s; applying all rules again", error)
            await self.apply()

    def forget_flows(self, published: Iterable[Published]) -> None:
        """Make clients of UDP ports that sent before meet the rules as they are now.

        It is not waited for, and not done in the namespace thread: it takes the kernel some milliseconds.
        """
        ports = {p.host_port for p in published if p.proto == "udp"}
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
