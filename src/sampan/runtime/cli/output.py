"""What sampan-runc says: log lines in logrus' formats, help, and the errors that end a command.

An error is logged; when the log is a file it is printed on standard error as well, as runc does, so that an engine can
read the last error from the log file and a person from the terminal.
"""

from __future__ import annotations

import os
import sys
import time

from sampan.runtime.cli.table import COMMANDS, GLOBAL_FLAGS, Flag
from sampan.runtime.failure import strerror
from sampan.spec import go_values

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")
_COLOURS = {"error": 31, "warning": 33, "info": 36, "debug": 37}


class CommandFailure(Exception):
    """Ends the command: one error line and an exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class Log:
    """Writes log lines to standard error or appends them to a file."""

    def __init__(self, path: str = "", style: str = "text", *, debug: bool = False) -> None:
        if style not in ("text", "json"):
            raise CommandFailure(f"invalid log-format: {style}")
        self.style = style
        self.verbose = debug
        self.to_file = bool(path) and path != "/dev/stderr"
        self._fd = 2
        if self.to_file:
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise CommandFailure(f"open {path}: {strerror(error.errno or 0)}") from error

    def write(self, level: str, message: str, **fields: object) -> None:
        """Write a line; the fields of it come after level, message and time."""
        from sampan.spec import times  # most commands have nothing to say

        stamp = times.rfc3339(time.time_ns(), local=True)
        if self.style == "json":
            import json

            line = json.dumps(
                {"level": level, "msg": message, "time": stamp, **fields}, separators=(",", ":"), ensure_ascii=False
            )
        elif not self.to_file and os.isatty(2):
            line = f"\x1b[{_COLOURS[level]}m{level[:4].upper()}\x1b[0m[0000] {message:<44} "
        else:
            line = f"time={_quoted(stamp)} level={level} msg={_quoted(message)}"
            line += "".join(f" {name}={_quoted(str(value))}" for name, value in fields.items())
        os.write(self._fd, (line + "\n").encode("utf-8", "surrogateescape"))

    def error(self, message: str) -> None:
        self.write("error", message)
        if self.to_file:
            os.write(2, (message + "\n").encode("utf-8", "surrogateescape"))

    def debug(self, message: str, **fields: object) -> None:
        if self.verbose:
            self.write("debug", message, **fields)


def _quoted(text: str) -> str:
    """Quote as logrus does, which is Go's %q: only what is more than a word."""
    if text and _PLAIN.issuperset(text):
        return text
    return go_values.quote(text)


def help_text(name: str, command: str = "") -> str:
    """Return the help of a command, or of the program."""
    if not command:
        lines = [f"NAME:\n   {name} - Open Container Initiative runtime\n"]
        lines.append(f"USAGE:\n   {name} [global options] command [command options] [arguments...]\n\nCOMMANDS:")
        lines += [f"   {verb:<11} {entry[4]}" for verb, entry in COMMANDS.items()]
        lines.append(f"   {'help, h':<11} show the commands, or the help of one")
        return "\n".join([*lines, "", "GLOBAL OPTIONS:", *_flag_lines(GLOBAL_FLAGS)]) + "\n"
    _, _, usage, _, text, flags = COMMANDS[command]
    options = " [command options]" if any(text for _, _, text in flags) else ""
    lines = [f"NAME:\n   {name} {command} - {text}\n", f"USAGE:\n   {name} {command}{options} {usage}"]
    if any(text for _, _, text in flags):
        lines += ["", "OPTIONS:", *_flag_lines(flags)]
    return "\n".join(lines) + "\n"


def _flag_lines(flags: tuple[Flag, ...]) -> list[str]:
    shown = []
    for names, kind, text in flags:
        if not text:  # taken, but nothing to recommend
            continue
        value = "" if kind == "bool" else " value"
        words = ", ".join(("--" if len(name) > 1 else "-") + name + value for name in names.split())
        shown.append((words, text))
    width = max(len(words) for words, _ in shown) + 2
    return [f"   {words:<{width}}{text}" for words, text in shown]


def print_out(text: str) -> None:
    """Write to standard output at once. A reader that has gone is no error of ours."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
