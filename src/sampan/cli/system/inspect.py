"""`sampan inspect`: whatever bears the name, of any kind, container first."""

from __future__ import annotations

from sampan.cli import inspection
from sampan.cli.listing import INSPECT_HELP
from sampan.cli.session import CommandError
from sampan.client.engine import quoted
from sampan.errors import NotFound, SampanError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

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


def run(cli: Session, opts: Options, args: list[str]) -> int:
    kind = opts.text("type")
    if kind and kind not in PATHS:
        known = ", ".join(f'"{name}"' for name in sorted(PATHS))
        raise CommandError(f'unknown type: "{kind}": must be one of {known}')

    def find(name: str) -> Any:
        for candidate in [kind] if kind else PATHS:
            try:
                query = {"size": opts.flag("size")} if candidate == "container" else {}
                return cli.engine.call("GET", PATHS[candidate].format(quoted(name)), query)
            except NotFound as e:
                if kind:
                    raise CommandError(f"Error response from daemon: {e.message}") from e
            except Unavailable as e:
                if kind or candidate not in SWARM:  # an engine outside a swarm has none of these
                    raise
                del e
            except SampanError as e:
                if kind or candidate in ("container", "image"):
                    raise CommandError(f"Error response from daemon: {e.message}") from e
        raise CommandError(f"Error: No such object: {name}")

    return inspection.inspect(cli, args, opts.text("format"), find)
