"""Ask Docker Engine about every entry of the corpus, through both doors, and write its answers beside them.

    SAMPAN_REFERENCE_SOCKET=…/docker.sock DOCKER_BUILDX=…/docker-buildx python -m tests.builder.record [NAME …]

The engine is given or started as `tests.support.reference` says. RUN steps have no network.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.builder import entries
from tests.builder.entries import Entry
from tests.support.reference import Reference

TAG = "corpus:result"


def main(names: list[str]) -> None:
    reference = Reference().start()
    try:
        base = entries.import_base(reference)
        for entry in [*entries.entries("good"), *entries.entries("wrong")]:
            if not names or entry.name in names:
                answer = _ask(reference, entry, base)
                _complain(entry, answer)
                (entry.directory / "answer.json").write_text(_text(answer))
        for image in (TAG, entries.BASE):
            reference.request("DELETE", f"/images/{image}", force="1")
    finally:
        reference.close()


def _ask(reference: Reference, entry: Entry, base: dict[str, list[Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    phase = "solve"
    with tempfile.TemporaryDirectory() as scratch:
        context = entries.materialise(entry, Path(scratch))
        for door in entry.doors:
            reference.request("DELETE", f"/images/{TAG}", force="1")
            if door == "classic":
                error, phase = entries.build_classic(reference, entry, context, TAG)
                answer[door] = {"error": error}
            else:
                error, lines = entries.build_buildx(reference, entry, context, TAG)
                answer[door] = {"error": error, "lines": lines}
            if not error:
                made = entries.tree(reference, TAG)
                answer[door] = {"config": entries.config(reference, TAG), **entries.difference(base, made)}
    phase = entry.options.get("phase", phase)
    return {**answer, "phase": phase} if entry.kind == "wrong" else answer


def _text(answer: dict[str, Any]) -> str:
    """Indented JSON with a line for each path."""
    text = json.dumps(answer, indent=1, ensure_ascii=False, sort_keys=True)
    return re.sub(r"\[\n([^\[\]{}]*)\n *\]", lambda m: "[" + re.sub(r"\n *", " ", m[1]).strip() + "]", text) + "\n"


def _complain(entry: Entry, answer: dict[str, Any]) -> None:
    """Say when an entry is not what its directory claims."""
    for door in entry.doors:
        error = answer[door].get("error", "")
        if bool(error) != (entry.kind == "wrong") and entries.REFUSAL not in error:
            print(f"{entry.kind}/{entry.name} {door}: {error or 'built'}", file=sys.stderr)
        elif error:
            print(f"{entry.kind}/{entry.name} {door}: {error} {answer[door].get('lines', '')}")


if __name__ == "__main__":
    main(sys.argv[1:])
