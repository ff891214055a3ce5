"""`sampan commit`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]"
ARGS = (1, 2)
FLAGS = """
  -a, --author string    Author (e.g., "Ada Lovelace <ada@example.org>")
  -c, --change list      Apply a Dockerfile instruction to the new image
  -m, --message string   Commit message
  -p, --pause            Pause the container meanwhile (default true)
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    from sampan.cli.image.names import check, split
    from sampan.cli.registry.credentials import full_name

    if len(args) > 1:
        check(args[1])
    repository, tag = split(args[1]) if len(args) > 1 else ("", "")
    answer = cli.engine.call(
        "POST",
        "/commit",
        {
            "container": args[0],
            "repo": full_name(repository) if repository else None,
            "tag": tag or None,
            "comment": opts.text("message") or None,
            "author": opts.text("author") or None,
            "changes": opts.many("change"),
            "pause": None if opts.flag("pause") else "0",
        },
    )
    cli.line(answer["Id"])
    return 0
