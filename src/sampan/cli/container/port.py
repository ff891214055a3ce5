"""`sampan port`."""

from __future__ import annotations

from sampan.cli.session import CommandError
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "CONTAINER [PRIVATE_PORT[/PROTO]]"
ARGS = (1, 2)
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    container = cli.engine.get(f"/containers/{quoted(args[0])}/json")
    bound: dict[str, list[dict[str, str]] | None] = container["NetworkSettings"]["Ports"] or {}
    if len(args) > 1:
        port, _, protocol = args[1].partition("/")
        wanted = f"{port}/{(protocol or 'tcp').lower()}"
        if not port.isdecimal():
            raise CommandError(f'Error: invalid port ({args[1]}): strconv.ParseUint: parsing "{port}": invalid syntax')
        if bound.get(wanted) is None:
            raise CommandError(f"Error: No public port '{args[1]}' published for {args[0]}")
        for binding in bound[wanted] or ():
            cli.line(_address(binding))
        return 0
    order = sorted(bound, key=lambda p: (int(p.partition("/")[0]), p))
    for inside in order:
        for binding in bound[inside] or ():
            cli.line(f"{inside} -> {_address(binding)}")
    return 0


def _address(binding: dict[str, str]) -> str:
    host = binding["HostIp"]
    return f"[{host}]:{binding['HostPort']}" if ":" in host else f"{host}:{binding['HostPort']}"
