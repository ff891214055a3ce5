"""Which release this is, and which one of Docker's it behaves as."""

from __future__ import annotations

SAMPAN = "0.1.0"
ENGINE = f"28.5.2+sampan.{SAMPAN}"
"""The version of Docker Engine whose behaviour this is, then ours: clients compare the former."""
BUILD_TIME = "2026-11-23T00:00:00.000000000+00:00"
