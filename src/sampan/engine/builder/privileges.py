"""What a step may ask for beyond an ordinary container, and who has to allow it: one table for both doors. Pure.

    privilege           asked for by                          BuildKit's door               the classic door
    network.host        RUN --network=host in a Dockerfile    client and daemon.json        nobody may
    network.host        the build's own network (--network)   client and daemon.json        the client, as in run
    security.insecure   RUN --security=insecure               client and daemon.json        nobody may

A Dockerfile is somebody else's text: it never gets what the client has not named in the request. The classic door's
requests have no list of entitlements, so there it gets nothing at all; where the build is on the host's network by the
client's own word, a step that says the same is no further privilege.

Source: Docker Engine 28.5.2, where the classic builder refuses both flags and BuildKit asks for the entitlement.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sampan.engine.builder.failures import NotAllowed
from sampan.engine.builder.ops import RunOp

HOST_NETWORK, INSECURE = "network.host", "security.insecure"
DAEMON: Mapping[str, bool] = {HOST_NETWORK: True, INSECURE: False}
"""What daemon.json allows where it says nothing."""

_NEEDS_BUILDKIT = (
    "the --{flag} option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to learn how to build images "
    "with BuildKit enabled"
)


def wanted(op: RunOp) -> list[str]:
    """Return the privileges that a step has."""
    return [*([INSECURE] if op.security == "insecure" else []), *([HOST_NETWORK] if op.network == "host" else [])]


def check_flag(flag: str, value: str, *, classic: bool, network: str, entitlements: Collection[str]) -> None:
    """Refuse a flag of a RUN in a Dockerfile. flag: `network` or `security`; network: the build's own.

    Raises: NotAllowed.
    """
    privilege = {("network", "host"): HOST_NETWORK, ("security", "insecure"): INSECURE}.get((flag, value))
    if privilege is None:
        return
    if classic:
        if privilege != HOST_NETWORK or network != "host":
            raise NotAllowed(_NEEDS_BUILDKIT.format(flag=flag))
    elif privilege not in entitlements:
        raise NotAllowed(f"failed to load LLB: {privilege} is not allowed")


def check_step(op: RunOp, *, classic: bool, entitlements: Collection[str], builder: Mapping[str, Any]) -> None:
    """Refuse a step that client and daemon do not both allow. builder: of daemon.json.

    Raises: NotAllowed.
    """
    asked = builder.get("entitlements") or {}
    daemon = {name: asked.get(name.replace(".", "-"), default) for name, default in DAEMON.items()}
    for privilege in wanted(op):
        if classic and privilege == HOST_NETWORK:
            continue  # the client's own word: a Dockerfile's was refused
        if classic or privilege not in entitlements:
            raise NotAllowed(f"{privilege} is not allowed")
        if not daemon[privilege]:
            raise NotAllowed(f"granting entitlement {privilege} is not allowed by build daemon configuration")
