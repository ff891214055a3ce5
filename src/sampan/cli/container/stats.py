"""`sampan stats`: what containers use, as a table that renews itself, or once.

One thread per container reads its stream; the main thread only draws. Without names, containers that start and stop
meanwhile come and go.

Source: Docker's arithmetic for CPU % (share of all CPUs × CPUs) and memory (usage without inactive page cache).
"""

from __future__ import annotations

import time

from sampan.cli import format as format_
from sampan.cli import units
from sampan.cli.listing import FORMAT_HELP, templated
from sampan.client import jsontext
from sampan.client.engine import quoted
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] [CONTAINER...]"
ARGS = (0, None)
FLAGS = f"""
  -a, --all             Show all containers (default shows only running ones)
      --format string   {FORMAT_HELP}
      --no-stream       Show one result and leave
      --no-trunc        Do not cut anything short
"""
COLUMNS = "ID Name CPUPerc MemUsage MemPerc NetIO BlockIO PIDs"
PERIOD_S = 0.5


class Board:
    """The rows in the order of their appearance, filled by reader threads."""

    def __init__(self, cli: Cli, *, once: bool, whole: bool) -> None:
        self._cli = cli
        self._once = once
        self._whole = whole
        self.rows: dict[str, dict[str, Any]] = {}
        self.errors: list[SampanError] = []
        self._threads: list[Any] = []

    def add(self, name: str) -> None:
        """Begin to watch a container, unless it is watched."""
        import threading

        if name in self.rows:
            return
        self.rows[name] = {"Container": name, "whole": self._whole, "stats": None}
        thread = threading.Thread(target=self._read, args=(name,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def drop(self, name: str) -> None:
        self.rows.pop(name, None)

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()

    def _read(self, name: str) -> None:
        try:
            engine = self._cli.new_engine()
            response = engine.open("GET", f"/containers/{quoted(name)}/stats", {"stream": not self._once or "0"})
            for stats in jsontext.stream(response.chunks()):
                row = self.rows.get(name)
                if row is None:
                    return
                row["stats"] = stats
        except SampanError as e:
            self.errors.append(e)
            self.drop(name)


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    once = opts.flag("no-stream")
    board = Board(cli, once=once, whole=opts.flag("no-trunc"))
    if args:
        for name in args:
            board.add(name)
    else:
        for container in cli.engine.get("/containers/json", all=opts.flag("all")):
            board.add(container["Id"] if opts.flag("no-trunc") else container["Id"][:12])
        if not once:
            _follow(cli, board, opts.flag("all"), opts.flag("no-trunc"))
    template = opts.text("format") or cli.config.text("statsFormat")
    if once:
        board.wait()
        if board.errors:
            raise board.errors[0]
        cli.out(_drawn(board, template))
        return 0
    return _live(cli, board, template, bool(args))


def _follow(cli: Cli, board: Board, everything: bool, whole: bool) -> None:
    """Watch for containers that come and go."""
    import threading

    def watch() -> None:
        engine = cli.new_engine()
        filters = {"type": {"container": True}}
        try:
            for event in jsontext.stream(engine.open("GET", "/events", {"filters": filters}).chunks()):
                identifier = event["Actor"]["ID"]
                name = identifier if whole else identifier[:12]
                if event["Action"] == "start" or (everything and event["Action"] == "create"):
                    board.add(name)
                elif event["Action"] == ("destroy" if everything else "die"):
                    board.drop(name)
        except SampanError as e:
            board.errors.append(e)

    threading.Thread(target=watch, daemon=True).start()


def _live(cli: Cli, board: Board, template: str, named: bool) -> int:
    time.sleep(PERIOD_S)
    while True:
        if board.errors and named and not board.rows:
            raise board.errors[0]
        text = _drawn(board, template)
        # home, clear to the end of each line as it is drawn, then everything below
        cli.out("\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[J")
        cli.flush()
        time.sleep(PERIOD_S)


def _drawn(board: Board, template: str) -> str:
    rows = list(board.rows.values())
    if template in ("", "table"):
        return format_.columns(FIELDS, rows, COLUMNS)
    return templated(FIELDS, rows, template, kind="statsContext")


# -- arithmetic ------------------------------------------------------------------------------------------------------


def cpu_percent(stats: dict[str, Any]) -> float:
    now, before = stats["cpu_stats"], stats["precpu_stats"]
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    whole = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or ())
    return used / whole * cpus * 100.0 if whole > 0 and used > 0 else 0.0


def memory_used(stats: dict[str, Any]) -> int:
    """Return the usage without the inactive page cache (cgroup v1 and v2 name it differently)."""
    memory = stats.get("memory_stats") or {}
    usage: int = memory.get("usage") or 0
    details = memory.get("stats") or {}
    for key in ("total_inactive_file", "inactive_file"):
        if key in details and details[key] < usage:
            return usage - int(details[key])
    return usage


def block_io(stats: dict[str, Any]) -> tuple[int, int]:
    read = written = 0
    for entry in (stats.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ():
        if entry["op"][:1] in "rR":
            read += entry["value"]
        elif entry["op"][:1] in "wW":
            written += entry["value"]
    return read, written


def network_io(stats: dict[str, Any]) -> tuple[int, int]:
    networks = (stats.get("networks") or {}).values()
    return sum(n["rx_bytes"] for n in networks), sum(n["tx_bytes"] for n in networks)


def _memory_percent(row: dict[str, Any]) -> str:
    stats = row["stats"]
    if stats is None:
        return "--"
    limit = (stats.get("memory_stats") or {}).get("limit") or 0
    return f"{memory_used(stats) / limit * 100.0 if limit else 0.0:.2f}%"


def _memory(row: dict[str, Any]) -> str:
    stats = row["stats"]
    if stats is None:
        return "-- / --"
    limit = (stats.get("memory_stats") or {}).get("limit") or 0
    return f"{units.bytes_size(memory_used(stats))} / {units.bytes_size(limit)}"


def _pair(row: dict[str, Any], what: Any) -> str:
    if row["stats"] is None:
        return "--"
    first, second = what(row["stats"])
    return f"{units.human_size(first, 3)} / {units.human_size(second, 3)}"


def _name(row: dict[str, Any]) -> str:
    return str(row["stats"]["name"]).removeprefix("/") if row["stats"] else "--"


def _id(row: dict[str, Any]) -> str:
    if not row["stats"]:
        return "--"
    return str(row["stats"]["id"]) if row["whole"] else str(row["stats"]["id"])[:12]


FIELDS: format_.Fields = {
    "Container": ("CONTAINER ID", lambda r: r["Container"]),
    "Name": ("NAME", _name),
    "ID": ("CONTAINER ID", _id),
    "CPUPerc": ("CPU %", lambda r: f"{cpu_percent(r['stats']):.2f}%" if r["stats"] else "--"),
    "MemUsage": ("MEM USAGE / LIMIT", _memory),
    "MemPerc": ("MEM %", _memory_percent),
    "NetIO": ("NET I/O", lambda r: _pair(r, network_io)),
    "BlockIO": ("BLOCK I/O", lambda r: _pair(r, block_io)),
    "PIDs": ("PIDS", lambda r: str((r["stats"].get("pids_stats") or {}).get("current", 0)) if r["stats"] else "--"),
}
