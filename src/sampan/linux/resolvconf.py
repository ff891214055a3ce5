"""resolv.conf: what it says, and which file names the host's real resolvers.

Source: resolv.conf(5); systemd-resolved(8), "/etc/resolv.conf".
"""

from __future__ import annotations

from dataclasses import dataclass, field

HOST_RESOLV_CONF = "/etc/resolv.conf"
SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
SYSTEMD_STUB = "127.0.0.53"


@dataclass(slots=True)
class ResolvConf:
    """What a resolv.conf says; unknown directives are kept."""

    nameservers: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)


def parse(text: str) -> ResolvConf:
    conf = ResolvConf()
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if not words:
            continue
        key, values = words[0], words[1:]
        if key == "nameserver":
            conf.nameservers += values[:1]
        elif key in ("search", "domain"):
            conf.search = values
        elif key == "options":
            conf.options += values
        else:
            conf.other.append(" ".join(words))
    return conf


def host_path(etc_resolv_conf: str) -> str:
    """Return where the host's real resolvers are named: systemd-resolved's own file when /etc has only its stub."""
    return SYSTEMD_RESOLV_CONF if parse(etc_resolv_conf).nameservers == [SYSTEMD_STUB] else HOST_RESOLV_CONF
