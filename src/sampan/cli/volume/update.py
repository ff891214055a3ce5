"""`sampan volume update`: the availability of a cluster volume."""

from __future__ import annotations

from sampan.cli.session import CommandError
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] [VOLUME]"
ARGS = (1, 1)
FLAGS = """
      --availability string   Availability of a cluster volume ("active", "pause", "drain") (default "active")
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    volume = cli.engine.get(f"/volumes/{quoted(args[0])}")
    if not volume.get("ClusterVolume"):
        raise CommandError("Can only update cluster volumes")
    spec = volume["ClusterVolume"]["Spec"]
    if opts.changed("availability"):
        spec["Availability"] = opts.text("availability")
    version = volume["ClusterVolume"]["Version"]["Index"]
    cli.engine.call("PUT", f"/volumes/{volume['ClusterVolume']['ID']}", {"version": version}, {"Spec": spec})
    return 0
