"""Where a repository may be fetched from, and how each place may be spoken to. Pure: decided before the first packet.

Not here: the conversation. Invariant: the registry itself comes last, and only to it may credentials go.

Source: dockerd 28.5 `registry-mirrors`, `insecure-registries`; the `registries` table is ours:
    {"docker.io": {"mirrors": ["https://cache.example"], "rewrite": {"^library/(.*)$": "hub/$1"}, "insecure": false}}
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sampan.spec.reference import DEFAULT_DOMAIN, Reference

DEFAULT_HOST = "registry-1.docker.io"
CERTIFICATES = ("/etc/sampan/certs.d", "/etc/docker/certs.d")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRule:
    """One row of the `registries` table. `rewrite`: (pattern, replacement with $1) for repositories at its mirrors."""

    mirrors: tuple[str, ...] = ()
    rewrite: tuple[tuple[str, str], ...] = ()
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the configuration says about registries."""

    mirrors: tuple[str, ...] = ()  # of Docker Hub
    insecure: tuple[str, ...] = ()
    rules: Mapping[str, RegistryRule] = field(default_factory=dict)  # by domain
    certificates: tuple[str, ...] = CERTIFICATES
    attempts: int = 5  # for one request or blob without progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One place: `base` is scheme://host[:port][/prefix], without /v2/. `path`: the repository's name there."""

    base: str
    path: str
    insecure: bool = False  # whatever certificate it shows is taken
    mirror: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.base).netloc

    @property
    def root(self) -> str:
        return f"{self.base}/v2/"

    def url(self, rest: str) -> str:
        """Return the URL of something in the repository: `manifests/latest`, `blobs/sha256:…`."""
        return f"{self.base}/v2/{self.path}/{rest}"


def rules(table: Mapping[str, Mapping[str, Any]]) -> dict[str, RegistryRule]:
    """Return the `registries` table of a checked configuration as values."""
    return {
        domain: RegistryRule(
            mirrors=tuple(mirror.rstrip("/") for mirror in row.get("mirrors") or ()),
            rewrite=tuple((row.get("rewrite") or {}).items()),
            insecure=bool(row.get("insecure")),
        )
        for domain, row in table.items()
    }


def host_of(domain: str) -> str:
    """Return the host that serves a reference's domain."""
    return DEFAULT_HOST if domain == DEFAULT_DOMAIN else domain


def is_insecure(host: str, insecure: Collection[str]) -> bool:
    """Return whether a host may go unverified, or plain: loopback, and what the configuration says. Names are
    not resolved.
    """
    name = urlsplit(f"//{host}").hostname or ""
    if host in insecure or name in insecure or name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in _networks(insecure))


def _networks(insecure: Collection[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found = []
    for entry in insecure:
        try:
            found.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            continue  # a host's name
    return found


def candidates(wanted: Reference, settings: Settings, *, push: bool = False) -> list[list[Endpoint]]:
    """Return the places to ask, in order; each as its schemes, in order: an insecure one may be https or http."""
    rule = settings.rules.get(wanted.domain, RegistryRule())
    found: list[list[Endpoint]] = []
    if not push:
        hub = settings.mirrors if wanted.domain == DEFAULT_DOMAIN else ()
        path = rewritten(wanted.path, rule.rewrite)
        found += [[_mirror(base, path, settings)] for base in rule.mirrors]
        found += [[_mirror(base.rstrip("/"), wanted.path, settings)] for base in hub]
    found.append(own(wanted.domain, wanted.path, settings))
    return found


def own(domain: str, path: str, settings: Settings) -> list[Endpoint]:
    """Return the registry of a domain itself."""
    host = host_of(domain)
    rule = settings.rules.get(domain, RegistryRule())
    if rule.insecure or is_insecure(host, settings.insecure):
        return [Endpoint(base=f"{scheme}://{host}", path=path, insecure=True) for scheme in ("https", "http")]
    return [Endpoint(base=f"https://{host}", path=path)]


def _mirror(base: str, path: str, settings: Settings) -> Endpoint:
    insecure = is_insecure(urlsplit(base).netloc, settings.insecure)
    return Endpoint(base=base, path=path, insecure=insecure, mirror=True)


def rewritten(path: str, rewrite: Sequence[tuple[str, str]]) -> str:
    """Return the repository's name at a mirror: the first pattern that matches decides."""
    for pattern, replacement in rewrite:
        if re.search(pattern, path) is not None:
            return re.sub(pattern, re.sub(r"\$(\d)", r"\\g<\1>", replacement), path, count=1)
    return path
