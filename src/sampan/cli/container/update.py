"""`sampan update`."""

from __future__ import annotations

from sampan.cli.container import config, resources
from sampan.cli.session import CommandError
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTAINER [CONTAINER...]"
ARGS = (1, None)
PARSERS = {"memory-swap": resources.PARSERS["memory-swap"]}
FLAGS = (
    resources.FLAGS
    + """
    ! --kernel-memory bytes   Kernel memory limit
      --restart string        What to do when the container exits
"""
)


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    if not opts.given:
        raise CommandError("you must provide one or more flags when using this command")
    body = resources.limits(opts)
    body["PidsLimit"] = opts.number("pids-limit") if opts.changed("pids-limit") else None
    try:
        body["RestartPolicy"] = config.restart_policy(opts.text("restart"))
    except ValueError as e:
        raise CommandError(str(e)) from e
    warnings: list[str] = []

    def update(name: str) -> None:
        warnings.extend(cli.engine.post(f"/containers/{quoted(name)}/update", body).get("Warnings") or ())

    try:
        return cli.for_each(args, update)
    finally:
        if warnings:
            cli.out("\n".join(warnings))
