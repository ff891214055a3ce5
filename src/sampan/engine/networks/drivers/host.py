"""The host driver: a container in the host's own network namespace. There is nothing to make and nothing to undo."""

from __future__ import annotations

NAME = "host"
