"""What can be said of a Dockerfile without building it: the build checks, a target's outline, the list of targets."""

from __future__ import annotations

from typing import Any

from sampan.engine.builder.definition import Definition
from sampan.engine.builder.progress import Warning_
from sampan.engine.builder.request import BuildRequest


def findings(found: Definition, request: BuildRequest, *, all: bool = False) -> list[Warning_]:
    """The findings of the build checks. Raises: DockerfileError when the Dockerfile wants them to be errors."""
    return []


def outline(found: Definition, request: BuildRequest) -> dict[str, Any]:
    """What a target takes, as BuildKit's `requests/outline` has it."""
    return {}


def targets(found: Definition) -> dict[str, Any]:
    """The stages that can be built, as BuildKit's `requests/targets` has it."""
    return {}
