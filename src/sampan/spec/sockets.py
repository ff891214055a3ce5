"""Where sampand listens and clients look when nobody says otherwise: one value for both programs."""

from __future__ import annotations

SAMPAN_SOCKET = "/var/run/sampan.sock"
