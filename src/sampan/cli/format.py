"""Output of list commands: tables, `--format` templates and JSON lines, from rows of plain data.

    FIELDS = {"ID": ("CONTAINER ID", lambda c: …), …}      column name → (heading, how to compute it)
    show(FIELDS, rows, "table {{.ID}}\\t{{.Names}}", kind="ContainerContext") → text

A field is computed only when the template asks for it. `json` prints every field, sorted, one object a line.

Source: docker 28.5's formatter; Go text/tabwriter (minimal width 10, padding 3).
"""

from __future__ import annotations

from sampan.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Fields = Mapping[str, tuple[str, Callable[..., Any]]]

MIN_WIDTH = 10
PADDING = 3


class Row:
    """One row under a template: computes the fields of `data` on demand."""

    def __init__(self, fields: Fields, data: Any, kind: str) -> None:
        self._fields = fields
        self._data = data
        self._kind = kind

    def lookup(self, name: str, *arguments: Any) -> Any:
        entry = self._fields.get(name)
        if entry is None:
            from sampan.cli.functions import Unfit

            kind = self._kind if "." in self._kind else f"formatter.{self._kind}"
            raise Unfit(f"can't evaluate field {name} in type *{kind}")
        return entry[1](self._data, *arguments)

    def __str__(self) -> str:
        from sampan.cli.printf import sprint

        return sprint(self.as_json())

    def as_json(self) -> dict[str, Any]:
        return {name: self._fields[name][1](self._data) for name in sorted(self._fields) if name != "Label"}


class _Headings:
    """Stands in for a row when the heading line is made."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    def lookup(self, name: str, *arguments: Any) -> str:
        if name == "Label" and arguments:
            return str(arguments[0]).rpartition(".")[2].replace("-", " ").replace("_", " ")
        return self._fields[name][0] if name in self._fields else name

    def as_json(self) -> str:
        return ""


def show(fields: Fields, rows: Iterable[Any], template: str, *, kind: str) -> str:
    """Write all rows as text. Raises: TemplateError."""
    if template == "json":
        template = "{{json .}}"
    wanted = [Row(fields, data, kind) for data in rows]
    if template == "{{json .}}":
        return "".join(jsontext.html_escaped(jsontext.dumps(row.as_json())) + "\n" for row in wanted)
    from sampan.cli.template import Template

    is_table = template.startswith("table")
    source = template.removeprefix("table").strip(" \t") if is_table else template
    source = source.replace("\\t", "\t").replace("\\n", "\n")
    compiled = Template(source)
    lines = [compiled.render(row) + "\n" for row in wanted]
    if not is_table:
        return "".join(lines)
    plain: dict[str, Callable[..., Any]] = {
        "json": lambda value: value,
        "split": lambda value, _: value,
        "join": lambda value, _: value,
        **{name: lambda value: value for name in ("title", "lower", "upper")},
        "truncate": lambda value, _: value,
        "pad": lambda value, *_: value,
    }
    heading = Template(source, functions=plain).render(_Headings(fields)) + "\n"
    return tabulated(heading + "".join(lines))


def columns(fields: Fields, rows: Iterable[Any], names: str) -> str:
    """Write the default table of some columns. No template is parsed: this is the path of every plain listing."""
    wanted = names.split()
    lines = ["\t".join([fields[name][0] for name in wanted])]
    lines += ["\t".join([str(fields[name][1](data)) for name in wanted]) for data in rows]
    return tabulated("\n".join(lines) + "\n")


def tabulated(text: str, *, minimum: int = MIN_WIDTH, padding: int = PADDING) -> str:
    """Align tab-terminated cells; a column ends where a line has no cell in it."""
    lines = [line.split("\t") for line in text.split("\n")]
    widths: list[list[int]] = [[] for _ in lines]
    _measure(lines, widths, 0, len(lines), 0, minimum, padding)
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(cells, row)) + cells[-1] for cells, row in zip(lines, widths)
    )


def _measure(
    lines: list[list[str]], widths: list[list[int]], start: int, end: int, column: int, minimum: int, padding: int
) -> None:
    row = start
    while row < end:
        if len(lines[row]) - 1 <= column:
            row += 1
            continue
        last = row
        while last < end and len(lines[last]) - 1 > column:
            last += 1
        width = max(minimum, *(len(cells[column]) + padding for cells in lines[row:last]))
        for line in range(row, last):
            widths[line].append(width)
        _measure(lines, widths, row, last, column + 1, minimum, padding)
        row = last
