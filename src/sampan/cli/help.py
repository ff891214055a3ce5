"""What `--help` prints, and the usage hints below errors. Only layout: the words come from the command table.

Source: the layout of docker 28.5's help and pflag's wrapping (a little overlong last line is preferred to an orphan).
"""

from __future__ import annotations

import os

from sampan.cli import flags, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

SLOP = 5
MORE = "Run '{} --help' for more information"


def usage_line(path: str, module: ModuleType) -> str:
    usages = module.USAGE.split("\n")
    return "Usage:  " + "\n\t".join(f"{table.PROGRAM} {path} {usage}".rstrip() for usage in usages)


def command(path: str, canonical: str, module: ModuleType) -> str:
    """Return the help of one command."""
    parts = [usage_line(path, module), getattr(module, "ABOUT", "") or table.COMMANDS[canonical][1]]
    names = table.names_of(canonical)
    if len(names) > 1:
        parts.append("Aliases:\n  " + ", ".join(f"{table.PROGRAM} {name}" for name in names))
    if options := flag_lines(flags.declared(module.FLAGS), columns()):
        parts.append("Options:\n" + options)
    return "\n\n".join(parts) + "\n"


def group(name: str) -> str:
    """Return the help of a group such as `container`."""
    listed = [
        (path.split(" ")[1], entry[1]) for path, entry in sorted(table.COMMANDS.items()) if path.startswith(name + " ")
    ]
    lines = "\n".join(f"  {verb:<11} {about}" for verb, about in listed if about)
    more = MORE.format(f"{table.PROGRAM} {name} COMMAND")
    return (
        f"Usage:  {table.PROGRAM} {name} COMMAND\n\n{table.GROUPS[name]}\n\nCommands:\n{lines}\n\n"
        f"{more} on a command.\n"
    )


def top() -> str:
    """Return the help of the program."""

    def section(title: str, names: list[tuple[str, str]]) -> str:
        return f"{title}:\n" + "\n".join(f"  {name:<11} {about}" for name, about in names)

    def about(name: str) -> tuple[str, str]:
        return name, table.COMMANDS[table.SHORTCUTS.get(name, name)][1]

    single = [name for name in (*table.SHORTCUTS, *table.COMMANDS) if " " not in name]
    rest = sorted({n for n in single if n not in table.COMMON and table.COMMANDS[table.SHORTCUTS.get(n, n)][1]})
    return "\n\n".join(
        [
            f"Usage:  {table.PROGRAM} [OPTIONS] COMMAND",
            table.ABOUT,
            section("Common Commands", [about(n) for n in table.COMMON]),
            section("Management Commands", list(table.GROUPS.items())),
            section("Commands", [about(n) for n in rest]),
            "Global Options:\n" + flag_lines(flags.declared(table.GLOBAL_FLAGS), columns()),
            MORE.format(f"{table.PROGRAM} COMMAND") + " on a command.\n",
        ]
    )


def columns() -> int:
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def flag_lines(declared: list[flags.Flag], width: int) -> str:
    """Write the option table, wrapped to `width`."""
    visible = sorted((f for f in declared if not f.hidden), key=lambda f: f.name)
    heads = [f"  {'-' + f.short + ',' if f.short else '   '} --{f.name} {f.kind}".rstrip() for f in visible]
    indent = max((len(h) for h in heads), default=0) + 3
    return "\n".join(f"{head:<{indent}}{_wrapped(f.help, indent, width)}" for head, f in zip(heads, visible))


def _wrapped(text: str, indent: int, width: int) -> str:
    room = width - indent
    lead = ""
    if room < 24:  # too narrow beside the names: a block of its own below
        indent, room = 16, width - 16
        lead = "\n" + " " * indent
    if room < 24:
        return text
    lines = []
    while text:
        line, text = _cut(text, room - SLOP)
        lines += line.split("\n")
    return lead + ("\n" + " " * indent).join(lines)


def _cut(text: str, room: int) -> tuple[str, str]:
    if room + SLOP > len(text):
        return text, ""
    head = text[:room]
    at = max(head.rfind(" "), head.rfind("\n"))
    if at <= 0:
        return text, ""
    newline = head.rfind("\n")
    if 0 < newline < at:
        at = newline
    return text[:at], text[at + 1 :]
