"""`docker top`: a `ps` over /proc for the processes of one container.

The daemon never forks, so this reads what procps' `ps` would: the default `-ef`, `aux` and `-l`, and `-o` with the
common columns. Options that only choose processes or their order are accepted and change nothing, because the
container's processes are what is shown.

Source: ps(1) of procps-ng 4, proc_pid_stat(5); Docker Engine 28.5's answers to wrong options.
"""

from __future__ import annotations

import os
import pwd
import time
from dataclasses import dataclass
from typing import Any

from sampan.engine.containers.publishing import publish
from sampan.engine.containers.states import WITH_TASK, State
from sampan.engine.containers.table import ContainerTable
from sampan.engine.events import Events
from sampan.errors import Conflict, Internal
from sampan.supervisor.client import Supervisor

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEMORY = os.sysconf("SC_PHYS_PAGES") * _PAGE

# column → header; the order of a format is the order asked for
_HEADERS = {
    "uid": "UID", "user": "USER", "euser": "EUSER", "ruser": "RUSER", "uname": "USER", "euid": "EUID", "ruid": "RUID",
    "pid": "PID", "ppid": "PPID", "pgid": "PGID", "pgrp": "PGRP", "sid": "SID", "sess": "SESS", "tgid": "TGID",
    "gid": "GID", "group": "GROUP", "c": "C", "cp": "CP", "pcpu": "%CPU", "%cpu": "%CPU", "pmem": "%MEM",
    "%mem": "%MEM", "vsz": "VSZ", "vsize": "VSZ", "rss": "RSS", "rssize": "RSS", "tty": "TT", "tt": "TT",
    "tname": "TTY", "stat": "STAT", "s": "S", "state": "S", "stime": "STIME", "start": "STARTED",
    "start_time": "START", "bsdstart": "START", "lstart": "STARTED", "etime": "ELAPSED", "etimes": "ELAPSED",
    "time": "TIME", "cputime": "TIME", "bsdtime": "TIME", "cmd": "CMD", "args": "COMMAND", "command": "COMMAND",
    "comm": "COMMAND", "ucmd": "CMD", "ucomm": "COMMAND", "nice": "NI", "ni": "NI", "pri": "PRI", "nlwp": "NLWP",
    "thcount": "THCNT", "wchan": "WCHAN", "flags": "F", "f": "F", "psr": "PSR", "sz": "SZ",
}  # fmt: skip
_FULL = [
    ("uid_name", "UID"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("c", "C"),
    ("stime", "STIME"),
    ("tname", "TTY"),
    ("time", "TIME"),
    ("cmd", "CMD"),
]
_BSD_U = [
    ("user", "USER"), ("pid", "PID"), ("pcpu", "%CPU"), ("pmem", "%MEM"), ("vsz", "VSZ"), ("rss", "RSS"),
    ("tname", "TTY"), ("stat", "STAT"), ("stime", "START"), ("bsdtime", "TIME"), ("args", "COMMAND"),
]  # fmt: skip
_BSD = [("pid", "PID"), ("tname", "TTY"), ("stat", "STAT"), ("bsdtime", "TIME"), ("args", "COMMAND")]
_PLAIN = [("pid", "PID"), ("tname", "TTY"), ("time", "TIME"), ("comm", "CMD")]
_LONG = [
    ("f", "F"), ("s", "S"), ("uid", "UID"), ("pid", "PID"), ("ppid", "PPID"), ("c", "C"), ("pri", "PRI"), ("ni", "NI"),
    ("addr", "ADDR"), ("sz", "SZ"), ("wchan", "WCHAN"), ("tname", "TTY"), ("time", "TIME"), ("comm", "CMD"),
]  # fmt: skip
Columns = list[tuple[str, str]]


_LONG_OPTIONS = frozenset(
    {
        *(
            "cols",
            "columns",
            "context",
            "cumulative",
            "deselect",
            "forest",
            "group",
            "Group",
            "headers",
            "lines",
            "pid",
        ),
        *("no-headers", "ppid", "quick-pid", "rows", "sid", "sort", "tty", "user", "User", "width"),
    }
)


def parse(text: str) -> Columns:
    """Parse ps' arguments into columns. Raises: Internal in ps' words."""
    try:
        return _parse(text.split())
    except _NotUnix as refusal:  # as ps does: perhaps BSD's options with a hyphen before them were meant
        try:
            return _parse([word.removeprefix("-") if word[:2] != "--" else word for word in text.split()])
        except Internal:
            raise Internal(str(refusal)) from None


class _NotUnix(Internal):
    """A letter that is no option of System V's."""


def _parse(words: list[str]) -> Columns:
    columns: Columns = []
    base: Columns | None = None
    while words:
        word = words.pop(0)
        name, _, value = word[2:].partition("=")
        if word[:2] == "--" and name == "format":
            columns += _format(value or (words.pop(0) if words else ""))
        elif word == "--":
            raise Internal("ps: error: garbage option")
        elif word[:2] == "--" and name not in _LONG_OPTIONS:
            raise Internal("ps: error: unknown gnu long option")
        elif word == "--no-headers":
            raise Internal("Couldn't find PID field in ps output")
        elif word[:2] != "--":
            base = _unix(word[1:], words, columns, base) if word[0] == "-" else _bsd(word, words, columns, base)
    return columns or base or _PLAIN


def _unix(letters: str, words: list[str], columns: Columns, base: Columns | None) -> Columns | None:
    for n, letter in enumerate(letters):
        if letter == "o":
            columns += _format(letters[n + 1 :] or (words.pop(0) if words else ""))
            return base
        if letter in "fF":
            base = _FULL
        elif letter == "l":
            base = _LONG
        elif letter in "pCgGtuU":
            if not letters[n + 1 :] and words:
                words.pop(0)
            return base
        elif letter not in "AaedNHLTmMwyjcZ":
            raise _NotUnix("ps: error: unsupported SysV option")
    return base


def _bsd(letters: str, words: list[str], columns: Columns, base: Columns | None) -> Columns | None:
    for n, letter in enumerate(letters):
        if letter == "o":
            columns += _format(letters[n + 1 :] or (words.pop(0) if words else ""))
            return base
        if letter == "h":
            raise Internal("Couldn't find PID field in ps output")
        if letter == "u":
            base = _BSD_U
        elif letter == "l":
            base = _LONG
        elif letter in "axTfeHwrcSmnkjsv":
            base = base or _BSD
        else:
            raise Internal("ps: error: unsupported option (BSD syntax)")
    return base


def _format(text: str) -> Columns:
    """Parse `pid,user=WHO,args`. A column with its own header is refused: Docker finds PID by that word."""
    found: Columns = []
    for item in text.split(","):
        if not item:
            continue
        name, equals, header = item.partition("=")
        if name not in _HEADERS:
            raise Internal('ps: error: unknown user-defined format specifier "' + name + '"')
        if equals and not header:
            raise Internal("ps: exit status 1")
        found.append((name, header if equals else _HEADERS[name]))
    return found


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """What /proc says of one process."""

    pid: int
    fields: list[str]  # proc_pid_stat(5) from field 3 on
    uid: int
    gid: int
    comm: str
    args: str
    ctty: str

    def number(self, field: int) -> int:
        """Return field n of proc_pid_stat(5), counted from 1."""
        return int(self.fields[field - 3])


def read(pid: int) -> ProcessRow | None:
    """Read one process; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            text = f.read()
        status = os.stat(f"/proc/{pid}")
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            raw = f.read()
    except OSError:
        return None
    comm, _, rest = text.partition("(")[2].rpartition(")")
    args = raw.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace") or f"[{comm}]"
    fields = rest.split()
    return ProcessRow(pid, fields, status.st_uid, status.st_gid, comm, args, _tty(int(fields[4])))


def _tty(device: int) -> str:
    if device == 0:
        return "?"
    major, minor = os.major(device), os.minor(device)
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    return f"tty{minor}" if major == 4 and minor < 64 else "?"


def value(p: ProcessRow, column: str, *, now_s: float, boot_s: float) -> str:
    """Return one cell."""
    cpu_s = (p.number(14) + p.number(15)) / _TICKS
    started_s = boot_s + p.number(22) / _TICKS
    age_s = max(now_s - started_s, 1e-9)
    simple: dict[str, Any] = {
        "pid": p.pid, "tgid": p.pid, "ppid": p.fields[1], "pgid": p.fields[2], "pgrp": p.fields[2], "sid": p.fields[3],
        "sess": p.fields[3], "euid": p.uid, "ruid": p.uid, "gid": p.gid, "group": p.gid, "nice": p.fields[16],
        "ni": p.fields[16], "nlwp": p.fields[17], "thcount": p.fields[17], "psr": p.fields[36],
        "flags": int(p.fields[6]) & 7, "f": int(p.fields[6]) & 7, "s": p.fields[0], "state": p.fields[0],
        "tty": p.ctty, "tt": p.ctty, "tname": p.ctty, "wchan": "-", "addr": "-", "uid": p.uid, "args": p.args,
        "command": p.args, "cmd": p.args, "comm": p.comm, "ucomm": p.comm, "ucmd": p.comm,
    }  # fmt: skip
    if column in simple:
        return str(simple[column])
    if column in ("uid_name", "user", "euser", "ruser", "uname"):
        return _user(p.uid)
    if column in ("c", "cp"):
        return str(min(99, int(cpu_s / age_s * 100)))
    if column in ("pcpu", "%cpu"):
        return f"{min(99.9, cpu_s / age_s * 100):.1f}"
    if column in ("pmem", "%mem"):
        return f"{p.number(24) * _PAGE / _MEMORY * 100:.1f}"
    if column in ("vsz", "vsize"):
        return str(p.number(23) // 1024)
    if column in ("rss", "rssize"):
        return str(p.number(24) * _PAGE // 1024)
    if column == "sz":
        return str(p.number(23) // _PAGE)
    if column == "pri":
        return str(39 - p.number(18))
    if column == "stat":
        return _stat(p)
    if column in ("time", "cputime"):
        total = int(cpu_s)
        return f"{total // 3600:02d}:{total // 60 % 60:02d}:{total % 60:02d}"
    if column == "bsdtime":
        return f"{int(cpu_s) // 60}:{int(cpu_s) % 60:02d}"
    if column in ("etime", "etimes"):
        return str(int(age_s)) if column == "etimes" else _elapsed(int(age_s))
    if column == "lstart":
        return time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(started_s))
    if column == "start":
        return time.strftime("%H:%M:%S" if age_s < 86400 else "%b %d", time.localtime(started_s))
    return _start(started_s, now_s)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _stat(p: ProcessRow) -> str:
    word = p.fields[0]
    nice = int(p.fields[16])
    word += "<" if nice < 0 else "N" if nice > 0 else ""
    if int(p.fields[3]) == p.pid:
        word += "s"
    if int(p.fields[17]) > 1:
        word += "l"
    if int(p.fields[5]) == int(p.fields[2]):
        word += "+"
    return word


def _elapsed(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    text = f"{rest // 60 % 60:02d}:{rest % 60:02d}"
    if days or rest >= 3600:
        text = f"{rest // 3600:02d}:{text}"
    return f"{days}-{text}" if days else text


def _start(started_s: float, now_s: float) -> str:
    then, now = time.localtime(started_s), time.localtime(now_s)
    if (then.tm_year, then.tm_yday) == (now.tm_year, now.tm_yday):
        return time.strftime("%H:%M", then)
    return time.strftime("%b%d" if then.tm_year == now.tm_year else "%Y", then)


class Top:
    """Lists the processes of a container."""

    def __init__(self, table: ContainerTable, supervisor: Supervisor, events: Events) -> None:
        self._table = table
        self._supervisor = supervisor
        self._events = events

    async def top(self, ref: str, ps_args: str = "") -> dict[str, Any]:
        """Return titles and processes as `ps` prints them."""
        c = self._table.get(ref)
        if c.status.state is State.RESTARTING:
            raise Conflict(f"Container {c.id} is restarting, wait until the container is running")
        if c.status.state not in WITH_TASK:
            raise Conflict(f"container {c.id} is not running")
        columns = parse(ps_args or "-ef")
        titles = [header for _, header in columns]
        if "PID" not in titles:
            raise Internal("Couldn't find PID field in ps output")
        pids = sorted(await self._supervisor.pids(c.id))
        now_s = time.time()
        boot_s = now_s - time.clock_gettime(time.CLOCK_BOOTTIME)
        found = [p for p in map(read, pids) if p is not None]
        rows = [[value(p, name, now_s=now_s, boot_s=boot_s) for name, _ in columns] for p in found]
        publish(self._events, c, "top")
        return {"Processes": rows, "Titles": titles}
