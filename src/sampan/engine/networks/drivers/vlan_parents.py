"""The links of the host that macvlan and ipvlan networks are made on: found, or made and removed.

A parent that is not there is made when it is ours to make: a dummy for a network that names none, an 802.1q
sub-interface for a name such as eth0.10. What we made carries `sampan:<network id>:<running engine>` as its alias; of
networks that share it, one stands there, and when that one goes another takes its place. Blocking, in the namespace
thread.

Source: ip-link(8); docs.docker.com/engine/network/drivers/macvlan (802.1q trunk).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from sampan.engine.networks import host as hosts
from sampan.engine.networks.drivers import vlan_options
from sampan.engine.networks.drivers.vlan_options import Vlan
from sampan.errors import Internal, InvalidArgument, NotImplemented_, words
from sampan.linux import netlink
from sampan.linux.netlink import Link, Message, Netlink


def probe(rtnl: Netlink, kind: str) -> None:
    """Check that the kernel has links of a kind that need a parent; none is made. Raises: NotImplemented_, OSError."""
    (error,) = rtnl.attempt([netlink.add_link("", kind)]).errors  # without a parent: EINVAL from the kind itself
    if error is not None and error.errno == errno.EOPNOTSUPP:
        raise _lacking("", kind, kind)


def ensure(rtnl: Netlink, vlan: Vlan, owner: str) -> int:
    """Return the index of a network's parent, which is made when it is ours to make and not there.

    Raises: InvalidArgument in Docker's words; NotImplemented_ when the kernel has no such link; OSError.
    """
    link = find(rtnl, vlan.parent)
    if link is None:
        made = [_making(rtnl, vlan), netlink.set_link(vlan.parent, alias=hosts.mark(vlan.network.id, owner))]
        try:
            rtnl.batch(made)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            raise _not_made(vlan) from error
        link = find(rtnl, vlan.parent)
    if link is None:
        raise Internal(f"parent interface {vlan.parent} has gone while it was made")
    if hosts.marked(link, vlan.network.id) and not link.flags & netlink.IFF_UP:
        try:
            rtnl.batch([netlink.set_link(link.ifindex, up=True)])
        except OSError as error:  # of a sub-interface: the link that it is on is down
            raise Internal(f"failed to enable {vlan.parent} the {vlan.kind} parent link: {words(error)}") from error
    return link.ifindex


def look_up(rtnl: Netlink, vlan: Vlan, owner: str) -> int:
    """Return the index of the parent that an endpoint is to be made on; one that is ours to make is made again.

    Raises: Internal in Docker's words when it has gone; as `ensure`.
    """
    link = find(rtnl, vlan.parent)
    if link is None and (vlan.parent == vlan.own_parent or "." in vlan.parent):
        return ensure(rtnl, vlan, owner)
    if link is None:
        what = f"error occurred looking up the {vlan.kind} parent iface {vlan.parent}"
        raise Internal(f"{what} error: Link not found")
    return link.ifindex


def release(rtnl: Netlink, vlan: Vlan, others: Mapping[str, str], owner: str) -> None:
    """Delete a parent that we made, unless another network is on it. others: network id → parent. Raises: OSError."""
    link = find(rtnl, vlan.parent)
    if link is None or not hosts.marked(link, vlan.network.id):
        return
    heir = next((id for id, parent in sorted(others.items()) if parent == vlan.parent), None)
    request = netlink.delete_link(link.ifindex)
    if heir is not None:
        request = netlink.set_link(link.ifindex, alias=hosts.mark(heir, owner))
    (error,) = rtnl.attempt([request]).errors
    if error is not None and error.errno != errno.ENODEV:
        raise error


def find(rtnl: Netlink, name: str) -> Link | None:
    """Return the link of this name, whatever name was asked for. Raises: OSError."""
    return rtnl.link(name) if vlan_options.is_link_name(name) else None


def _making(rtnl: Netlink, vlan: Vlan) -> Message:
    """Return the request that makes a parent. Raises: InvalidArgument in Docker's words."""
    if vlan.parent == vlan.own_parent:
        return netlink.add_link(vlan.parent, "dummy")
    below, id = vlan_options.parse_sub_interface(vlan.parent)
    link = find(rtnl, below)
    if link is None:
        raise InvalidArgument(f"-o parent interface was not found on the host: {below}")
    vlan_options.check_vlan_id(id)
    if not vlan_options.is_link_name(vlan.parent):
        raise InvalidArgument(f"failed to create {vlan.parent} vlan link: the name is too long for a link")
    return netlink.add_link(vlan.parent, "vlan", parent=link.ifindex, data=vlan_options.sub_interface(id))


def _not_made(vlan: Vlan) -> NotImplemented_:
    if vlan.parent == vlan.own_parent:
        return _lacking("", "dummy", "dummy", "; name a parent, as in -o parent=eth0")
    return _lacking(f"failed to create {vlan.parent} vlan link: ", "802.1q", "8021q")


def _lacking(what: str, kind: str, module: str, advice: str = "") -> NotImplemented_:
    """Say, after Docker's words, what the kernel lacks."""
    return NotImplemented_(f"{what}operation not supported: this kernel has no {kind} links (module {module}){advice}")
