"""state, list and ps: show one container, all of them, or the processes of one."""

from __future__ import annotations

import json
import os
from typing import Any

from sampan.runtime.__main__ import Invocation
from sampan.runtime.cli.create import load
from sampan.runtime.cli.output import CommandFailure, print_out
from sampan.runtime.cli.store import ContainerStore

_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")


def state(call: Invocation) -> int:
    print_out(json.dumps(load(call).state(), indent=2, ensure_ascii=False))
    return 0


def list_(call: Invocation) -> int:
    store = ContainerStore(call.root)
    states = []
    if call.options.get("root") and not os.path.isdir(store.root):
        raise CommandFailure(f"open {store.root}: no such file or directory")
    for id in store.ids():
        try:
            states.append({**store.load(id).state(), "owner": _owner(f"{store.root}/{id}")})
        except CommandFailure as error:
            call.log.write("warning", f"load container {id}: {error.message}")
    if call.flags.get("quiet"):
        print_out("".join(item["id"] + "\n" for item in states))
        return 0
    style = call.flags.get("format", "table")
    if style == "json":
        print_out((json.dumps(states, separators=(",", ":"), ensure_ascii=False) if states else "null") + "\n")
    elif style == "table":
        rows = [[column.upper() for column in _COLUMNS], *([str(item[key]) for key in _COLUMNS] for item in states)]
        print_out(table(rows))
    else:
        raise CommandFailure("invalid format option")
    return 0


def table(rows: list[list[str]]) -> str:
    """Align as Go's tabwriter does with minimum width 12 and padding 3; the last column is left as it is."""
    widths = [max(12, *(len(row[i]) + 3 for row in rows)) for i in range(len(rows[0]) - 1)]
    return "".join("".join(f"{cell:<{width}}" for cell, width in zip(row, widths)) + row[-1] + "\n" for row in rows)


def _owner(path: str) -> str:
    import pwd

    uid = os.stat(path).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def ps(call: Invocation) -> int:
    style = call.flags.get("format", "table")
    pids = load(call).container.pids()
    if style == "json":
        print_out(json.dumps(pids or None, separators=(",", ":")) + "\n")
        return 0
    if style != "table":
        raise CommandFailure("invalid format option")
    print_out(_filter(_run_ps(call.arguments[1:] or ["-ef"]), frozenset(pids)))
    return 0


def _run_ps(arguments: list[str]) -> str:
    import subprocess

    try:
        done: Any = subprocess.run(["ps", *arguments], capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise CommandFailure('exec: "ps": executable file not found in $PATH') from None
    if done.returncode:
        raise CommandFailure(f"exit status {done.returncode}: {done.stdout}{done.stderr}")
    return str(done.stdout)


def _filter(text: str, pids: frozenset[int]) -> str:
    """Keep the header and the lines of these processes."""
    header, *lines = text.splitlines()
    columns = header.split()
    if "PID" not in columns:
        raise CommandFailure("couldn't find PID field in ps output")
    at = columns.index("PID")
    kept = [header]
    for line in lines:
        words = line.split()
        if len(words) > at and words[at].isdecimal() and int(words[at]) in pids:
            kept.append(line)
    return "\n".join(kept) + "\n"
