"""What `sampan build` lists for Docker's sake and cannot do: refused by name, never passed over.

Source: the words of buildx 0.29 where it refuses the same.
"""

from __future__ import annotations

from sampan.cli.builder.wants import pairs
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues

ATTESTATION = "ERROR: failed to build: attestations are not supported: {}"
ENTITLEMENTS = ("network.host", "security.insecure")
CACHES = ("registry", "local", "inline")
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def check(opts: FlagValues, *, classic: bool) -> None:
    """Check that no flag asks for what there is not. Raises: CommandError naming the flag."""
    for text in opts.many("attest"):
        attrs = pairs(text)
        if not attrs.get("type"):
            raise CommandError(f"ERROR: invalid value {text}")
        if not BOOLEANS.get(attrs.get("disabled", ""), "disabled" in attrs):
            raise CommandError(ATTESTATION.format(f"--attest {text}"))
    for name in ("sbom", "provenance"):
        if opts.changed(name) and _wanted(opts.text(name)):
            raise CommandError(ATTESTATION.format(f"--{name}={opts.text(name)}"))
    for text in opts.many("annotation"):
        if not text.partition("=")[0] or "=" not in text:
            raise CommandError(
                f'ERROR: failed to build: parse annotations: invalid annotation "{text}", expected key=value'
            )
        raise CommandError(f"ERROR: failed to build: images here have no manifest to annotate: --annotation {text}")
    if opts.text("builder") not in ("", "default"):
        raise CommandError(f'ERROR: no builder "{opts.text("builder")}" found')
    if opts.changed("disable-content-trust") and not opts.flag("disable-content-trust"):
        raise CommandError("ERROR: content trust is not supported: --disable-content-trust=false")
    if opts.flag("push") and not (opts.many("tag") or any("name=" in text for text in opts.many("output"))):
        raise CommandError("ERROR: failed to build: tag is needed when pushing to registry")
    for name in ("build-arg", "label"):
        for text in opts.many(name):
            if text.startswith("="):
                raise CommandError(f'ERROR: invalid key-value pair "{text}": empty key')
    for text in opts.many("add-host"):
        if not any(text.partition(mark)[2] for mark in (":", "=")):
            raise CommandError(f"ERROR: failed to build: invalid host {text}")
    for text in opts.many("allow"):
        if text not in ENTITLEMENTS:
            raise CommandError(f"ERROR: failed to build: unknown entitlement {text}")
    for name in ("cache-from", "cache-to"):
        for text in opts.many(name):
            kind = pairs(text).get("type", "registry") if "=" in text else "registry"
            if kind not in CACHES:
                end = "importer" if name == "cache-from" else "exporter"
                raise CommandError(f"ERROR: failed to build: unknown cache {end}: {kind}")
    if classic:
        _classic(opts)


def _wanted(text: str) -> bool:
    """Read the value of --sbom or --provenance. Raises: CommandError for what is none."""
    if text in BOOLEANS:
        return BOOLEANS[text]
    attrs = pairs(text)
    if not all(attrs.values()):
        raise CommandError(f"ERROR: invalid value {text}")
    return not BOOLEANS.get(attrs.get("disabled", ""), False)


def _classic(opts: FlagValues) -> None:
    """Refuse what only the other builder can do."""
    for name in ("allow", "no-cache-filter", "cache-to", "metadata-file", "cache-mount-import", "cache-mount-export"):
        if opts.changed(name):
            raise CommandError(f"ERROR: the classic builder has no --{name}")
    if opts.flag("push") or opts.flag("load"):
        raise CommandError(f"ERROR: the classic builder has no --{'push' if opts.flag('push') else 'load'}")
