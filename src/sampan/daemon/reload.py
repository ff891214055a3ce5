"""SIGHUP: read daemon.json again and apply what may change while containers run.

What reloads is marked in `options`; everything else waits for a restart, silently, as in dockerd. A file that cannot be
accepted changes nothing and is reported. A reload that succeeded is told as the daemon's `reload` event.

Source: dockerd 28.5 daemon/reload.go: the reloadable keys and the event's attributes.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sampan.daemon import config as configuration
from sampan.daemon import logs
from sampan.daemon.config import DaemonConfig
from sampan.daemon.options import OPTIONS
from sampan.daemon.validation import ConfigError
from sampan.spec import codec
from sampan.spec.urls import masked

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

log = logging.getLogger("sampan.daemon")
RELOADABLE = tuple(o.key for o in OPTIONS if o.reloads)


class Reloader:
    """Holds the configuration in force."""

    def __init__(self, engine: Engine, config: DaemonConfig, flags: Mapping[str, Any]) -> None:
        self.engine, self.config, self._flags = engine, config, flags

    def reload(self) -> None:
        """Apply the file as it is now; a bad one is logged and changes nothing."""
        log.info("Got signal to reload configuration, reloading from: %s", self.config.config_file)
        try:
            wanted = configuration.load(self._flags)
        except ConfigError as e:
            log.error("error configuring the daemon with file %s: %s", self.config.config_file, e)
            return
        self.config = decide(self.config, wanted)
        logs.set_level(self.config.log_level)
        self.engine.reconfigure(self.config.engine)
        attributes = attributes_of(self.config)
        self.engine.events.publish("daemon", "reload", self.engine.id, attributes)
        log.info("Reloaded configuration: %s", codec.encode(attributes).decode().strip())


def decide(current: DaemonConfig, wanted: DaemonConfig) -> DaemonConfig:
    """Take the reloadable keys from `wanted`, everything else from `current`. Pure."""
    values = {**current.values, **{key: wanted.values[key] for key in RELOADABLE}}
    made = configuration.build(values, config_file=current.config_file)
    return dataclasses.replace(
        current, engine=made.engine, values=values, log_level=made.log_level, warnings=wanted.warnings
    )


def attributes_of(config: DaemonConfig) -> dict[str, str]:
    """Build the attributes of the reload event: every reloadable value as text."""
    found = {"name": socket.gethostname()}
    for key in RELOADABLE:
        value = config.values[key]
        value = _masked(value)
        if isinstance(value, (list, dict)):
            found[key] = codec.encode(value).decode().strip()
        else:
            found[key] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def _masked(value: Any) -> Any:
    """Return a value with the passwords of its URLs masked."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return {key: _masked(item) for key, item in value.items()} if isinstance(value, dict) else value
