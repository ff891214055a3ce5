"""The none (null) driver: a network namespace of its own with only the loopback interface."""

from __future__ import annotations

from sampan.engine.networks.plumbing import SandboxPlan

NAME = "null"


def plan() -> SandboxPlan:
    return SandboxPlan()
