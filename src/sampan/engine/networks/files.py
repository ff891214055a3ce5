"""The network files of a container: /etc/hosts and /etc/resolv.conf, as text. Pure.

Source: Docker Engine 28.5, what its containers show; resolv.conf(5), hosts(5).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from ipaddress import ip_address

from sampan.linux.resolvconf import HOST_RESOLV_CONF, parse

FALLBACK_V4 = ("8.8.8.8", "8.8.4.4")
FALLBACK_V6 = ("2001:4860:4860::8888", "2001:4860:4860::8844")

_LOCAL4 = "127.0.0.1\tlocalhost\n"
_LOCAL6 = (
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)


def hosts_file(
    *,
    hostname: str,
    domainname: str = "",
    addresses: Sequence[str] = (),
    extra_hosts: Iterable[tuple[str, str]] = (),
    ipv6: bool = True,
) -> str:
    """Return /etc/hosts: localhost, then (name, address) of --add-host and links, then this container's addresses."""
    lines = [_LOCAL4, _LOCAL6 if ipv6 else ""]
    lines += [f"{address}\t{name}\n" for name, address in extra_hosts]
    lines += [_own(address, hostname, domainname) for address in addresses if address]
    return "".join(lines)


def with_addresses(
    text: str, before: Iterable[str], after: Iterable[str], *, hostname: str, domainname: str = ""
) -> str:
    """Return /etc/hosts with a container's addresses of now in the place of those of before; the rest stays."""
    had, have = [_own(a, hostname, domainname) for a in before], [_own(a, hostname, domainname) for a in after]
    lines = [line for line in text.splitlines(keepends=True) if line not in had or line in have]
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join([*lines, *(line for line in have if line not in had)])


def with_links(text: str, aliases: Collection[str], links: Iterable[tuple[str, str]]) -> str:
    """Return /etc/hosts with these (names, address) of links in the place of the lines of their aliases."""
    had = text.splitlines(keepends=True)
    if had and not had[-1].endswith("\n"):
        had[-1] += "\n"
    kept: list[str] = []
    at = -1
    for line in had:
        _, tab, names = line.partition("\t")
        words = names.split()
        if tab and len(words) > 1 and words[0] in aliases:  # what --add-host gives has one name
            at = len(kept) if at < 0 else at
        else:
            kept.append(line)
    at = len(kept) if at < 0 else at
    return "".join([*kept[:at], *(f"{address}\t{names}\n" for names, address in links), *kept[at:]])


def _own(address: str, hostname: str, domainname: str) -> str:
    full = f"{hostname}.{domainname}" if domainname else hostname
    names = f"{full} {full.partition('.')[0]}" if "." in full else full
    return f"{address}\t{names}\n"


def host_hosts_file(text: str, extra_hosts: Iterable[tuple[str, str]] = ()) -> str:
    """Return /etc/hosts for network mode host: the host's own; with --add-host, as in Docker, the usual one."""
    extra = list(extra_hosts)
    if not extra:
        return text
    return _LOCAL4 + _LOCAL6 + "".join(f"{address}\t{name}\n" for name, address in extra)


def _loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def resolv_conf(
    host_text: str,
    *,
    path: str = HOST_RESOLV_CONF,
    dns: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    ipv6: bool = False,
    host_network: bool = False,
    name_service: str = "",
) -> str:
    """Return /etc/resolv.conf: the host's, with what the user gave instead.

    Resolvers on the host's loopback, which a container cannot reach, are left out (then public ones take their place,
    as in Docker). `search` of "." means none. name_service: the address of the sandbox's own, which asks all these.
    """
    conf = parse(host_text)
    overrides: list[str] = []
    comments: list[str] = []
    if dns:
        conf.nameservers, overrides = list(dns), [*overrides, "nameservers"]
    elif not host_network and not name_service:
        reachable = [n for n in conf.nameservers if not _loopback(n) and (ipv6 or ":" not in n)]
        if not reachable:
            reachable = [*FALLBACK_V4, *(FALLBACK_V6 if ipv6 else ())]
            comments.append("# Used default nameservers.")
        conf.nameservers = reachable
    if search:
        conf.search, overrides = ([] if list(search) == ["."] else list(search)), [*overrides, "search"]
    if options:
        conf.options, overrides = list(options), [*overrides, "options"]
    ndots = next((o for o in reversed(conf.options) if o.startswith("ndots:")), "")
    origin = ("override" if options else "host") if ndots else ""
    if name_service:
        asked = conf.nameservers if dns else [f"host({server})" for server in conf.nameservers]
        comments.append(f"# ExtServers: [{' '.join(asked)}]")
        conf.nameservers = [name_service]
        if not ndots:
            conf.options, origin = [*conf.options, "ndots:0"], "internal"
    out = [
        "# Generated by Docker Engine.",
        "# This file can be edited; Docker Engine will not make further changes once it",
        "# has been modified.",
        "",
    ]
    out += [f"nameserver {n}" for n in conf.nameservers]
    if conf.search:
        out.append("search " + " ".join(conf.search))
    if conf.options:
        out.append("options " + " ".join(conf.options))
    out += conf.other
    # the words Docker uses; "legacy": there is no internal resolver
    kind = " (internal resolver)" if name_service else "" if host_network else " (legacy)"
    out += ["", f"# Based on host file: '{path}'{kind}", *comments, f"# Overrides: [{' '.join(overrides)}]"]
    if origin and (name_service or origin == "override"):
        out.append(f"# Option ndots from: {origin}")
    return "\n".join(out) + "\n"
