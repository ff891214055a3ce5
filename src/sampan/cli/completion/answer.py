"""`sampan __complete WORD… CURRENT`: the candidates for the word being typed, one a line. What the shell scripts call.

Commands and flags come from the static table; names of containers, images, networks and volumes from the engine, which
may be slow or gone: then there are simply none.
"""

from __future__ import annotations

from sampan.cli import flags, table
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "WORD..."
ARGS = (0, None)
FLAGS = ""
RAW = True

ANY, RUNNING, STOPPED, PAUSED, IMAGE, NETWORK, VOLUME, CONTEXT = (
    "any", "running", "exited", "paused", "image", "network", "volume", "context",
)  # fmt: skip

# What the arguments of a command are: one kind for each position; the last goes on when the command takes many.
ARGUMENTS = {
    **{f"container {verb}": (RUNNING,) for verb in ("attach", "exec", "kill", "pause", "stop", "top", "port")},
    **{
        f"container {verb}": (ANY,)
        for verb in ("commit", "diff", "export", "inspect", "logs", "rename", "restart", "rm")
    },
    **{f"container {verb}": (ANY,) for verb in ("stats", "update", "wait", "cp")},
    "container start": (STOPPED,),
    "container unpause": (PAUSED,),
    **{f"container {verb}": (IMAGE,) for verb in ("run", "create")},
    **{f"image {verb}": (IMAGE,) for verb in ("history", "inspect", "ls", "push", "pull", "rm", "save", "tag")},
    "network connect": (NETWORK, ANY),
    "network disconnect": (NETWORK, ANY),
    "network inspect": (NETWORK,),
    "network rm": (NETWORK,),
    "volume inspect": (VOLUME,),
    "volume rm": (VOLUME,),
    **{f"context {verb}": (CONTEXT,) for verb in ("export", "inspect", "rm", "update", "use")},
    "inspect": (ANY, IMAGE, NETWORK, VOLUME),
}
MANY = ("kill", "pause", "stop", "inspect", "restart", "rm", "stats", "update", "wait", "start", "unpause", "save")

VALUES: dict[str, tuple[str, ...]] = {
    "pull": ("always", "missing", "never"),
    "restart": ("no", "always", "on-failure", "unless-stopped"),
    "ipc": ("host", "none", "private", "shareable"),
    "pid": ("host", "container:"),
    "uts": ("host",),
    "userns": ("host",),
    "cgroupns": ("host", "private"),
    "log-driver": ("json-file", "local", "none", "journald", "syslog", "gelf", "fluentd"),
    "log-level": ("debug", "info", "warn", "error", "fatal"),
    "type": ("container", "image", "network", "volume"),
    "format": ("json",),
    "network": (NETWORK,),
    "volumes-from": (ANY,),
    "link": (ANY,),
    "context": (CONTEXT,),
}


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    words, current = args[:-1], args[-1] if args else ""
    for candidate in candidates(cli, words, current):
        if candidate.startswith(current):
            cli.line(candidate)
    return 0


def candidates(cli: Cli, words: list[str], current: str) -> Iterable[str]:
    """Return all that could stand where `current` is typed."""
    declared = flags.declared(table.GLOBAL_FLAGS)
    if (open_flag := _open_flag(declared, words)) is not None:
        return _values(cli, open_flag)
    try:
        chosen, rest = flags.parse(declared, words, interspersed=False)
    except (flags.FlagError, flags.HelpRequested):
        return []
    cli.options = chosen
    if not rest:
        return _spelled(declared) if current.startswith("-") else _names("")
    from sampan.cli.main import find, load

    typed, canonical, after = find(rest)
    if not canonical:
        return _names(rest[0]) if len(rest) == 1 and rest[0] in table.GROUPS else []
    module = load(canonical)
    own = flags.declared(module.FLAGS)
    interspersed = getattr(module, "INTERSPERSED", True)
    if (open_flag := _open_flag(own, after)) is not None:
        return _values(cli, open_flag)
    try:
        _, arguments = flags.parse(own, after, interspersed=interspersed, parsers=_unjudged(own))
    except (flags.FlagError, flags.HelpRequested):
        return []
    if current.startswith("-") and (interspersed or not arguments):
        return _spelled(own)
    kinds = ARGUMENTS.get(canonical, ())
    if canonical == "inspect":
        return [name for kind in kinds for name in named(cli, kind)]
    if len(arguments) >= len(kinds) and not (kinds and canonical.rpartition(" ")[2] in MANY):
        return []
    del typed
    found = named(cli, kinds[min(len(arguments), len(kinds) - 1)])
    return [f"{name}:" for name in found] if canonical == "container cp" else found


def _unjudged(declared: list[flags.Flag]) -> dict[str, Callable[[str], object]]:
    """Return parsers of values that accept whatever is there: completion refuses nothing."""
    return {flag.name: str for flag in declared if flag.kind}


def _open_flag(declared: list[flags.Flag], words: list[str]) -> flags.Flag | None:
    """Return the flag whose value is being typed, when the last word is one that wants a value."""
    last = words[-1] if words else ""
    for flag in declared:
        if flag.kind and (last == f"--{flag.name}" or (flag.short and last == f"-{flag.short}")):
            return flag
    return None


def _spelled(declared: list[flags.Flag]) -> list[str]:
    out = ["--help"]
    for flag in declared:
        if not flag.hidden:
            out += [f"--{flag.name}", *([f"-{flag.short}"] if flag.short else [])]
    return out


def _names(group: str) -> list[str]:
    """Return the verbs of a group, or everything that may come first."""
    if group:
        return [
            path.split(" ")[1] for path, (_, about) in table.COMMANDS.items() if path.startswith(group + " ") and about
        ]
    single = [path for path, (_, about) in table.COMMANDS.items() if " " not in path and about]
    return sorted([*table.GROUPS, *table.SHORTCUTS, *single])


def _values(cli: Cli, flag: flags.Flag) -> list[str]:
    out: list[str] = []
    for value in VALUES.get(flag.alias or flag.name, ()):
        out += named(cli, value) if value in (ANY, NETWORK, CONTEXT) else [value]
    return out


def named(cli: Cli, kind: str) -> list[str]:
    """Return the names of what exists."""
    try:
        if kind == CONTEXT:
            from sampan.cli.context import store

            return ["default", *store.names(cli.config.directory)]
        if kind == IMAGE:
            tags = [tag for image in cli.engine.get("/images/json") for tag in image["RepoTags"] or ()]
            return sorted({*tags, *(tag.removesuffix(":latest") for tag in tags)})
        if kind == NETWORK:
            return [network["Name"] for network in cli.engine.get("/networks")]
        if kind == VOLUME:
            return [volume["Name"] for volume in cli.engine.get("/volumes")["Volumes"] or ()]
        states = {
            ANY: None,
            RUNNING: {"running": True},
            STOPPED: {"exited": True, "created": True},
            PAUSED: {"paused": True},
        }
        wanted = states[kind]
        rows = cli.engine.get("/containers/json", all=True, filters={"status": wanted} if wanted else None)
        return [name.removeprefix("/") for row in rows for name in row["Names"]]
    except SampanError:
        return []
