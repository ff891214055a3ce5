"""Questions about a Dockerfile instead of a build: `--check`, `--call=outline|targets|subrequests.describe`. Pure.

Source: BuildKit's frontend/subrequests as buildx 0.29 asks and Docker Engine 28.5.2 answers: JSON, a text, a version.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sampan.engine.builder.checking import Checked
from sampan.engine.builder.progress import BuildWarning
from sampan.spec.dockerfile.errors import Range, excerpt

DESCRIBE, OUTLINE, TARGETS, LINT = (
    "frontend.subrequests.describe",
    "frontend.outline",
    "frontend.targets",
    "frontend.lint",
)
_RESULTS = [{"name": "result.json", "description": ""}, {"name": "result.txt", "description": ""}]


def answer(document: Any, text: str, **more: str) -> dict[str, bytes]:
    """Return a result's metadata."""
    body = json.dumps(document, indent=2, ensure_ascii=False)
    fields = {"result.json": body, "result.txt": text, "version": "1.0.0", **more}
    return {key.replace("_", "."): value.encode() for key, value in fields.items()}


def describe() -> dict[str, bytes]:
    """Return which questions can be asked."""
    listed: tuple[tuple[str, str, list[tuple[str, str]] | None], ...] = (
        (OUTLINE, "List all parameters current build target supports", [("target", "Target build stage")]),
        (TARGETS, "List all targets current build supports", []),
        (DESCRIBE, "List available subrequest types", None),
    )
    document = [
        {
            "name": name,
            "version": "1.0.0",
            "type": "rpc",
            "description": description,
            "opts": opts if opts is None else [{"name": key, "description": text} for key, text in opts],
            "inputs": None,
            "metadata": _RESULTS,
            "refs": None,
        }
        for name, description, opts in listed
    ]
    rows = [(name.removeprefix("frontend."), "1.0.0", description) for name, description, _ in listed]
    return answer(document, table(("NAME", "VERSION", "DESCRIPTION"), rows))


def lint(checked: Checked) -> dict[str, bytes]:
    """Return findings of the build checks and why it cannot be built; `result.statuscode` 1 when there is any of it."""
    warnings, error = checked.warnings, checked.error
    sources: dict[tuple[str, bytes], int] = {}
    listed = []
    for one in warnings:
        index = sources.setdefault((one.filename or "Dockerfile", one.source), len(sources))
        location: dict[str, Any] = {"sourceIndex": index} if index else {}
        location["ranges"] = [_range(first, last) for first, last in one.ranges]
        listed.append(
            {
                "ruleName": one.rule,
                **({"description": one.description} if one.description else {}),
                **({"url": one.url} if one.url else {}),
                "detail": one.message,
                "location": location,
            }
        )
    text = "".join(f"\n{_finding(one)}" for one in warnings)
    document: dict[str, Any] = {"warnings": listed or None, "sources": []}
    if error is not None:
        lines, name, data = error.lines, error.filename or "Dockerfile", error.source or b""
        sources.setdefault((name, data), len(sources))
        where = {"ranges": [_range(first, last) for first, last in lines]} if lines else {}
        document["buildError"] = {"message": error.message, "location": where}
        text += f"\nERROR: {error.message}\n{_excerpt(name, data, lines)}"
    document["sources"] = [
        {"filename": name, "data": base64.b64encode(data).decode(), "language": "Dockerfile"} for name, data in sources
    ]
    return answer(document, text, result_statuscode="1" if warnings or error else "0")


def outline(document: Mapping[str, Any]) -> dict[str, bytes]:
    """Return what a target takes."""
    parts = [f"TARGET:      {document.get('name') or 'default'}\n"]
    if document.get("description"):
        parts.append(f"DESCRIPTION: {document['description']}\n")
    args = [(one["name"], one.get("value", ""), one.get("description", "")) for one in document.get("args") or ()]
    if args:
        parts.append("\n" + table(("BUILD ARG", "VALUE", "DESCRIPTION"), args, gap=3))
    for key, title in (("secrets", "SECRET"), ("ssh", "SSH")):
        rows = [(one["name"], "true" if one.get("required") else "") for one in document.get(key) or ()]
        if rows:
            parts.append("\n" + table((title, "REQUIRED"), rows, gap=3))
    return answer(document, "".join(parts) + "\n")


def targets(document: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the stages that can be built."""
    rows = [
        (one.get("name", "") + (" (default)" if one.get("default") else ""), one.get("description", ""))
        for one in document.get("targets") or ()
    ]
    return answer(document, table(("TARGET", "DESCRIPTION"), rows))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], gap: int = 1) -> str:
    """Columns as Go's tabwriter makes them: every one but the last is padded."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) + gap for column in range(len(head) - 1)]
    return "".join("".join(cell.ljust(width) for cell, width in zip(line, widths)) + line[-1] + "\n" for line in lines)


def _finding(one: BuildWarning) -> str:
    head = f"WARNING: {one.rule}" + (f" - {one.url}" if one.url else "") + f"\n{one.message}\n"
    return head + _excerpt(one.filename or "Dockerfile", one.source, one.ranges)


def _excerpt(filename: str, source: bytes, ranges: Iterable[tuple[int, int]]) -> str:
    lines = excerpt(source.decode(errors="replace"), [Range(*one) for one in ranges], filename=filename)
    return lines + "\n" if lines else ""


def _range(first: int, last: int) -> dict[str, Any]:
    return {"start": {"line": first}, "end": {"line": last}}
