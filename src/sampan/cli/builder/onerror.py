"""`--on-error`: a failed step's files as an image: entered (`shell`) and thrown away afterwards, or kept (`commit`)."""

from __future__ import annotations

import os
import subprocess
import sys

from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.session import Cli


def enter(cli: Cli, failure: dict[str, Any], wanted: str, message: str) -> int:
    """Offer what a failed step left. Returns 1: the build has failed all the same."""
    image = str(failure["ID"])
    cli.warn(f"ERROR: failed to build: {message}")
    if wanted == "commit":
        cli.line(image)
        return 1
    cli.warn("The failed step's files, its environment and user; leave with `exit`.")
    terminal = "-it" if os.isatty(0) and os.isatty(1) else "-i"
    try:
        endpoint = cli.endpoint.address.url
        command = [sys.argv[0], "-H", endpoint, "run", "--rm", terminal, image, "/bin/sh"]
        subprocess.run(command, check=False)
    except OSError as e:
        raise CommandError(f"cannot enter the failed step: {e}") from e
    finally:
        cli.engine.delete(f"/images/{image}", force=True)
    return 1
