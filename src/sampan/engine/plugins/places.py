"""Where plugins are: sockets in well-known directories, and files that say an address. Reads the disk; talks to nobody.

    <sockets>/NAME.sock, <sockets>/NAME/NAME.sock     a unix socket
    <specs>/NAME.spec, <specs>/NAME/NAME.spec         a file with an address
    <specs>/NAME.json, <specs>/NAME/NAME.json         a file with an address and how to speak TLS there

Source: docs.docker.com/engine/extend/plugin_api (plugin discovery); moby pkg/plugins/discovery.go.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from sampan.errors import InvalidArgument, NotFound

DOCKER_SOCKETS = "/run/docker/plugins"
SPECS = ("/etc/sampan/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins")
SPEC_BYTES = 64 * 1024

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


class TLSRecord(msgspec.Struct, kw_only=True, frozen=True, rename={"insecure_skip_verify": "InsecureSkipVerify"}):
    """How to speak TLS with a plugin: files of its authority, and of our certificate and key; empty for none."""

    insecure_skip_verify: bool = False
    ca_file: str = msgspec.field(default="", name="CAFile")
    cert_file: str = msgspec.field(default="", name="CertFile")
    key_file: str = msgspec.field(default="", name="KeyFile")


class _Spec(msgspec.Struct, kw_only=True, frozen=True, rename="pascal"):
    addr: str = ""
    tls_config: TLSRecord | None = msgspec.field(default=None, name="TLSConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginPlace:
    """Where a plugin answers. socket: the path of its unix socket; empty: it is at `url`, by tcp."""

    socket: str = ""
    url: str = ""
    tls: TLSRecord | None = None


def find(name: str, sockets: Sequence[str], specs: Sequence[str] = SPECS) -> PluginPlace:
    """Return where a plugin is; directories of sockets come first. Blocking.

    Raises: NotFound in Docker's words; InvalidArgument for a file that says no address; OSError.
    """
    if _NAME.fullmatch(name):
        for path in _candidates(sockets, name, "sock"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    return PluginPlace(socket=path)
        for path in (p for ending in ("spec", "json") for p in _candidates(specs, name, ending)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return _read(path)
    raise NotFound(f'plugin "{name}" not found')


def _candidates(directories: Sequence[str], name: str, ending: str) -> Iterator[str]:
    for directory in directories:
        yield f"{directory}/{name}.{ending}"
        yield f"{directory}/{name}/{name}.{ending}"


def _read(path: str) -> PluginPlace:
    with open(path, "rb") as file:
        content = file.read(SPEC_BYTES)
    try:
        if path.endswith(".json"):
            spec = msgspec.json.decode(content, type=_Spec)
        else:
            spec = _Spec(addr=content.decode().strip())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"plugin file {path}: {error}") from error
    return _place(spec, path)


def _place(spec: _Spec, path: str) -> PluginPlace:
    try:
        parts = urlsplit(spec.addr)
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"plugin file {path}: {spec.addr}: {error}") from error
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return PluginPlace(socket=parts.path)
    if parts.scheme in ("tcp", "http", "https") and parts.hostname:
        scheme = "https" if spec.tls_config is not None or parts.scheme == "https" else "http"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return PluginPlace(url=f"{scheme}://{host}:{port}" if port else f"{scheme}://{host}", tls=spec.tls_config)
    raise InvalidArgument(f"plugin file {path}: {spec.addr!r} is no address: use unix:///path or tcp://host:port")
