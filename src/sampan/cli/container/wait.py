"""`sampan wait`."""

from __future__ import annotations

from sampan.cli.session import CommandError
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "CONTAINER [CONTAINER...]"
ARGS = (1, None)
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    def wait(name: str) -> None:
        answer = cli.engine.post(f"/containers/{quoted(name)}/wait")
        if error := (answer.get("Error") or {}).get("Message"):
            raise CommandError(error)
        cli.line(str(answer["StatusCode"]))
        cli.flush()

    return cli.for_each(args, wait, echo=False)
