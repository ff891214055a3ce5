"""TLS for tcp:// listeners: the server's certificate, and with --tlsverify the client's.

Source: `ssl` of CPython; dockerd 28.5 (TLS 1.2 and later).
"""

from __future__ import annotations

import ssl

from sampan.daemon.config import DaemonConfig
from sampan.daemon.validation import ConfigError
from sampan.errors import words


def context(config: DaemonConfig) -> ssl.SSLContext | None:
    """Return the context of a configuration, None without TLS. Raises: ConfigError naming the file."""
    if not config.tls:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(config.tlscert, config.tlskey)
    except (OSError, ssl.SSLError) as e:
        raise ConfigError(
            "invalid TLS configuration: Could not load X509 key pair "
            f'(cert: "{config.tlscert}", key: "{config.tlskey}"): {_reason(e)}'
        ) from e
    if config.tlsverify:
        made.verify_mode = ssl.CERT_REQUIRED
        try:
            made.load_verify_locations(config.tlscacert)
        except (OSError, ssl.SSLError) as e:
            raise ConfigError(
                f'invalid TLS configuration: could not read CA certificate "{config.tlscacert}": {_reason(e)}'
            ) from e
    return made


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    if isinstance(error, OSError) and error.strerror:
        return words(error)
    return str(error)
