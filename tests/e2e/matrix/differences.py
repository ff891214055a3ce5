"""Where our answers are not Docker's, and why. Each line has its row in docs/compatibility.md."""

from __future__ import annotations

import re
from typing import NamedTuple


class Difference(NamedTuple):
    """where: a pattern of `case: question`. docker, ours: the two answers."""

    where: str
    docker: str
    ours: str
    why: str


_NO_PROXY = "a published port is reached in one way, whether there is a proxy or not; without its proxy Docker's is not"
DIFFERENT = (
    Difference(r".*: web router advertisements by .*", "taken", "no", "a neighbour is no router (CVE-2020-13401)"),
    Difference(
        r".*: lan (tcp|udp)4 127.0.0.1 published",
        "seen as lan",
        "nothing",
        "packets for 127.0.0.1 that come from elsewhere end here, whatever is published",
    ),
    Difference(
        r"no address on the host: host udp4 (127.0.0.1 published on 127.0.0.1|itself published)",
        "nothing",
        "EINVAL",
        "the host has no address there to ask from: said at once",
    ),
    Difference(
        r"(?!only IPv4|default bridge|direct: default bridge).*: host udp6 itself published",
        "seen as gateway",
        "nothing",
        "::1 cannot be translated; a process that answered there would take a client's later packets, too",
    ),
    Difference(r"no proxy: .*: (other|beyond) .* (host|gateway) published.*", "nothing", "seen as gateway", _NO_PROXY),
    Difference(r"no proxy: no icc: (web|peer) .* (host|gateway) published.*", "nothing", "seen as gateway", _NO_PROXY),
    Difference(r"no proxy: .*: peer .* (host|gateway) published.*", "seen as peer", "seen as gateway", _NO_PROXY),
    Difference(r"no proxy: .*: host .* host published.*", "seen as gateway", "seen as host", _NO_PROXY),
    Difference(
        r"no proxy: .*: host tcp6 itself published", "nothing", "refused", "::1 cannot be translated: said at once"
    ),
)


def ours(case: str, question: str, docker: str) -> str:
    """Return what is expected of our engine where Docker gives this answer."""
    for different in DIFFERENT:
        if docker == different.docker and re.fullmatch(different.where, f"{case}: {question}"):
            return different.ours
    return docker
