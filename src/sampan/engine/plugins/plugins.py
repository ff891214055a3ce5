"""The plugins of one engine, by name. A plugin is found when it is first used, and again whenever it has gone.

Source: docs.docker.com/engine/extend/plugin_api.
"""

from __future__ import annotations

import ssl

from sampan.engine.config import EngineConfig
from sampan.engine.hostpaths import HostPaths
from sampan.engine.plugins import places
from sampan.engine.plugins.client import ANSWER_S, PATIENCE_S, Plugin
from sampan.engine.plugins.places import PluginPlace


class Plugins:
    """Hands out the one object that speaks with a plugin."""

    def __init__(
        self,
        config: EngineConfig,
        host_paths: HostPaths,
        *,
        answer_s: float = ANSWER_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._sockets = (f"{config.exec_root}/plugins", places.DOCKER_SOCKETS)
        self._host_paths = host_paths
        self._answer_s, self._patience_s = answer_s, patience_s
        self._plugins: dict[str, Plugin] = {}

    def known(self, name: str) -> Plugin:
        """Return the plugin of a name that something was made with, whether it is there now or not."""
        return self._plugins.setdefault(name, self._new(name))

    async def existing(self, name: str, kind: str) -> Plugin:
        """Return a plugin that is there now, and of a kind. Raises: NotFound; as `Plugin.call`."""
        plugin = self._plugins.get(name) or self._new(name)
        await plugin.require(kind, wait=False)
        return self._plugins.setdefault(name, plugin)

    def _new(self, name: str) -> Plugin:
        return Plugin(name, self._look, answer_s=self._answer_s, patience_s=self._patience_s)

    async def _look(self, name: str) -> tuple[PluginPlace, ssl.SSLContext | None]:
        return await self._host_paths.run(f"plugin {name}", lambda: _open(name, self._sockets))


def _open(name: str, sockets: tuple[str, ...]) -> tuple[PluginPlace, ssl.SSLContext | None]:
    place = places.find(name, sockets)
    if not place.url.startswith("https:"):
        return place, None
    tls = place.tls or places.TLSRecord()
    context = ssl.create_default_context(cafile=tls.ca_file or None)
    if tls.insecure_skip_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file or None)
    return place, context
