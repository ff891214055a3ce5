"""Record the shape of docker's help: `python -m tests.compat.record_help DOCKER`, a client of 28.5.2 alone.

help_answers.json gets {command: {"usage", "aliases", "flags": {name: [short, kind, default]}}}: what a command line is
made of. The words that explain it are not recorded: ours are our own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sampan.cli import table

ANSWERS = Path(__file__).with_name("help_answers.json")
OURS_ALONE = ("__complete", "system dial-stdio", "system fsck", "completion bash", "completion fish", "completion zsh")
_OPTION = re.compile(r"  (?:-(\w),|   ) --([\w-]+)(?: (\S+))?(?:  |$)")


def shape(text: str) -> dict[str, Any]:
    """Read a help text."""
    usage = re.search(r"^Usage:  (.*(?:\n\t.*)*)", text, re.MULTILINE)
    aliases = re.search(r"^Aliases:\n  (.*)", text, re.MULTILINE)
    found: dict[str, list[str]] = {}
    words: list[str] = []
    for line in [*text.partition("Options:\n")[2].partition("\n\n")[0].splitlines(), "   --"]:
        option = _OPTION.match(line)
        if (option is not None or line == "   --") and found:
            default = re.search(r"\(default (\"[^\"]*\"|-?[\d.]+\w*|true|false)\)$", " ".join(words))
            found[list(found)[-1]][2] = default[1] if default is not None else ""
            words = []
        if option is not None:
            found[option[2]] = [option[1] or "", option[3] or "", ""]
        words += line.split()
    return {
        "usage": usage[1] if usage else "",
        "aliases": sorted(aliases[1].split(", ")) if aliases else [],
        "flags": dict(sorted(found.items())),
    }


def main() -> None:
    answers = {}
    with tempfile.TemporaryDirectory() as home:
        for command in table.COMMANDS:
            if command not in OURS_ALONE:
                argv = [sys.argv[1], "--config", home, *command.split(), "--help"]
                text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
                answers[command] = shape(re.sub(r"(?<!-)\bdocker\b(?= )", "sampan", text))
    rows = ",\n".join(f"{json.dumps(command)}: {json.dumps(found)}" for command, found in answers.items())
    ANSWERS.write_text(f"{{\n{rows}\n}}\n")


if __name__ == "__main__":
    main()
