"""`sampan`: from argv to one command module and back to an exit code.

Global flags come before the command. The table names the module; only that one is imported. Exit codes: 125 for a bad
flag, 1 for a failed command, else what the command says (run and exec: the container's).

Source: docker 28.5's behaviour (messages, exit codes, which stream).
"""

from __future__ import annotations

import os
import sys

from sampan import errors
from sampan.cli import flags, table
from sampan.cli.session import Cli, CommandError, describe
from sampan.client.http import MalformedResponse
from sampan.client.jsontext import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def main() -> None:
    """Run the program, and leave by `_exit`: the interpreter's own clearing up would take time and change nothing."""
    _open_standard_streams()
    try:
        code = _outcome()
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141  # as if by SIGPIPE: whoever read us has gone
    except OSError as e:
        code = 1
        sys.stderr.write(f"write /dev/stdout: {errors.words(e)}\n")
    os._exit(code)


def _outcome() -> int:
    """Run, and say on standard error why it failed. Returns the exit code."""
    try:
        return dispatch(sys.argv[1:])
    except CommandError as e:
        message, code = e.message, e.code
    except errors.SampanError as e:
        message, code = describe(e), 1
    except (MalformedResponse, Malformed) as e:
        message, code = str(e), 1
    except BrokenPipeError:
        raise
    except OSError as e:
        reason = errors.words(e)
        message, code = f"open {e.filename}: {reason}" if e.filename else reason, 1
    except KeyboardInterrupt:
        message, code = "", 130
    sys.stdout.flush()
    if message:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    return code


def _open_standard_streams() -> None:
    """Open /dev/null in place of a closed 0, 1 or 2: else a socket would get the number and be written to."""
    if sys.stdin is not None and sys.stdout is not None and sys.stderr is not None:
        return
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = (open(fd, mode, closefd=False) for fd, mode in ((0, "r"), (1, "w"), (2, "w")))


def dispatch(argv: list[str]) -> int:
    """Run one command line."""
    try:
        options, words = flags.parse(flags.declared(table.GLOBAL_FLAGS), argv, interspersed=False)
    except flags.HelpRequested:
        from sampan.cli import help as help_

        sys.stdout.write(help_.top())
        return 0
    except flags.FlagError as e:
        raise CommandError(_usage_error(str(e), "[OPTIONS] COMMAND [ARG...]", ""), 125) from e
    if options.text("log-level") not in ("debug", "info", "warn", "warning", "error", "fatal", "panic", "trace"):
        raise CommandError(f"Unable to parse logging level: {options.text('log-level')}")
    if options.flag("version"):
        from sampan.client.engine import VERSION

        sys.stdout.write(f"Sampan version {VERSION}\n")
        return 0
    if not words:
        return _help([], argv, options)
    if words[0] == "help":
        return _help(words[1:], argv, options)
    typed, canonical, rest = find(words)
    if not canonical:
        return _group(words, rest, argv, options)
    return run(typed, canonical, rest, options)


def find(words: list[str]) -> tuple[str, str, list[str]]:
    """Return (path as typed, canonical path or "", the words after it)."""
    first = words[0]
    if first in table.GROUPS and len(words) > 1:
        two = f"{first} {words[1]}"
        canonical = table.ALIASES.get(two, two)
        if canonical in table.COMMANDS:
            return two, canonical, words[2:]
    if first in table.GROUPS:
        return first, "", words[1:]
    if first in table.SHORTCUTS:
        return first, table.SHORTCUTS[first], words[1:]
    if first in table.COMMANDS:
        return first, first, words[1:]
    return "", "", words


def load(canonical: str) -> ModuleType:
    name = "sampan.cli." + table.COMMANDS[canonical][0]
    __import__(name)
    return sys.modules[name]


