"""Ask Docker Engine what words become and what build checks find; the questions are in the files that hold the answers.

SAMPAN_REFERENCE_SOCKET=…/docker.sock DOCKER_BUILDX=…/docker-buildx python -m tests.builder.record_language

tests/unit/dockerfile/words.json    {"env": {…}, "words": {word: result or {"error"}}}
tests/unit/dockerfile/checks.json   [{"dockerfile", "warnings": [{rule, detail, description, url, lines}], "error"}]
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.builder import entries
from tests.support.reference import Reference

ANSWERS = Path(__file__).parents[1] / "unit" / "dockerfile"


def main() -> None:
    reference = Reference().start()
    try:
        words = json.loads((ANSWERS / "words.json").read_text())
        for word in words["words"]:
            words["words"][word] = _word(reference, words["env"], word)
        _write("words.json", words)
        checks = json.loads((ANSWERS / "checks.json").read_text())
        _write("checks.json", [_check(reference, question["dockerfile"]) for question in checks])
    finally:
        reference.close()


def _write(name: str, answers: Any) -> None:
    (ANSWERS / name).write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n")


def _word(reference: Reference, env: dict[str, str], word: str) -> str | dict[str, str]:
    """Through USER, whose argument is one word and is kept as it is."""
    lines = [f"ENV {name}={json.dumps(value)}" for name, value in env.items()]
    text = "\n".join(["FROM scratch", *lines, f"USER {word}", ""])
    query = {"t": "corpus:word"}
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "Dockerfile").write_text(text)
        context = entries.archive(Path(scratch))
    answer = reference.request("POST", "/build", context, headers={"Content-Type": "application/x-tar"}, **query)
    assert answer.status == 200, (word, answer.raw)
    for line in answer.raw.splitlines():
        if error := json.loads(line).get("errorDetail"):
            return {"error": str(error["message"])}
    result = str(reference.call("GET", "/images/corpus:word/json")["Config"]["User"])
    reference.call("DELETE", "/images/corpus:word", force="1")
    return result


def _check(reference: Reference, dockerfile: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "Dockerfile").write_text(dockerfile)
        argv = [*entries.buildx(), "build", "--call=lint,format=json", scratch]
        environment = {**reference.environment, "BUILDX_BUILDER": "default"}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    answer = json.loads(done.stdout)
    error = str((answer.get("buildError") or {}).get("message", ""))
    warnings = [
        {
            "rule": warning["ruleName"],
            "detail": warning["detail"],
            "description": warning["description"],
            "url": warning.get("url", ""),
            "lines": [[r["start"]["line"], r["end"]["line"]] for r in warning["location"]["ranges"]],
        }
        for warning in answer.get("warnings") or []
    ]
    warnings.sort(key=lambda w: (w["lines"], w["rule"], w["detail"]))
    return {
        "dockerfile": dockerfile,
        "warnings": warnings,
        "error": "(no such image)" if "no such host" in error else error,
    }


if __name__ == "__main__":
    main()
