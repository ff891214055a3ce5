"""sampan-runc: the runtime as an OCI command line, with runc's commands, flags, exit codes and words.

Starting is the product: flags are a static table, and only the module of the command that runs is imported.

Not here: what a container is (runtime/container.py).

Source: OCI runtime-spec 1.2 runtime.md; runc's command line.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from sampan.runtime.cli.flags import UsageError, parse
from sampan.runtime.cli.output import CommandFailure, Log, help_text, print_out
from sampan.runtime.cli.table import COMMANDS, FLAGS_FIRST, GLOBAL_FLAGS

VERSION = "0.1.0"


class Invocation:
    """One run of the program: global options, the command's options and arguments."""

    def __init__(self, options: dict[str, Any], log: Log, flags: dict[str, Any], arguments: list[str]) -> None:
        self.options = options
        self.log = log
        self.flags = flags
        self.arguments = arguments

    @property
    def root(self) -> str:
        given: str = self.options.get("root", "")
        runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
        if not given and os.geteuid() and runtime_dir:
            return runtime_dir + "/sampan-runc"
        return given or "/run/sampan-runc"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    name, *rest = sys.argv if arguments is None else ["sampan-runc", *arguments]
    log = Log()
    try:
        options, rest = parse(rest, GLOBAL_FLAGS)
        log = Log(options.get("log", ""), options.get("log-format", "text"), debug=bool(options.get("debug")))
        return _dispatch(os.path.basename(name), options, log, rest)
    except UsageError as error:
        print_out(f"Incorrect Usage. {error}\n\n{help_text(os.path.basename(name))}")
        log.error(str(error))
        return 1
    except CommandFailure as error:
        log.error(error.message)
        return error.status
    except Exception as error:  # a defect of ours, or a machine that does not do what it must: one line all the same
        log.error(f"{type(error).__name__}: {error}")
        return 255


def _dispatch(name: str, options: dict[str, Any], log: Log, rest: list[str]) -> int:
    if options.get("version"):
        print_out(_versions(name))
        return 0
    if options.get("help") or not rest or rest[0] in ("help", "h"):
        verb = rest[1] if len(rest) > 1 else ""
        if verb and verb not in COMMANDS:
            raise CommandFailure(f"No help topic for '{verb}'\n", 3)
        print_out(help_text(name, verb))
        return 0
    if options.get("criu"):
        os.write(2, b"WARNING: --criu ignored (criu binary from $PATH is used); do not use\n")
    command, *rest = rest
    if command not in COMMANDS:
        raise CommandFailure(f"No help topic for '{command}'\n", 3)
    module, function, _, (fewest, most), _, flags = COMMANDS[command]
    try:
        values, arguments = parse(rest, flags, anywhere=command not in FLAGS_FIRST)
    except UsageError as error:
        print_out(f"Incorrect Usage: {error}\n\n{help_text(name, command)}\n")
        raise CommandFailure(str(error)) from None
    if values.get("help"):
        print_out(help_text(name, command))
        return 0
    wrong = _count_error(name, command, len(arguments), fewest, most)
    if wrong:
        print_out(f"Incorrect Usage.\n\n{help_text(name, command)}\n")
        raise CommandFailure(wrong)
    log.debug(f"{name} {command}", arguments=" ".join(arguments))
    run = getattr(import_module(f"sampan.runtime.cli.{module}"), function)
    status: int = run(Invocation(options, log, values, arguments))
    return status


def _versions(name: str) -> str:
    """Return runc's lines; the language is another one."""
    from sampan.linux.seccomp import library_version
    from sampan.runtime.plan import OCI_VERSION

    lines = [
        f"{name} version {VERSION}",
        f"commit: {VERSION}",
        f"spec: {OCI_VERSION}",
        f"python: {sys.version.split()[0]}",
    ]
    return "\n".join([*lines, f"libseccomp: {library_version()}"]) + "\n"


def _count_error(name: str, command: str, count: int, fewest: int, most: int | None) -> str:
    if fewest == most and count != fewest:
        return f'{name}: "{command}" requires exactly {fewest} argument(s)'
    if count < fewest:
        return f'{name}: "{command}" requires a minimum of {fewest} argument(s)'
    if most is not None and count > most:
        return f'{name}: "{command}" requires a maximum of {most} argument(s)'
    return ""


if __name__ == "__main__":
    sys.exit(main())
