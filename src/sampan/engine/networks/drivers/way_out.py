"""The network by which containers leave whose own networks do not lead out: Docker's `docker_gwbridge`.

The engine makes it when a network needs it (capability `way_out`), unless its user has made one of this name before,
and takes its own away when none needs it any more. Containers on it do not reach each other by it.

Source: docs.docker.com/engine/swarm/networking (customize the docker_gwbridge).
"""

from __future__ import annotations

from sampan.spec.engine_api.network import NetworkCreateRequest

NAME = "docker_gwbridge"


def request() -> NetworkCreateRequest:
    """Return what is asked for when the engine makes it."""
    return NetworkCreateRequest(name=NAME, driver="bridge", options={"com.docker.network.bridge.enable_icc": "false"})
