"""The environment that the flags of `create`, `run` and `exec` ask for, and the files that such flags name.

Source: docker/cli opts/env.go and opts/file.go by behaviour.
"""

from __future__ import annotations

import os

from sampan.errors import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues


def of(opts: FlagValues) -> list[str]:
    """Return the variables that `--env-file` and `-e` ask for, files first.

    A bare name takes the client's own value. Where there is none, a line of a file drops out, and `-e NAME` goes to the
    engine as it is, which removes the image's NAME.

    Raises: ValueError for a file that cannot be read.
    """
    lines = [line for path in opts.many("env-file") for line in file_lines(path)]
    found = [item for item in lines if "=" in item or item in os.environ]
    return [
        item if "=" in item or item not in os.environ else f"{item}={os.environ[item]}"
        for item in [*found, *opts.many("env")]
    ]


def file_lines(path: str) -> list[str]:
    """Read an env or label file: its lines, without comments and blank lines. Raises: ValueError."""
    try:
        with open(path, encoding="utf-8") as f:
            text = f.read().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise ValueError(f"env file {path} contains invalid utf8 bytes") from None
    except OSError as e:
        raise ValueError(f"open {path}: {words(e)}") from e
    out = []
    for line in text.splitlines():
        line = line.lstrip(" \t")
        if not line or line.startswith("#"):
            continue
        name = line.partition("=")[0]
        if not name:
            raise ValueError(f"invalid env file ({path}): no variable name on line '{line}'")
        if " " in name or "\t" in name:
            raise ValueError(f"invalid env file ({path}): variable '{name}' contains whitespaces")
        out.append(line)
    return out
