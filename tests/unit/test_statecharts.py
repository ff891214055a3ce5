"""The charts in docstrings and in docs/concepts/states.md are those of the tables."""

from __future__ import annotations

import inspect
import textwrap
from enum import StrEnum
from pathlib import Path
from types import ModuleType

import pytest

from sampan.engine.containers import states
from tests.support import statechart

PAGE = Path(__file__).parents[2] / "docs/concepts/states.md"
CHARTS = [(states, states.TABLE)]


class Light(StrEnum):
    RED = "red"
    GREEN = "green"
    BROKEN = ""


class Press(StrEnum):
    ONCE = "once"
    LONG = "long"
    HARD = "hard"


LIGHT: statechart.StateTable = {
    (Light.RED, Press.ONCE): Light.GREEN,
    (Light.RED, Press.LONG): Light.GREEN,
    (Light.GREEN, Press.ONCE): Light.RED,
    (Light.GREEN, Press.HARD): Light.BROKEN,
}


def test_a_chart_as_text() -> None:
    assert statechart.text(LIGHT) == textwrap.dedent(
        """\
        red   ─ once, long ─▶ green
        green ─ once ───────▶ red
        green ─ hard ───────▶ (gone)"""
    )


def test_a_chart_as_mermaid() -> None:
    assert statechart.mermaid(LIGHT) == textwrap.dedent(
        """\
        stateDiagram-v2
            [*] --> red
            red --> green: once, long
            green --> red: once
            green --> [*]: hard"""
    )


@pytest.mark.parametrize(("module", "table"), CHARTS)
def test_the_docstring_has_the_chart_of_the_table(module: ModuleType, table: statechart.StateTable) -> None:
    assert statechart.text(table) in (inspect.getdoc(module) or "").replace("\n    ", "\n")


@pytest.mark.parametrize(("module", "table"), CHARTS)
def test_the_page_has_the_chart_of_the_table(module: ModuleType, table: statechart.StateTable) -> None:
    assert f"```mermaid\n{statechart.mermaid(table)}\n```" in PAGE.read_text()
