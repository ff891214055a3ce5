"""What the networks service has in the kernel: bridges, rules, published ports, and the one thread that touches them.

The service decides and calls; here it is carried out and kept in force: when another program flushes our rules they are
applied again, when a link goes the leases hear of it.

Invariants: the namespace thread runs one piece of work at a time, in order; everything else happens on the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sampan.engine.config import EngineConfig
from sampan.engine.networks.drivers import bridge as bridge_driver
from sampan.engine.networks.drivers.bridge import Bridge
from sampan.engine.networks.enforcer import FOREIGN_CHAINS, Enforcer
from sampan.engine.networks.firewall import Published, Ruleset, translatable
from sampan.engine.networks.leases import Leases
from sampan.engine.networks.plumbing import Address, InterfacePlan, Plumbing, SandboxPlan, read_sysctl, write_sysctl
from sampan.engine.networks.ports import Grant, Ports
from sampan.engine.networks.records import NetworkRecord
from sampan.engine.networks.relay import Relay
from sampan.errors import Internal
from sampan.linux import conntrack
from sampan.linux.netlink import RTMGRP_LINK, Netlink
from sampan.linux.nftables import Monitor

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_VETH = re.compile(r"veth[0-9a-f]{7}")
_REAPPLY_DELAY_S = 0.02  # another program's reload is many changes: look when it has got going
_FORWARD_CHAIN = (
    "add table ip filter\nadd chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }\n"
)


class Fabric:
    """`open` it in the host's namespace; `close` takes nothing out of the kernel, `dismantle` everything."""

    def __init__(self, config: EngineConfig, release: Callable[[str, Address], None]) -> None:
        self._config = config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="namespaces")
        self._opened = contextlib.AsyncExitStack()
        self._choosing = asyncio.Lock()
        self._stale_ports: set[int] = set()
        self._forgetting = ThreadPoolExecutor(1, thread_name_prefix="conntrack")
        self.leases = Leases(self.delete_links, release)
        self.relay = Relay()
        self.ports = Ports(ipv6=os.path.exists("/proc/net/if_inet6"))
        self._bridges: dict[str, Bridge] = {}
        self._indexes: dict[str, int] = {}
        self._published: set[Published] = set()
        self._api: tuple[tuple[str, int], ...] = ()
        self._reapplying: asyncio.Task[None] | None = None
        self._monitor: Monitor | None = None
        self._disturbed = False
        self._turned_forwarding_on = False
        self.bridged_filter = False

    async def open(self) -> None:
        """Open what talks to the kernel. Raises: Internal, OSError; `close` is due all the same."""
        try:
            self._plumbing = await self.run(lambda: Plumbing(firewall=self._config.iptables))
        except OSError as error:
            hint = "install libnftables1, or set iptables to false in daemon.json"
            raise Internal(f"the firewall cannot be set up: {error} ({hint})") from error
        self._opened.push_async_callback(self.run, self._plumbing.close)
        self._links = Netlink(groups=RTMGRP_LINK)
        self._opened.callback(self._links.close)
        self._links.only_deletions()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._links, self._links_changed)
        self._opened.callback(loop.remove_reader, self._links)
        self._opened.push_async_callback(self.leases.close)
        self.bridged_filter = bridge_driver.filters_bridged()

    async def guard(self, table: str) -> None:
        """Begin to keep rules, in the table of this name; `apply` puts them in."""
        self._enforcer = Enforcer(self._plumbing, table)
        self._table = table
        if self._config.ip_forward:
            await self.run(self._forward)
        if self._config.iptables:
            self._monitor = Monitor(table, FOREIGN_CHAINS)
            asyncio.get_running_loop().add_reader(self._monitor, self._rules_changed)

    async def close(self) -> None:
        await self._stop_watching()
        await self.relay.stop()
        await self._opened.aclose()
        self._thread.shutdown()
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

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in the namespace thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))

    # ── host ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _forward(self) -> None:
        if read_sysctl("net/ipv4/ip_forward") == "1":
            return
        # A host that did not forward must not become a router for others: drop by policy what no engine accepts.
        if self._config.iptables and not self._config.ip_forward_no_drop:
            self._plumbing.nft(_FORWARD_CHAIN)
        write_sysctl("net/ipv4/ip_forward", "1")
        self._turned_forwarding_on = True

    def _unforward(self) -> None:
        """Undo `_forward`, unless another engine has come to live off it."""
        if not self._turned_forwarding_on or bridge_driver.others(self._plumbing.host):
            return
        write_sysctl("net/ipv4/ip_forward", "0")
        with contextlib.suppress(OSError):  # not there, or with rules of others in it
            self._plumbing.nft("delete chain ip filter FORWARD")
            self._plumbing.nft("delete table ip filter")

    @property
    def plumbing(self) -> Plumbing:
        return self._plumbing

    @contextlib.asynccontextmanager
    async def choosing(self) -> AsyncIterator[None]:
        """Hold the host while a subnet or a bridge name is chosen and taken: engines that start together see each other.
        The lock is on the network namespace itself, so it needs no path that all would have to agree on."""
        async with self._choosing:
            await self.run(self._plumbing.lock_host)
            try:
                yield
            finally:
                await self.run(self._plumbing.unlock_host)

    async def ensure_bridge(self, network: NetworkRecord, *, ours: bool = True) -> int:
        """Make the network's bridge, remember it for the rules; `apply` next."""
        bridge = Bridge(network)
        index = await self.run(bridge_driver.ensure, self._plumbing, bridge, ours=ours)
        if network.enable_ipv6 and self._config.ip_forward:
            await self.run(write_sysctl, "net/ipv6/conf/all/forwarding", "1")
        self._bridges[network.id], self._indexes[network.id] = bridge, index
        return index

    async def delete_bridge(self, network: NetworkRecord) -> None:
        """Delete the network's bridge and its rules."""
        bridge = self._bridges.pop(network.id, None) or Bridge(network)
        self._indexes.pop(network.id, None)
        await self.apply()
        await self.run(bridge_driver.delete, self._plumbing, bridge)

    def bridge(self, network_id: str) -> tuple[Bridge, int]:
        """The bridge of a network and its index. Raises: Internal when it could not be made at start."""
        if network_id not in self._bridges:
            raise Internal(f"the bridge of network {network_id[:12]} is not there: see the daemon's log of its start")
        return self._bridges[network_id], self._indexes[network_id]

    async def delete_links(self, names: Sequence[str]) -> None:
        await self.run(self._plumbing.delete_links, names)

    # ── rules ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _ruleset(self) -> Ruleset:
        rules = [b.rules(ip6=self._config.ip6tables) for b in self._bridges.values()]
        return Ruleset(table=self._table, networks=tuple(rules), published=tuple(self._published), api=self._api)

    async def apply(self) -> None:
        """Put all rules into the kernel, in place of what is there."""
        if self._config.iptables:
            await self.run(self._enforcer.apply, self._ruleset())
            await self.run(self._open_loopback)

    def _open_loopback(self) -> None:
        for bridge in self._bridges.values():
            bridge_driver.allow_loopback(bridge)

    async def protect_api(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Keep containers from these TCP addresses of our API; ("", port) is every address."""
        self._api = tuple(addresses)
        await self.apply()

    def _rules_changed(self) -> None:
        if self._monitor is None or not self._monitor.disturbed():
            return
        self._disturbed = True
        if self._reapplying is None or self._reapplying.done():
            self._reapplying = asyncio.get_running_loop().create_task(self._restore_rules())

    async def _restore_rules(self) -> None:
        while self._disturbed:
            await asyncio.sleep(_REAPPLY_DELAY_S)
            self._disturbed = False
            try:
                if await self.run(self._enforcer.intact):
                    await self.run(self._enforcer.pass_foreign, {b.name for b in self._bridges.values()})
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
            namespace = self._plumbing.create_sandbox(plan)
            try:
                self._enforcer.publish(ports)
            except OSError as error:
                return namespace, error
            return namespace, None

        making = asyncio.ensure_future(self.run(work))
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
        """Nobody waits for the sandbox any more, but the thread makes it all the same: let it, and take it back."""
        try:
            namespace, _ = await making
        except OSError:
            self._let_go(grants)
            return
        os.close(namespace)
        await self.delete_links([i.veth for i in plan.interfaces])
        await self.unpublish(grants)

    def _forget_flows(self, grants: Sequence[Grant]) -> None:
        """Make clients of UDP ports that sent before meet the rules as they are now. Not waited for, and not in the
        namespace thread: it takes the kernel some milliseconds."""
        ports = {g.published.host_port for g in grants if g.published.proto == "udp"}
        if ports and self._config.iptables:
            self._stale_ports |= ports
            self._forgetting.submit(self._forget)

    def _forget(self) -> None:
        """All that is due at once: one walk for many ports."""
        ports, self._stale_ports = self._stale_ports, set()
        if not ports:
            return
        try:
            conntrack.forget(socket.IPPROTO_UDP, ports)
        except OSError as error:  # a kernel without connection tracking over netlink
            log.debug("connections to ports %s are not forgotten: %s", ports, error)

    async def extend_sandbox(self, pid: int, interface: InterfacePlan) -> None:
        """Add an interface to the namespace of a running process. Raises: OSError."""
        with _namespace(pid) as namespace:
            plan = SandboxPlan(interfaces=(interface,))
            await self.run(self._plumbing.extend_sandbox, namespace, plan)

    async def reroute(self, pid: int, old: Sequence[Address], new: Sequence[tuple[str, Address]]) -> None:
        """Move the default routes of a running process's namespace. Raises: OSError."""
        with _namespace(pid) as namespace:
            await self.run(self._plumbing.default_gateways, namespace, old, new)

    async def publish(self, grants: Sequence[Grant]) -> None:
        """Publish ports of a sandbox that exists."""
        self._hold(grants)
        if grants and self._config.iptables:
            try:
                await self.run(self._enforcer.publish, [g.published for g in grants])
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
                await self.run(self._enforcer.unpublish, [g.published for g in grants])
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
        """Whether the relay listens on a port's socket. On TCP always: it serves while another program has flushed our
        rules. On UDP only for what nftables cannot do: its reply to one stray packet would be remembered by connection
        tracking as a flow of the host's, and keep all later packets of that client from being translated."""
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

    async def sweep(self, known: set[str]) -> None:
        """Delete veths on our bridges that belong to nobody we know: left by a daemon that was killed."""
        own = set(self._indexes.values())
        links = await self.run(self._plumbing.host.links)
        stray = [
            link.name
            for link in links
            if link.master in own and link.kind == "veth" and _VETH.fullmatch(link.name) and link.name not in known
        ]
        if stray:
            log.info("links: deleting %d left by an earlier daemon", len(stray))
            await self.delete_links(stray)

    async def dismantle(self) -> None:
        """Take bridges and rules out of the kernel: the engine ends and nothing of it runs."""
        await self._stop_watching()
        bridges, self._bridges = list(self._bridges.values()), {}
        if self._config.iptables:
            with contextlib.suppress(OSError):
                await self.run(self._enforcer.remove)
        for bridge in bridges:
            await self.run(bridge_driver.delete, self._plumbing, bridge)
        await self.run(self._unforward)


@contextlib.contextmanager
def _namespace(pid: int) -> Iterator[int]:
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