def run(typed: str, canonical: str, words: list[str], options: flags.FlagValues) -> int:
    """Import, parse, check the number of arguments, run."""
    module = load(canonical)
    try:
        if getattr(module, "RAW", False):
            chosen, arguments = flags.parse([], ["--", *words])
        else:
            chosen, arguments = flags.parse(
                flags.declared(module.FLAGS),
                words,
                interspersed=getattr(module, "INTERSPERSED", True),
                parsers=getattr(module, "PARSERS", None),
            )
    except flags.HelpRequested:
        from sampan.cli import help as help_

        sys.stdout.write(help_.command(typed, canonical, module))
        return 0
    except flags.FlagError as e:
        raise CommandError(_usage_error(str(e), module.USAGE.split("\n")[0], typed), 125) from e
    _check_count(module.ARGS, arguments, module, typed)
    from sampan.cli.config import Config, ContextError

    config = Config(options.text("config"))
    if config.warning:
        sys.stderr.write(config.warning + "\n")
    try:
        code: int = module.run(Cli(options, config, typed), chosen, arguments)
    except ContextError as e:
        raise CommandError(str(e)) from e
    return code


def _check_count(bounds: tuple[int, int | None], arguments: list[str], module: ModuleType, typed: str) -> None:
    low, high = bounds
    count = len(arguments)
    if count >= low and (high is None or count <= high):
        return
    verb = "Run"
    if high is None:
        wants = f"requires at least {low} argument{'s' if low > 1 else ''}"
        verb = "See"
    elif low == high:
        wants = f"requires {low} argument{'s' if low > 1 else ''}" if low else "accepts no arguments"
    elif low == 0:
        wants = f"requires at most {high} argument{'s' if high > 1 else ''}"
    else:
        wants = f"requires at least {low} and at most {high} arguments"
    name = f"{table.PROGRAM} {typed}"
    usage = "Usage:  " + "\n\t".join(f"{name} {usage}".rstrip() for usage in module.USAGE.split("\n"))
    raise CommandError(f"{table.PROGRAM}: '{name}' {wants}\n\n{usage}\n\n{verb} '{name} --help' for more information")


def _usage_error(message: str, usage: str, typed: str) -> str:
    name = f"{table.PROGRAM} {typed}".rstrip()
    return f"{message}\n\n{f'Usage:  {name} {usage}'.rstrip()}\n\nRun '{name} --help' for more information"


def _help(words: list[str], argv: list[str], options: flags.FlagValues) -> int:
    from sampan.cli import help as help_

    if not words:
        sys.stdout.write(help_.top())
        return 0
    if len(words) == 1 and words[0] in table.GROUPS:
        sys.stdout.write(help_.group(words[0]))
        return 0
    typed, canonical, rest = find(words)
    if not canonical:
        if words[0] not in table.GROUPS:
            _plugin(words[0], argv, options)
        raise CommandError(f"unknown help topic: {' '.join(rest)}")
    if rest:
        raise CommandError(f"unknown help topic: {' '.join(rest)}")
    sys.stdout.write(help_.command(typed, canonical, load(canonical)))
    return 0


def _group(words: list[str], rest: list[str], argv: list[str], options: flags.FlagValues) -> int:
    """Answer a group that was named without a verb: with its help, or with what is wrong."""
    name = words[0]
    if name not in table.GROUPS:
        _plugin(name, argv, options)
        raise CommandError(
            f"{table.PROGRAM}: unknown command: {table.PROGRAM} {name}\n\n"
            f"Run '{table.PROGRAM} --help' for more information"
        )
    if not rest and name != "completion":
        from sampan.cli import help as help_

        sys.stderr.write(help_.group(name))  # as docker does when nobody asked for help
        return 0
    if not rest or "--help" in rest or "-h" in rest or name == "completion":
        return _help([name], argv, options)
    full = f"{table.PROGRAM} {name}"
    usage = "COMMAND" if name in table.SAY_COMMAND else ""
    try:
        _, verbs = flags.parse([], rest, interspersed=False)
    except flags.HelpRequested:
        return _help([name], argv, options)
    except flags.FlagError as e:
        raise CommandError(_usage_error(str(e), usage, name), 125) from e
    raise CommandError(
        f"{table.PROGRAM}: unknown command: {full} {verbs[0] if verbs else ''}\n\nUsage:  {full} {usage}".rstrip()
        + f"\n\nRun '{full} --help' for more information"
    )


def _plugin(name: str, argv: list[str], options: flags.FlagValues) -> None:
    """Become the plugin `name`; return when there is none."""
    from sampan.cli import plugins
    from sampan.cli.config import ContextError

    try:
        plugins.execute(sys.argv[0], argv, name, options)
    except ContextError as e:
        raise CommandError(str(e)) from e


if __name__ == "__main__":
    main()
