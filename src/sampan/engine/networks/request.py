"""What the networks service is asked for, and what it gives: one sandbox. Data only.

Source: Engine API 1.51, HostConfig.NetworkMode and NetworkingConfig.EndpointsConfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sampan.engine.networks.records import BindingRecord, EndpointRecord, PublishedPort
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A container's network as the engine uses and shows it.

    netns: a path while `attach` holds the namespace; empty when the container runs, or shares the host's. endpoints: by
    network name. exposed, bindings: its ports, and where they are published; both empty when its network publishes
    none. names: it has a name service. way_out: the engine's endpoint for a container whose networks do not lead out.
    """

    id: str
    key: str
    netns: str = ""
    endpoints: Mapping[str, EndpointRecord] = field(default_factory=dict)
    exposed: tuple[str, ...] = ()
    bindings: tuple[BindingRecord, ...] = ()
    names: bool = False
    way_out: EndpointRecord | None = None

    @property
    def addresses(self) -> list[str]:
        """The container's addresses, for its /etc/hosts."""
        shown = [(e.address4, e.address6) for e in self.endpoints.values()]
        return [address for pair in shown for address in pair if address]
