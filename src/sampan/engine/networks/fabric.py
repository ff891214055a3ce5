"""What the networks service has in the kernel: networks, rules, published ports.

The service decides and calls; here it is carried out and kept in force: when another program flushes our rules they are
applied again, when a link goes the leases hear of it. Which kind a network is only its driver knows.

Invariant: what blocks is done in the host's namespace thread (host.py); everything else happens on the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sampan.engine.background import Background
from sampan.engine.config import EngineConfig
from sampan.engine.networks import host as hosts
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.enforcer import FOREIGN_CHAINS, Enforcer
from sampan.engine.networks.firewall import NetworkRules, Published, Ruleset, translatable
from sampan.engine.networks.host import HostNetwork
from sampan.engine.networks.ipam import Address, Subnet
from sampan.engine.networks.leases import Leases
from sampan.engine.networks.plans import VETH, InterfacePlan, SandboxPlan
from sampan.engine.networks.plumbing import read_sysctl, write_sysctl
from sampan.engine.networks.ports import Grant, Ports
from sampan.engine.networks.records import EndpointRecord, NetworkRecord
from sampan.engine.networks.relay import Relay
from sampan.errors import SampanError, Unavailable
from sampan.linux import conntrack
from sampan.linux.netlink import RTMGRP_LINK, Netlink
from sampan.linux.nftables import Monitor

log = logging.getLogger(__name__)

T = TypeVar("T")

DRIVER_TIMEOUT_S = 60.0  # for what may wait for another program: a plugin that hangs must not hang the engine
_REAPPLY_DELAY_S = 0.02  # another program's reload is many changes: look when it has got going
_FORWARD_CHAIN = (
    "add table ip filter\nadd chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }\n"
)


class Fabric:
    """`open` it in the host's namespace; `close` takes nothing out of the kernel, `dismantle` everything."""

    def __init__(self, config: EngineConfig, release: Callable[[str, Address], None]) -> None:
        self._config = config
        self.host = HostNetwork(config)
        self._opened = contextlib.AsyncExitStack()
        self._choosing = asyncio.Lock()
        self.background = Background()
        self._stale_ports: set[int] = set()
        self._forgetting = ThreadPoolExecutor(1, thread_name_prefix="conntrack")
        self.leases = Leases(self.delete_links, release, self.background)
        self.relay = Relay()
        self.ports = Ports(ipv6=os.path.exists("/proc/net/if_inet6"))
        self._up: dict[str, tuple[NetworkDriver, NetworkRecord]] = {}
        self._published: set[Published] = set()
        self._api: tuple[tuple[str, int], ...] = ()
        self._reapplying: asyncio.Task[None] | None = None
        self._monitor: Monitor | None = None
        self._disturbed = False
        self._turned_forwarding_on = False

    async def open(self) -> None:
        """Open what talks to the kernel. Raises: Internal, OSError; `close` is due all the same."""
        self._opened.push_async_callback(self.host.close)
        await self.host.open()
        self._links = Netlink(groups=RTMGRP_LINK)
        self._opened.callback(self._links.close)
        self._links.only_deletions()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._links, self._links_changed)
        self._opened.callback(loop.remove_reader, self._links)
        self._opened.push_async_callback(self.leases.settle)
        self._opened.push_async_callback(self.background.close)

    async def guard(self, table: str) -> None:
        """Begin to keep rules, in the table of this name; `apply` puts them in."""
        self._enforcer = Enforcer(self.host.plumbing, table)
        self._table = table
        if self._config.ip_forward:
            await self.host.run(self._forward)
        if self._config.iptables:
            self._monitor = Monitor(table, FOREIGN_CHAINS)
            asyncio.get_running_loop().add_reader(self._monitor, self._rules_changed)

    async def close(self) -> None:
        """Close everything that talks to the kernel. Idempotent, also when `open` has failed."""
        await self._stop_watching()
        await self.relay.stop()
        await self._opened.aclose()
        self._forgetting.shutdown()

    async def _stop_watching(self) -> None:
        """Leave the rules alone from now on."""
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor)
            self._monitor.close()
            self._monitor = None
        if self._reapplying is not None:
            self._reapplying.cancel()
            await asyncio.gather(self._reapplying, return_exceptions=True)

    # ── host ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _forward(self) -> None:
        if read_sysctl("net/ipv4/ip_forward") == "1":
            return
        # A host that did not forward must not become a router for others: drop by policy what no engine accepts.
        if self._config.iptables and not self._config.ip_forward_no_drop:
            self.host.plumbing.nft(_FORWARD_CHAIN)
        write_sysctl("net/ipv4/ip_forward", "1")
        self._turned_forwarding_on = True

    def _unforward(self) -> None:
        """Undo `_forward`, unless another engine has come to live off it."""
        if not self._turned_forwarding_on or hosts.engines(self.host.plumbing.host):
            return
        write_sysctl("net/ipv4/ip_forward", "0")
        with contextlib.suppress(OSError):  # not there, or with rules of others in it
            self.host.plumbing.nft("delete chain ip filter FORWARD")
            self.host.plumbing.nft("delete table ip filter")

    async def host_subnets(self) -> list[Subnet]:
        """Return the subnets that the host uses."""
        return await self.host.run(hosts.subnets, self.host.plumbing.host)

    @contextlib.asynccontextmanager
    async def choosing(self) -> AsyncIterator[None]:
        """Hold the host while a subnet or a link's name is chosen and taken: for engines that start together.

        The lock is on the network namespace itself, so it needs no path that all would have to agree on.
        """
        async with self._choosing:
            await self.host.run(self.host.plumbing.lock_host)
            try:
                yield
            finally:
                await self.host.run(self.host.plumbing.unlock_host)

    # ── networks ────────────────────────────────────────────────────────────────────────────────────────────────

    async def setup(self, driver: NetworkDriver, network: NetworkRecord) -> None:
        """Make a network, and remember it for the rules; `apply` next. Raises: OSError, SampanError."""
        await _bounded(driver.setup(self.host, network), network)
        if driver.capabilities.gateway and network.enable_ipv6 and self._config.ip_forward:
            await self.host.run(write_sysctl, "net/ipv6/conf/all/forwarding", "1")
        self._up[network.id] = driver, network

    async def teardown(self, driver: NetworkDriver, network: NetworkRecord) -> None:
        """Take a network's rules away, then the network. Raises: OSError, SampanError."""
        if self._up.pop(network.id, None) is not None and driver.rules(network, ip6=True) is not None:
            await self.apply()
        await _bounded(driver.teardown(self.host, network), network)

    async def attach(self, driver: NetworkDriver, network: NetworkRecord, endpoint: EndpointRecord) -> EndpointRecord:
        """Have a driver prepare an endpoint; return it with what the driver adds. Raises: OSError, SampanError."""
        return await _bounded(driver.attach(self.host, network, endpoint), network)

    async def detach(self, driver: NetworkDriver, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        """Have a driver forget an endpoint. Raises: OSError, SampanError."""
        await _bounded(driver.detach(self.host, network, endpoint), network)

    async def delete_links(self, names: Sequence[str]) -> None:
        """Delete links of the host; those that are gone are fine."""
        await self.host.run(self.host.plumbing.delete_links, names)

    # ── rules ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _rules(self) -> tuple[NetworkRules, ...]:
        found = (driver.rules(network, ip6=self._config.ip6tables) for driver, network in self._up.values())
        return tuple(rules for rules in found if rules is not None)

    async def apply(self) -> None:
        """Put all rules into the kernel, in place of what is there."""
        if not self._config.iptables:
            return
        networks = self._rules()
        rules = Ruleset(table=self._table, networks=networks, published=tuple(self._published), api=self._api)

        def work() -> None:
            self._enforcer.apply(rules)
            # packets from 127.0.0.1 may be translated into the networks, now that the raw chain is in place
            for n in networks:
                write_sysctl(f"net/ipv4/conf/{n.interface}/route_localnet", "1")

        await self.host.run(work)

    async def protect_api(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Keep containers from these TCP addresses of our API; ("", port) is every address."""
        self._api = tuple(addresses)
        await self.apply()

    def _rules_changed(self) -> None:
        if self._monitor is None or not self._monitor.disturbed():
            return
        self._disturbed = True
        if self._reapplying is None or self._reapplying.done():
            self._reapplying = self.background.spawn(self._restore_rules(), "restoring the firewall's rules")

    async def _restore_rules(self) -> None:
        while self._disturbed:
            await asyncio.sleep(_REAPPLY_DELAY_S)
            self._disturbed = False
            try:
                if await self.host.run(self._enforcer.intact):
                    await self.host.run(self._enforcer.pass_foreign, {n.interface for n in self._rules()})
                else:
                    log.warning("firewall: another program removed our rules; applying them again")
                    await self.apply()
            except OSError as error:  # in the middle of another program's changes: the next one wakes us again
                log.error("firewall: rules cannot be restored: %s", error)

    # ── sandboxes and ports ─────────────────────────────────────────────────────────────────────────────────────

    async def create_sandbox(self, plan: SandboxPlan, grants: Sequence[Grant]) -> int:
        """Make the namespace and publish its ports in one go; return the namespace's descriptor, the caller's."""
        self._hold(grants)
        ports = [g.published for g in grants] if self._config.iptables else []

        def work() -> tuple[int, OSError | None]:
            namespace = self.host.plumbing.create_sandbox(plan)
            try:
                self._enforcer.publish(ports)
            except OSError as error:
                return namespace, error
            return namespace, None

        making = asyncio.ensure_future(self.host.run(work))
        try:
            namespace, error = await asyncio.shield(making)
        except asyncio.CancelledError:
            await self._unmake(making, plan, grants)
            raise
        except BaseException:
            self._let_go(grants)
            raise
        if error is not None:
            log.warning("firewall: %s; applying all rules again", error)
            try:
                await self.apply()
            except BaseException:
                os.close(namespace)
                await self.unpublish(grants)
                raise
        self._forget_flows(grants)
        return namespace

    async def _unmake(
        self, making: asyncio.Future[tuple[int, OSError | None]], plan: SandboxPlan, grants: Sequence[Grant]
    ) -> None:
        """Take back a sandbox that nobody waits for any more: the thread makes it all the same."""
        try:
            namespace, _ = await making
        except OSError:
            self._let_go(grants)
            return
        os.close(namespace)
        await self.delete_links([i.host_name for i in plan.interfaces if i.kind == VETH])
        await self.unpublish(grants)

    def _forget_flows(self, grants: Sequence[Grant]) -> None:
        """Make clients of UDP ports that sent before meet the rules as they are now. Not waited for, and not in the
        namespace thread: it takes the kernel some milliseconds."""
        ports = {g.published.host_port for g in grants if g.published.proto == "udp"}
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

    async def extend_sandbox(self, pid: int, interfaces: Sequence[InterfacePlan]) -> None:
        """Add interfaces to the namespace of a running process. Raises: OSError."""
        with namespace_of(pid) as namespace:
            plan = SandboxPlan(interfaces=tuple(interfaces))
            await self.host.run(self.host.plumbing.extend_sandbox, namespace, plan)

    async def withdraw(self, namespace: int, interfaces: Sequence[InterfacePlan]) -> None:
        """Take interfaces out of the namespace of a descriptor; those that are gone are fine. Raises: OSError."""
        await self.host.run(self.host.plumbing.withdraw, namespace, interfaces)

    async def reroute(self, pid: int, old: Sequence[Address], new: Sequence[tuple[str, Address]]) -> None:
        """Move the default routes of a running process's namespace. Raises: OSError."""
        with namespace_of(pid) as namespace:
            await self.host.run(self.host.plumbing.default_gateways, namespace, old, new)

    async def mend_routes(self, pid: int, wanted: Sequence[tuple[str, Address]]) -> None:
        """Make the default routes of a running process's namespace exactly these. Raises: OSError."""
        with namespace_of(pid) as namespace:
            await self.host.run(self.host.plumbing.mend_gateways, namespace, wanted)

    async def publish(self, grants: Sequence[Grant]) -> None:
        """Publish ports of a sandbox that exists."""
        self._hold(grants)
        if grants and self._config.iptables:
            try:
                await self.host.run(self._enforcer.publish, [g.published for g in grants])
            except OSError as error:
                log.warning("firewall: %s; applying all rules again", error)
                await self.apply()
        self._forget_flows(grants)

    async def unpublish(self, grants: Sequence[Grant]) -> None:
        """Take ports back: rules first, then the sockets that reserve them."""
        if not grants:
            return
        self._published -= {g.published for g in grants}
        try:
            if self._config.iptables:
                await self.host.run(self._enforcer.unpublish, [g.published for g in grants])
        except OSError as error:
            log.warning("firewall: %s; applying all rules again", error)
            await self.apply()
        finally:
            self._let_go(grants)
            self._forget_flows(grants)

    def adopt(self, grants: Sequence[Grant]) -> None:
        """Remember ports that are published already; `apply` puts them in with all the rest."""
        self._hold(grants)

    def _hold(self, grants: Sequence[Grant]) -> None:
        for grant in grants:
            self._published.add(grant.published)
            if grant.socket is not None and self._relayed(grant.published):
                self.relay.open(grant.socket, grant.published)

    def _relayed(self, published: Published) -> bool:
        """Return whether the relay listens on a port's socket.

        On TCP always: it serves while another program has flushed our rules. On UDP only for what nftables cannot do:
        its reply to one stray packet would be remembered by connection tracking as a flow of the host's, and keep all
        later packets of that client from being translated.
        """
        if published.proto == "udp":
            return not (self._config.iptables and translatable(published))
        return published.proto == "tcp"

    def _let_go(self, grants: Sequence[Grant]) -> None:
        for grant in grants:
            self._published.discard(grant.published)
            if grant.socket is not None:
                self.relay.close(grant.socket)
            self.ports.release(grant)

    # ── links ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _links_changed(self) -> None:
        try:
            self.leases.gone(self._links.gone())
        except OSError as error:  # ENOBUFS: some were missed; what is still noted is deleted explicitly, gone or not
            log.debug("links: %s", error)

    async def sweep(self, drivers: Iterable[NetworkDriver], known: frozenset[str]) -> None:
        """Delete the host's links of endpoints that nobody knows: left by a daemon that was killed."""
        links = await self.host.run(self.host.plumbing.host.links)
        stray = [name for driver in drivers for name in driver.strays(links, known)]
        if stray:
            log.info("links: deleting %d left by an earlier daemon", len(stray))
            await self.delete_links(stray)

    async def dismantle(self) -> None:
        """Take networks and rules out of the kernel: the engine ends and nothing of it runs."""
        await self._stop_watching()
        networks, self._up = list(self._up.values()), {}
        if self._config.iptables:
            with contextlib.suppress(OSError):
                await self.host.run(self._enforcer.remove)
        for driver, network in networks:
            try:
                await self.teardown(driver, network)
            except (OSError, SampanError) as error:
                log.error("network %s: it cannot be taken down: %s", network.name, error)
        await self.host.run(self._unforward)


async def _bounded(work: Awaitable[T], network: NetworkRecord) -> T:
    """Wait for a driver, but not for ever. Raises: Unavailable; whatever the driver raises."""
    try:
        async with asyncio.timeout(DRIVER_TIMEOUT_S):
            return await work
    except TimeoutError as error:
        said = f"network driver {network.driver} did not answer within {DRIVER_TIMEOUT_S:.0f} s"
        raise Unavailable(f"network {network.name}: {said}") from error


@contextlib.contextmanager
def namespace_of(pid: int) -> Iterator[int]:
    """Open the network namespace of a process. Raises: OSError when it is gone."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
