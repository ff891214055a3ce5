"""`sampan update`."""

from __future__ import annotations

from sampan.cli.container import addresses, config, resources
from sampan.cli.session import CommandError
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

    Binding = dict[str, str]

USAGE = "[OPTIONS] CONTAINER [CONTAINER...]"
ARGS = (1, None)
PARSERS = {"memory-swap": resources.PARSERS["memory-swap"]}
FLAGS = (
    resources.FLAGS
    + """
    ! --kernel-memory bytes   Kernel memory limit
      --publish list          Publish ports on the host, while the container runs
      --restart string        What to do when the container exits
      --unpublish list        Ports of the container that are published no more
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
    try:
        more, less = addresses.ports(opts.many("publish")), addresses.ports(opts.many("unpublish"))
    except ValueError as e:
        raise CommandError(str(e)) from e
    warnings: list[str] = []

    def update(name: str) -> None:
        if more or less:
            now = cli.engine.get(f"/containers/{quoted(name)}/json")["HostConfig"].get("PortBindings") or {}
            body["PortBindings"] = published(now, more, less)
        warnings.extend(cli.engine.post(f"/containers/{quoted(name)}/update", body).get("Warnings") or ())

    try:
        return cli.for_each(args, update)
    finally:
        if warnings:
            cli.out("\n".join(warnings))


def published(
    now: dict[str, list[Binding] | None], more: dict[str, list[Binding]], less: dict[str, list[Binding]]
) -> dict[str, list[Binding]]:
    """Return port bindings without `less` (all of a container's port, where it names no host port), with `more`.

    Raises: CommandError for one of `less` that is not there.
    """
    bindings = {port: list(found or []) for port, found in now.items()}
    for port, gone in less.items():
        for binding in gone:
            left = [b for b in bindings.get(port, []) if binding["HostPort"] and not _same(b, binding)]
            if port not in bindings or (bindings[port] and len(left) == len(bindings[port])):
                raise CommandError(f"port {port} is not published so")
            bindings[port] = left
    for port, found in more.items():
        bindings.setdefault(port, []).extend(b for b in found if b not in bindings.get(port, []))
    return {port: found for port, found in bindings.items() if found or port not in less}


def _same(one: Binding, other: Binding) -> bool:
    return one.get("HostPort") == other["HostPort"] and (not other["HostIp"] or one.get("HostIp") == other["HostIp"])
