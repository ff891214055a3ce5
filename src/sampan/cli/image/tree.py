"""`sampan images --tree`: each name with the platforms it holds below it.

Source: the output of docker 28.2 for the same answers, on a terminal and elsewhere.
"""

from __future__ import annotations

import os

from sampan.cli import tty, units
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

WARNING = "WARNING: This is an experimental feature. The output may change and shouldn't be depended on."
SPACING = 3
NARROWEST = 12  # the first column; before it gets narrower, the last columns go
DEFAULT_WIDTH = 80
COLUMNS = (("ID", 12, "left"), ("DISK USAGE", 10, "right"), ("CONTENT SIZE", 12, "right"), ("EXTRA", 5, "left"))
RESET, PLAIN, BOLD, NAME = "\x1b[0m", "\x1b[39m", "\x1b[39m\x1b[1m", "\x1b[34m\x1b[1m"
BADGE = "\x1b[38;5;0m\x1b[48;5;14m"


def refuse(opts: FlagValues) -> None:
    """Refuse flags that make no sense beside --tree. Raises: CommandError."""
    for flag, shown in (("quiet", "quiet"), ("no-trunc", "no-trunc"), ("digests", "show-digest")):
        if opts.flag(flag):
            raise CommandError(f"--{shown} is not yet supported with --tree")
    if opts.text("format"):
        raise CommandError("--format is not yet supported with --tree")


def show(cli: Cli, images: list[dict[str, Any]], *, all_: bool) -> None:
    """Print the tree. images: ImageSummary objects with their Manifests."""
    terminal = os.isatty(1)
    width = (tty.size(1)[1] or DEFAULT_WIDTH) if terminal else DEFAULT_WIDTH
    rows = [row for image in images for row in _rows(image, all_)]
    spaced = any(row["child"] for row in rows)
    first, columns = _columns(width, max((len(row["name"]) for row in rows), default=0))
    cli.line(f"\x1b[93m{WARNING}{RESET}" if terminal else WARNING)
    cli.line(_legend(width, terminal))
    cli.line("")
    head = [_cell("IMAGE", first, "left", BOLD)] + [_cell(title, wide, side, BOLD) for title, wide, side in columns]
    cli.line((" " * SPACING).join(head))
    for row in rows:
        cli.line(_line(row, first, columns, terminal))
        if spaced and row["last"]:
            cli.line("")


def _rows(image: dict[str, Any], all_: bool) -> list[dict[str, Any]]:
    """Return the lines of one image: a line a name, the last with the figures; then one a platform."""
    children = [m for m in image.get("Manifests") or () if m.get("Kind") == "image"]
    names = [name for name in image.get("RepoTags") or () if name != "<none>:<none>"]
    if not names:
        if not all_:
            return []
        names = ["<untagged>"]
    used = [bool(m["ImageData"]["Containers"]) for m in children]
    content = sum(m["Size"]["Content"] for m in children)
    rows = [{"name": name, "child": False, "last": False, "cells": []} for name in names]
    rows[-1]["cells"] = _cells(image["Id"], image["Size"], content, any(used))
    for position, (child, in_use) in enumerate(zip(children, used)):
        platform = child["ImageData"]["Platform"]
        parts = (platform["os"], platform["architecture"], platform.get("variant"))
        branch = "└─" if position == len(children) - 1 else "├─"
        cells = _cells(child["ID"], child["Size"]["Total"], child["Size"]["Content"], in_use)
        name = f"{branch} {'/'.join(part for part in parts if part)}"
        rows.append({"name": name, "child": True, "last": False, "cells": cells})
    rows[-1]["last"] = True
    return rows


def _cells(identifier: str, size: int, content: int, used: bool) -> list[str]:
    return [
        units.short_id(identifier),
        units.human_size(size, 3),
        units.human_size(content, 3),
        "U" if used else "",
    ]


def _columns(width: int, widest: int) -> tuple[int, list[tuple[str, int, str]]]:
    """Return (width of the first column, the others that there is room for)."""
    kept = []
    for column in COLUMNS:
        taken = column[1] + SPACING
        if width - taken < NARROWEST:
            break
        width -= taken
        kept.append(column)
    return min(width, max(widest, len("IMAGE"))), kept


def _line(row: dict[str, Any], first: int, columns: list[tuple[str, int, str]], terminal: bool) -> str:
    name = units.truncated(row["name"], first)
    style = (PLAIN if row["child"] else NAME) if terminal else ""
    if not row["cells"]:
        return f"{style}{name}{RESET}" if style else name
    line = _cell(name, first, "left", style)
    for (title, wide, side), text in zip(columns, row["cells"]):
        if title == "EXTRA" and terminal and text:
            cell = _cell(f" {text} ", wide, side, BADGE)
        else:
            cell = _cell(text, wide, side, PLAIN if terminal and text else "")
        line += " " * SPACING + cell
    return line


def _cell(text: str, width: int, side: str, style: str) -> str:
    padding = " " * (width - len(text))
    shown = f"{style}{text}{RESET}" if style else text
    return shown + padding if side == "left" else padding + shown


def _legend(width: int, terminal: bool) -> str:
    if not terminal:
        return "Info ->  U In Use ".rjust(width)
    words = f"\x1b[1m\x1b[106m\x1b[30mi{RESET}{RESET} \x1b[96mInfo → {RESET}{RESET} {BADGE} U {RESET} In Use "
    return " " * (width - len("i Info →   U  In Use ")) + words
