"""The published ports that a process carries: what the carrier (`sampan.supervisor.ports`) is told.

For each address of a container there is a file which says what leads there. It is written when that changes, and the
carrier is told and gets the ports' sockets; from then on it holds them, and this daemon does not. A client that comes
before waits in the socket, so whoever publishes need not wait for the carrier (`tell_soon`), unless it must be sure of
it (`settle`). Whoever takes a port back waits until it is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

from sampan.engine.background import Background
from sampan.engine.networks.firewall import Published
from sampan.engine.networks.ports import Grant
from sampan.errors import Internal, SampanError
from sampan.supervisor import layout
from sampan.supervisor.kept import files
from sampan.supervisor.kept.messages import MOST_DESCRIPTORS
from sampan.supervisor.kept.processes import PORTS
from sampan.supervisor.kept.teller import Teller
from sampan.supervisor.ports.table import Carried, encode

log = logging.getLogger(__name__)

_ANSWER_S = 10.0
_AT_ONCE = MOST_DESCRIPTORS - 1  # and the file
_TRIES, _PAUSE_S = 40, 0.05  # the carrier may be on its way out, or in


class Carrier:
    """The carrier of one exec root, as the engine tells it. Used on the event loop's thread only.

    Start it with `supply`; until then everything is noted, and nobody is told.
    """

    def __init__(self, exec_root: str, background: Background) -> None:
        self._directory = f"{exec_root}/{PORTS.directory}"
        self._background = background
        self._teller = Teller(exec_root, PORTS, _ANSWER_S)
        self._ports: dict[str, dict[str, Carried]] = {}  # by the container's address
        self._fresh: dict[str, Grant] = {}  # by key: those whose sockets are here yet
        self._given: set[str] = set()  # addresses of which the carrier may have ports
        self._untold: set[str] = set()  # addresses of which it does not have the last word
        self._telling = asyncio.Lock()
        self._supplied = False

    def supply(self, start: Callable[[], Awaitable[None]]) -> None:
        """Say how the carrier is started, and tell it what has been noted."""
        self._teller.supply(start)
        self._supplied = True
        self.tell_soon(list(self._ports))

    def close(self) -> None:
        """Close the connection; the carrier goes on."""
        self._teller.close()

    def note(self, grants: Iterable[Grant], *, given: bool = False) -> None:
        """Have ports carried; nobody is told yet. given: the carrier has had them before."""
        changed = set()
        for grant in grants:
            carried = _carried(grant.published)
            self._ports.setdefault(carried.address, {})[carried.key] = carried
            if grant.socket is not None:
                self._fresh[carried.key] = grant
            changed.add(carried.address)
        for address in changed:
            self._write(address)
        self._untold |= changed
        if given:
            self._given |= changed

    async def drop(self, grants: Sequence[Grant]) -> None:
        """Have ports carried no more: they are free when this returns, or nobody answers, which is logged."""
        changed = set()
        for grant in grants:
            carried = _carried(grant.published)
            ports = self._ports.get(carried.address, {})
            if ports.get(carried.key) == carried:
                del ports[carried.key]
                self._fresh.pop(carried.key, None)
                changed.add(carried.address)
        for address in changed:
            if not self._ports[address]:
                del self._ports[address]
            self._write(address)
        self._untold |= changed
        await self._told(changed)

    def tell_soon(self, addresses: Collection[str]) -> None:
        """Tell the carrier what leads to these addresses now, without waiting for it."""
        if addresses and self._supplied:
            self._background.spawn(self._told(addresses), "telling the carrier of ports", finish=True)

    async def settle(self, addresses: Collection[str]) -> None:
        """Return when everything that is to lead to these addresses does. Raises: Internal."""
        for address in addresses:
            try:
                failed = await self._tell(address)
            except (OSError, SampanError) as error:
                raise Internal(f"published ports cannot be carried: {error}") from error
            if failed:
                what = ", ".join(f"{key}: {why}" for key, why in sorted(failed.items()))
                raise Internal(f"published ports cannot be carried: {what}")

    async def sweep(self) -> None:
        """Have everything carried that is noted, and all else freed: left by an engine that was killed."""
        with contextlib.suppress(FileNotFoundError):
            stray = [address for address in list(files.ids(self._directory)) if address not in self._ports]
            for address in stray:
                self._write(address)
            self._given.update(stray)
            self._untold.update(stray)
        await self._told(list(self._untold))

    async def _told(self, addresses: Collection[str]) -> None:
        for address in addresses:
            try:
                failed = await self._tell(address)
            except (OSError, SampanError) as error:
                log.warning("ports that lead to %s: %s", address, error)
                continue
            if failed:
                log.error("ports that lead to %s cannot be carried: %s", address, failed)

    async def _tell(self, address: str) -> dict[str, str]:
        """Tell what leads to an address; return what could not be had, and why. Raises: OSError, SampanError."""
        async with self._telling:
            if not self._supplied or address not in self._untold:
                return {}
            if address not in self._ports and address not in self._given:
                self._untold.discard(address)
                return {}
            for last in range(_TRIES):
                try:
                    return await self._tell_once(address)
                except TimeoutError:
                    raise
                except OSError:
                    if last == _TRIES - 1:
                        raise
                await asyncio.sleep(_PAUSE_S)
        raise AssertionError("unreachable")

    async def _tell_once(self, address: str) -> dict[str, str]:
        """As `_tell`, once. Sockets are let go of only when the carrier has them."""
        self._given.add(address)
        self._untold.discard(address)  # what changes from here on has to be told again
        try:
            failed = await self._hand_over(address)
        except BaseException:
            self._untold.add(address)
            raise
        if failed:
            self._untold.add(address)
        elif address not in self._ports and address not in self._untold:
            self._given.discard(address)
        return failed

    async def _hand_over(self, address: str) -> dict[str, str]:
        fresh = {key: self._fresh[key] for key in self._ports.get(address, ()) if key in self._fresh}
        with contextlib.ExitStack() as opened:
            # copies: a descriptor's number may be another file's by the time it is sent
            sockets = {key: opened.enter_context(grant.socket.dup()) for key, grant in fresh.items() if grant.socket}
            keys = list(sockets)
            part, rest = keys[:_AT_ONCE], keys[_AT_ONCE:]
            while rest:
                await self._teller.tell({"bring": part}, [sockets[key].fileno() for key in part])
                part, rest = rest[:_AT_ONCE], rest[_AT_ONCE:]
            rights = [sockets[key].fileno() for key in part]
            with contextlib.suppress(FileNotFoundError):
                path = f"{self._directory}/{files.file_name(address)}"
                rights.append(opened.enter_context(open(path, "rb")).fileno())
            said = await self._teller.tell({"put": address, "bring": part}, rights)
        failed: dict[str, str] = said["failed"]
        for key in keys:
            if self._fresh.get(key) is fresh[key] and key not in failed:
                del self._fresh[key]
                fresh[key].close()
        return failed

    def _write(self, address: str) -> None:
        ports = self._ports.get(address)
        path = f"{self._directory}/{files.file_name(address)}"
        try:
            if ports:
                os.makedirs(self._directory, 0o700, exist_ok=True)
                layout.write(path, encode(ports.values()))
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        except OSError as error:  # a full exec root
            log.error("ports that lead to %s cannot be written down: %s", address, error)


def _carried(published: Published) -> Carried:
    return Carried(
        proto=published.proto,
        host_ip=published.host_ip,
        host_port=published.host_port,
        address=published.address,
        port=published.port,
    )
