"""`sampan volume create`."""

from __future__ import annotations

from sampan.cli import values
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] [VOLUME]"
ARGS = (0, 1)
PARSERS = {"label": values.label}
FLAGS = """
      --availability string       Availability of a cluster volume ("active", "pause", "drain") (default "active")
  -d, --driver string             Volume driver (default "local")
      --group string              Group of a cluster volume
      --label list                Set labels
      --limit-bytes bytes         Largest size of a cluster volume in bytes
    ! --name string               Name of the volume
  -o, --opt map                   Set options of the driver (default map[])
      --required-bytes bytes      Smallest size of a cluster volume in bytes
      --scope string              Access scope of a cluster volume ("single", "multi") (default "single")
      --secret map                Secrets of a cluster volume (default map[])
      --sharing string            Sharing of a cluster volume ("none", "readonly", "onewriter", "all") (default "none")
      --topology-preferred list   Topology in which a cluster volume should be
      --topology-required list    Topology in which a cluster volume must be
      --type string               Access type of a cluster volume ("mount", "block") (default "block")
"""
CLUSTER = (
    "availability", "group", "limit-bytes", "required-bytes", "scope", "secret", "sharing", "topology-preferred",
    "topology-required", "type",
)  # fmt: skip


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    name = args[0] if args else opts.text("name")
    if args and opts.text("name"):
        raise CommandError(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
        )
    body: dict[str, Any] = {
        "Name": name,
        "Driver": opts.text("driver"),
    }
    for flag, key in (("opt", "DriverOpts"), ("label", "Labels")):
        if opts.many(flag):
            body[key] = opts.mapping(flag)
    if any(opts.changed(flag) for flag in CLUSTER):
        body["ClusterVolumeSpec"] = _cluster(opts)
    cli.line(cli.engine.post("/volumes/create", body)["Name"])
    return 0


def _cluster(opts: FlagValues) -> dict[str, Any]:
    topologies = {
        key: [{"Segments": dict(s.partition("=")[::2] for s in text.split(","))} for text in opts.many(flag)]
        for key, flag in (("Requisite", "topology-required"), ("Preferred", "topology-preferred"))
    }
    mode: dict[str, Any] = {"Scope": opts.text("scope"), "Sharing": opts.text("sharing")}
    mode["MountVolume" if opts.text("type") == "mount" else "BlockVolume"] = {}
    return {
        "Group": opts.text("group"),
        "AccessMode": mode,
        "AccessibilityRequirements": topologies,
        "CapacityRange": {"RequiredBytes": opts.number("required-bytes"), "LimitBytes": opts.number("limit-bytes")},
        "Secrets": [{"Key": key, "Secret": value} for key, value in opts.mapping("secret").items()],
        "Availability": opts.text("availability"),
    }
