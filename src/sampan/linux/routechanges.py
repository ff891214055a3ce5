"""Addresses and routes of a network namespace as they come and go. For what there is: netlink.py.

Source: rtnetlink(7).
"""

from __future__ import annotations

import socket

from sampan.linux import netlink
from sampan.linux.netlink import Address

_GROUPS = 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_RECEIVE_BYTES = 1 << 17
_TYPE_OF_ROUTE = 7  # where rtm_type stands


class RouteChanges:
    """A NETLINK_ROUTE socket of the calling thread's network namespace that only listens; owns its descriptor."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, _GROUPS))
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> tuple[list[tuple[Address, int]], bool]:
        """Read what is pending, without waiting.

        Return the addresses and destinations that came, with their lengths, and whether any went; default routes do
        not count. Raises: OSError ENOBUFS when notifications were lost: then the caller looks for itself.
        """
        came: list[tuple[Address, int]] = []
        went = False
        while True:
            try:
                datagram = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return came, went
            for type_, _, _, body in netlink.messages(datagram):
                went = went or type_ in (netlink.RTM_DELADDR, netlink.RTM_DELROUTE)
                if type_ == netlink.RTM_NEWADDR and (prefix := netlink.parse_address(body)) is not None:
                    came.append((prefix.address, prefix.length))
                elif type_ == netlink.RTM_NEWROUTE and body[_TYPE_OF_ROUTE] == netlink.RTN_UNICAST:
                    route = netlink.parse_route(body)
                    if route.destination is not None and route.length:
                        came.append((route.destination, route.length))
