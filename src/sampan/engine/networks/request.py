"""What the networks service is asked for: one sandbox. Data only.

Source: Engine API 1.51, HostConfig.NetworkMode and NetworkingConfig.EndpointsConfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sampan.engine.networks.records import PublishedPort
from sampan.spec.engine_api.network import EndpointSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRequest:
    """The network sandbox of one container, or of another task.

    id: whose it is. mode: NetworkMode (bridge, default, host, none, a network's name or id). name, hostname: what it
    answers to. endpoints: network → what is asked for there; None: mode's network. ports: to be published
    (`ports.published`). exposed: ports to be shown, published or not (`80/tcp`). mac: for the endpoint on mode's
    network. silent: no events, for what is no container. resolvers: whom its name service asks, instead of the host's.
    """

    id: str
    mode: str
    name: str = ""
    hostname: str = ""
    endpoints: Mapping[str, EndpointSettings] | None = None
    ports: tuple[PublishedPort, ...] = ()
    exposed: tuple[str, ...] = ()
    mac: str = ""
    silent: bool = False
    resolvers: tuple[str, ...] = ()
