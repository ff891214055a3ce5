"""`sampan inspect`: whatever bears the name, of any kind, container first."""

from __future__ import annotations

from sampan.cli import inspection
from sampan.cli.listing import INSPECT_HELP
from sampan.cli.session import CommandError
from sampan.client.engine import quoted
from sampan.errors import NotFound, NotImplemented_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] NAME|ID [NAME|ID...]"
ARGS = (1, None)
FLAGS = f"""
  -f, --format string   {INSPECT_HELP}
  -s, --size            Show how much disk a container uses
      --type string     Look only among objects of this kind
"""
PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
    "service": "/services/{}",
    "task": "/tasks/{}",
    "node": "/nodes/{}",
    "plugin": "/plugins/{}/json",
    "secret": "/secrets/{}",
    "config": "/configs/{}",
}
SWARM = ("service", "task", "node", "secret", "config")


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    kind = opts.text("type")
    if kind and kind not in PATHS:
        known = ", ".join(f'"{name}"' for name in sorted(PATHS))
        raise CommandError(f'unknown type: "{kind}": must be one of {known}')

    swarm: list[bool] = []  # whether the engine manages one; asked once, when it matters

    def candidates() -> Iterator[str]:
        for candidate in [kind] if kind else PATHS:
            if candidate in SWARM and not kind:
                if not swarm:
                    swarm.append(bool((cli.engine.get("/info").get("Swarm") or {}).get("ControlAvailable")))
                if not swarm[0]:
                    continue
            yield candidate

    def find(name: str) -> Any:
        for candidate in candidates():
            try:
                query = {"size": opts.flag("size")} if candidate == "container" else {}
                return cli.engine.call("GET", PATHS[candidate].format(quoted(name)), query)
            except NotFound as e:
                if kind:
                    raise CommandError(f"Error response from daemon: {e.message}") from e
            except NotImplemented_:
                if kind:
                    raise
        raise CommandError(f"Error: No such object: {name}")

    return inspection.inspect(cli, args, opts.text("format"), find)
