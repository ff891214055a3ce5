"""What every command gets: configuration, the engine (connected on first need), output, and its way to fail.

A command fails with `CommandError(text, code)`, or lets the engine's error through: `describe` words it as docker
does. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import os
import sys

from sampan.cli import endpoint
from sampan.client.engine import ConnectionFailed, EngineClient
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sampan.cli.config import Config
    from sampan.cli.flags import FlagValues


class CommandError(Exception):
    """The command failed: `message` for standard error (may be empty) and the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Skipped(Exception):
    """An action of `for_each` found nothing to do: the name is not printed, and it is no failure."""


class Cli:
    """One run of the program."""

    def __init__(self, options: FlagValues, config: Config, path: str) -> None:
        self.options = options
        self.config = config
        self.path = path  # the command as typed, for hints: "run", "container run"
        self._engine: EngineClient | None = None
        self._endpoint: endpoint.EngineEndpoint | None = None

    @property
    def endpoint(self) -> endpoint.EngineEndpoint:
        if self._endpoint is None:
            self._endpoint = endpoint.resolve(self.options, self.config)
        return self._endpoint

    @property
    def engine(self) -> EngineClient:
        if self._engine is None:
            self._engine = self.new_engine()
        return self._engine

    def new_engine(self) -> EngineClient:
        """Return another client of the engine, with its own connections."""
        headers = {name: str(value) for name, value in self.config.table("HttpHeaders").items()}
        where = self.endpoint
        version = os.environ.get("DOCKER_API_VERSION", "").removeprefix("v")
        return EngineClient(where.address, tls=where.tls, headers=headers, api_version=version)

    # -- output -----------------------------------------------------------------------------------------------------

    def out(self, text: str) -> None:
        sys.stdout.write(text)

    def line(self, text: str) -> None:
        sys.stdout.write(text + "\n")

    def flush(self) -> None:
        sys.stdout.flush()

    def warn(self, text: str) -> None:
        """Write one line to standard error, after what was printed before it."""
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    # -- the shapes that many commands have -------------------------------------------------------------------------

    def for_each(self, names: Iterable[str], action: Callable[[str], object], *, echo: bool = True) -> int:
        """Do `action` to each name: print the names that worked; errors follow on standard error. Returns 0. Raises:
        CommandError with all that failed.
        """
        failed = []
        for name in names:
            try:
                action(name)
            except SampanError as e:
                failed.append(describe(e))
                continue
            except Skipped:
                continue
            if echo:
                self.line(name)
        if failed:
            raise CommandError("\n".join(failed))
        return 0

    def confirm(self, warning: str) -> bool:
        """Ask `warning [y/N]`; only y or yes is a yes."""
        self.out(f"{warning} [y/N] ")
        self.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def describe(error: SampanError) -> str:
    """Word an engine's error as the user sees it."""
    return error.message if isinstance(error, ConnectionFailed) else f"Error response from daemon: {error.message}"
