"""What the networks service has in the kernel: networks, sandboxes, published ports.

The service decides and calls; here it is carried out. When a link goes the leases hear of it. Which kind a network is
only its driver knows.

Invariant: what blocks is done in the host's namespace thread (host.py); everything else happens on the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeVar

from sampan.engine.background import Background
from sampan.engine.config import EngineConfig
from sampan.engine.networks import host as hosts
from sampan.engine.networks.carrier import Carrier
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.enforcer import Enforcer
from sampan.engine.networks.firewall import NetworkRules, Published, translatable
from sampan.engine.networks.firewall_keeper import FirewallKeeper
from sampan.engine.networks.host import HostNetwork
from sampan.engine.networks.ipam import Address, Subnet
from sampan.engine.networks.leases import Leases
from sampan.engine.networks.plans import VETH, InterfacePlan, SandboxPlan
from sampan.engine.networks.plumbing import write_sysctl
from sampan.engine.networks.ports import Grant, Ports
from sampan.engine.networks.records import EndpointRecord, NetworkRecord, SandboxRecord
from sampan.errors import Conflict, SampanError, Unavailable
from sampan.linux.netlink import RTMGRP_LINK, Netlink
from sampan.supervisor.names.sockets import NameSockets
from sampan.supervisor.ports.table import PROTOCOLS

log = logging.getLogger(__name__)

T = TypeVar("T")

DRIVER_TIMEOUT_S = 60.0  # for what may wait for another program: a plugin that hangs must not hang the engine
_DYING_S, _DYING_POLL_S = 2.0, 0.05  # how long the links of a dying namespace are waited for


class Fabric:
    """`open` it in the host's namespace; `close` takes nothing out of the kernel, `dismantle` everything."""

    def __init__(self, config: EngineConfig, release: Callable[[str, Address], None]) -> None:
        self._config = config
        self.host = HostNetwork(config)
        self._opened = contextlib.AsyncExitStack()
        self._choosing = asyncio.Lock()
        self.background = Background()
        self.leases = Leases(self.delete_links, release, self.background)
        self.carrier = Carrier(config.exec_root, self.background)
        self.ports = Ports(ipv6=os.path.exists("/proc/net/if_inet6"), listens=config.userland_proxy)
        self._up: dict[str, tuple[NetworkDriver, NetworkRecord]] = {}
        self.rejoin: Callable[[], Awaitable[None]] | None = None  # called when a network has been made again
        self.firewall = FirewallKeeper(self.host, self.background, self._rules)

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

    async def close(self) -> None:
        """Close everything that talks to the kernel. Idempotent, also when `open` has failed."""
        await self.firewall.stop()
        await self._opened.aclose()
        self.carrier.close()
        self.firewall.close()

    # ── host ────────────────────────────────────────────────────────────────────────────────────────────────────

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

    async def sweep_ended(self, known: Collection[str]) -> None:
        """Take away the links that engines left which were killed; while `choosing`. known: our own networks' ids."""

        def work() -> list[str]:
            plumbing = self.host.plumbing
            found = [link.name for link in hosts.abandoned(plumbing.host.links(), known)]
            for name in found:
                plumbing.delete_links([name])
                Enforcer(plumbing, name).remove()  # of the default bridge: the rules have its name
            return found

        if found := await self.host.run(work):
            log.info("links of engines that have ended were removed: %s", ", ".join(found))

    # ── networks ────────────────────────────────────────────────────────────────────────────────────────────────

    async def setup(self, driver: NetworkDriver, network: NetworkRecord) -> None:
        """Make a network, and remember it for the rules; `apply` next. Raises: OSError, SampanError."""
        await bounded(driver.setup(self.host, network), network)
        ours = driver.capabilities.gateway and not driver.capabilities.outside
        if ours and network.enable_ipv6 and self._config.ip_forward:
            await self.host.run(write_sysctl, "net/ipv6/conf/all/forwarding", "1")
        self._up[network.id] = driver, network

    async def teardown(self, driver: NetworkDriver, network: NetworkRecord) -> None:
        """Take a network's rules away, then the network. Raises: OSError, SampanError."""
        if self._up.pop(network.id, None) is not None and driver.rules(network, ip6=True) is not None:
            await self.firewall.apply()
        await bounded(driver.teardown(self.host, network), network)

    async def attach(
        self, driver: NetworkDriver, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> EndpointRecord:
        """Have a driver prepare an endpoint; return it with what the driver adds. Raises: OSError, SampanError."""
        return await bounded(driver.attach(self.host, network, endpoint, sandbox), network)

    async def detach(self, driver: NetworkDriver, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        """Have a driver forget an endpoint. Raises: OSError, SampanError."""
        await bounded(driver.detach(self.host, network, endpoint), network)

    def _rules(self) -> Iterator[NetworkRules]:
        for driver, network in self._up.values():
            rules = driver.rules(network, ip6=self._config.ip6tables)
            if rules is not None:
                yield rules

    async def delete_links(self, names: Sequence[str]) -> None:
        """Delete links of the host; those that are gone are fine."""
        await self.host.run(self.host.plumbing.delete_links, names)

    # ── sandboxes and ports ─────────────────────────────────────────────────────────────────────────────────────

    async def create_sandbox(self, plan: SandboxPlan, grants: Sequence[Grant]) -> tuple[int, NameSockets | None]:
        """Make the namespace and publish its ports in one go.

        Return the namespace's descriptor, and the sockets of its name service; both are the caller's.
        """
        self._hold(grants)
        published = [g.published for g in grants]
        addresses = sorted({port.address for port in published})

        def work() -> tuple[int, NameSockets | None, OSError | None]:
            return *self.host.plumbing.create_sandbox(plan), self.firewall.follow_in_thread(addresses)

        give_up = asyncio.get_running_loop().time() + _DYING_S
        while True:
            making = self.host.submit(work)
            try:
                namespace, names, error = await asyncio.shield(making)
                break
            except asyncio.CancelledError:
                await self._unmake(making, plan, grants)
                raise
            except BaseException as failure:
                if not _still_dying(plan, failure) or asyncio.get_running_loop().time() > give_up:
                    await self._let_go(grants)
                    raise
            try:
                await asyncio.sleep(_DYING_POLL_S)
            except BaseException:
                await self._let_go(grants)
                raise
        try:
            await self.firewall.mind(error)
            await self._settle(grants)
        except BaseException:
            _close(namespace, names)
            await self.unpublish(grants)
            raise
        self.firewall.forget_flows(published)
        return namespace, names

    async def _unmake(
        self,
        making: asyncio.Future[tuple[int, NameSockets | None, OSError | None]],
        plan: SandboxPlan,
        grants: Sequence[Grant],
    ) -> None:
        """Take back a sandbox that nobody waits for any more: the thread makes it all the same."""
        try:
            namespace, names, _ = await making
        except (OSError, SampanError):
            await self._let_go(grants)
            return
        _close(namespace, names)
        await self.delete_links([i.host_name for i in plan.interfaces if i.kind == VETH])
        await self.unpublish(grants)

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
        """Publish ports of a sandbox that exists. Raises: OSError, Internal; then they are free again."""
        self._hold(grants)
        try:
            await self.firewall.follow(g.published for g in grants)
            await self._settle(grants)
        except BaseException:
            await self._let_go(grants)
            raise

    async def unpublish(self, grants: Sequence[Grant]) -> None:
        """Take ports back: rules first, then the sockets that reserve them.

        Raises: OSError; the ports are free then too.
        """
        published = [g.published for g in grants]
        self.firewall.drop(published)
        try:
            await self.firewall.follow(published)
        finally:
            await self._let_go(grants)

    def adopt(self, published: Iterable[Published]) -> list[Grant]:
        """Remember ports that are published already; the firewall's `apply` puts them in with all the rest."""
        grants = [self._take_again(port) for port in published]
        self._hold(grants, given=True)
        return grants

    def _take_again(self, published: Published) -> Grant:
        """Take a port that was this engine's before; it is not published yet."""
        return self.ports.adopt(published, carried=self._carried(published))

    def _hold(self, grants: Sequence[Grant], *, given: bool = False) -> None:
        self.firewall.note(g.published for g in grants)
        carried = [g for g in grants if self._carried(g.published)]
        self.carrier.note(carried, given=given)
        self.carrier.tell_soon({g.published.address for g in carried})

    async def _settle(self, grants: Sequence[Grant]) -> None:
        """Wait for what is to be carried and not translated: it must not fail unseen. Raises: Internal."""
        await self.carrier.settle({g.published.address for g in grants if g.published.proxied})

    def _carried(self, published: Published) -> bool:
        """Return whether a process takes what comes to a port's socket.

        With `userland-proxy` on TCP always: it serves while another program has flushed our rules. On UDP only for what
        nftables cannot do: its reply to one stray packet would be remembered by connection tracking as a flow of the
        host's, and keep all later packets of that client from being translated.
        """
        if not published.host_port or published.proto not in PROTOCOLS:
            return False
        if published.proxied:
            return True
        if not self._config.userland_proxy:
            return False
        return published.proto == "tcp" or not (self._config.iptables and translatable(published))

    async def _let_go(self, grants: Sequence[Grant]) -> None:
        self.firewall.drop(g.published for g in grants)
        try:
            await self.carrier.drop([g for g in grants if self._carried(g.published)])
        finally:
            for grant in grants:
                self.ports.release(grant)

    # ── links ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _links_changed(self) -> None:
        try:
            gone = self._links.gone()
        except OSError as error:  # ENOBUFS: some were missed; what is still noted is deleted explicitly, gone or not
            log.debug("links: %s", error)
            return
        self.leases.gone(gone)
        if all(name.startswith(VETH) for name in gone):
            return  # containers' ends, of which there are many
        for driver, network in list(self._up.values()):
            rules = driver.rules(network, ip6=True)
            if rules is not None and rules.interface in gone:
                self.background.spawn(self._make_again(driver, network), f"network {network.name}")

    async def _make_again(self, driver: NetworkDriver, network: NetworkRecord) -> None:
        """Make a network again whose link somebody has deleted, with everyone on it."""
        if network.id not in self._up:
            return
        log.warning("network %s: its link was deleted; it is made again", network.name)
        try:
            # a removal that comes from now on has its turn in the namespace thread after this
            await bounded(driver.setup(self.host, network), network)
            if self.rejoin is not None:
                await self.rejoin()
        except (OSError, SampanError) as error:
            log.error("network %s: it cannot be made again: %s", network.name, error)

    async def sweep(self, drivers: Iterable[NetworkDriver], known: frozenset[str]) -> None:
        """Take away links of endpoints, and carried ports, that nobody knows: left by a daemon that was killed."""
        links = await self.host.run(self.host.plumbing.host.links)
        stray = [name for driver in drivers for name in driver.strays(links, known)]
        if stray:
            log.info("links: deleting %d left by an earlier daemon", len(stray))
            await self.delete_links(stray)
        await self.carrier.sweep()

    async def dismantle(self) -> None:
        """Take networks and rules out of the kernel: the engine ends and nothing of it runs."""
        await self.firewall.stop()
        networks, self._up = list(self._up.values()), {}
        await self.firewall.remove()
        for driver, network in networks:
            try:
                await self.teardown(driver, network)
            except (OSError, SampanError) as error:
                log.error("network %s: it cannot be taken down: %s", network.name, error)
        await self.firewall.stop_forwarding()


def _close(namespace: int, names: NameSockets | None) -> None:
    os.close(namespace)
    if names is not None:
        names.close()


def _still_dying(plan: SandboxPlan, failure: BaseException) -> bool:
    """Return whether a link of a killed engine may have a MAC yet: it goes with its namespace, and nobody is told."""
    return isinstance(failure, OSError) and failure.errno == errno.EADDRINUSE and any(i.inside for i in plan.interfaces)


async def bounded(work: Awaitable[T], network: NetworkRecord) -> T:
    """Wait for a driver, but not for ever. Raises: Unavailable; whatever the driver raises."""
    try:
        async with asyncio.timeout(DRIVER_TIMEOUT_S):
            return await work
    except TimeoutError as error:
        said = f"network driver {network.driver} did not answer within {DRIVER_TIMEOUT_S:.0f} s"
        raise Unavailable(f"network {network.name}: {said}") from error


class SandboxEnded(Conflict):
    """The process whose network was to be changed has ended; who is told of that takes its sandbox down."""


@contextlib.contextmanager
def namespace_of(pid: int) -> Iterator[int]:
    """Open the network namespace of a process. Raises: SandboxEnded."""
    try:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise SandboxEnded(f"process {pid} has ended") from error
    try:
        yield fd
    finally:
        os.close(fd)
