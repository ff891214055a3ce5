"""Record what runc answers to each command line: python -m tests.conformance.runtime.record_command_lines RUNC

Source: runc 1.3.6.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.conformance.runtime.command_lines import Player, command_of, lines
from tests.conformance.runtime.driver import make_rootfs

FILE = Path(__file__).parent / "command_lines.json"


def main(runc: str) -> None:
    kept = {}
    if FILE.exists():
        kept = {_key(entry): entry["differs"] for entry in json.loads(FILE.read_text()) if "differs" in entry}
    with tempfile.TemporaryDirectory() as name:
        player = Player(command_of(runc), Path(name), make_rootfs(Path(name) / "rootfs"))
        entries: list[dict[str, Any]] = []
        for state, words, more in lines():
            entry: dict[str, Any] = {"state": state, "words": words, "more": more}
            entry["answer"] = player.play(state, words, more)
            if _key(entry) in kept:
                entry["differs"] = kept[_key(entry)]
            entries.append(entry)
        player.close()
    FILE.write_text("[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n")


def _key(entry: dict[str, Any]) -> str:
    return json.dumps([entry["state"], entry["words"], entry["more"]])


if __name__ == "__main__":
    main(sys.argv[1])
