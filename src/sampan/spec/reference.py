"""Image references: `[domain/]path[:tag][@digest]`, parsed, normalised and printed as Docker does. Pure.

Not here: what a reference points to. Invariants: a `Reference` is always valid and fully qualified
(`busybox` → `docker.io/library/busybox`); `familiar()` is the short form that users see.
Source: the grammar of the distribution project's reference package; OCI distribution-spec 1.1; error texts
as Docker Engine 28.5 answers them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from sampan.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL = "library/"
DEFAULT_TAG = "latest"
NAME_MAX = 255

_ALNUM = r"[a-z0-9]+"
_COMPONENT = rf"{_ALNUM}(?:(?:\.|_|__|-+){_ALNUM})*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[(?:[a-fA-F0-9:]+)\])"
_DOMAIN = rf"{_HOST}(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(
    rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?"
)
_TAG_ALONE = re.compile(_TAG)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_DIGEST_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, slots=True)
class Reference:
    """A fully qualified reference. `tag` and `digest` are "" when absent."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """`docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    def familiar_name(self) -> str:
        """Return `busybox`, `user/app`, `registry.example/app`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        if self.path.startswith(OFFICIAL) and "/" not in self.path[len(OFFICIAL) :]:
            return self.path[len(OFFICIAL) :]
        return self.path

    def familiar(self) -> str:
        """Return the short form with its tag and digest, as users see it."""
        return self.familiar_name() + self._suffix()

    def tagged(self) -> Reference:
        """Return the reference with the tag `latest` when there is neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix()


def parse(text: str) -> Reference:
    """Parse and normalise a name as users write it.

    Raises: InvalidArgument in Docker's words.
    """
    if _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    remote = remainder.split(":", 1)[0]
    if remote.lower() != remote:
        raise InvalidArgument(f"invalid reference format: repository name ({remote}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None:
        raise InvalidArgument("invalid reference format")
    path, tag, digest = match["path"], match["tag"] or "", match["digest"] or ""
    if len(path) > NAME_MAX:
        raise InvalidArgument(f"repository name must not be more than {NAME_MAX} characters")
    if digest:
        check_digest(digest)
    return Reference(match["domain"], path, tag, digest)


def parse_any(text: str) -> Reference | str:
    """Return a name, or a digest string `sha256:<64 hex>` when `text` is an image id or a digest.

    Raises: InvalidArgument.
    """
    if _IDENTIFIER.fullmatch(text):
        return f"sha256:{text}"
    if is_digest(text):
        return text
    return parse(text)


def with_tag(reference: Reference, tag: str) -> Reference:
    """Replace the tag. Raises: InvalidArgument `invalid tag format`."""
    if not _TAG_ALONE.fullmatch(tag):
        raise InvalidArgument("invalid tag format")
    return replace(reference, tag=tag)


def is_digest(text: str) -> bool:
    """Return whether `text` is `<algorithm>:<hex>` of a known algorithm, with the right length."""
    algorithm, _, hexadecimal = text.partition(":")
    return _DIGEST_LENGTHS.get(algorithm) == len(hexadecimal) and re.fullmatch(r"[a-f0-9]+", hexadecimal) is not None


def check_digest(digest: str) -> None:
    """Check a digest. Raises: InvalidArgument unless `digest` is well formed and of an algorithm that we can verify."""
    algorithm, _, hexadecimal = digest.partition(":")
    if algorithm not in _DIGEST_LENGTHS:
        raise InvalidArgument("unsupported digest algorithm")
    if len(hexadecimal) != _DIGEST_LENGTHS[algorithm]:
        raise InvalidArgument("invalid checksum digest length")
    if not is_digest(digest):
        raise InvalidArgument("invalid checksum digest format")


def _split_domain(text: str) -> tuple[str, str]:
    """Split off the registry: the first component, if it looks like a host; Docker Hub otherwise."""
    first, slash, rest = text.partition("/")
    if not slash or not (any(c in first for c in ".:") or first == "localhost" or first.lower() != first):
        domain, remainder = DEFAULT_DOMAIN, text
    else:
        domain, remainder = first, rest
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = OFFICIAL + remainder
    return domain, remainder
