"""Who reaches whom on networks of every driver and with every option, beside what Docker Engine 28.5.2 lets through.

tests/e2e/matrix has the hosts (world.py), the networks and questions (cases.py), the record (answers.json) and where we
differ (differences.py).
"""

from __future__ import annotations

import re

import pytest

from tests.e2e.matrix import differences, record, summary
from tests.e2e.matrix.cases import GROUPS
from tests.kernel.net_host import apart

RECORDED = record.expected()


@pytest.mark.parametrize("group", GROUPS)
def test_who_reaches_whom_is_as_in_docker(root: None, group: str) -> None:
    apart(lambda: _compare(group))


def _compare(group: str) -> None:
    expected = {
        case: {question: differences.ours(case, question, answer) for question, answer in RECORDED[case].items()}
        for case in GROUPS[group].cases
    }
    found = record.play(GROUPS[group], expected)
    unlike = [
        f"{case}: {question}: {answers.get(question)}, expected: {expected[case].get(question)}"
        for case, answers in found.items()
        for question in sorted(answers.keys() | expected[case].keys())
        if answers.get(question) != expected[case].get(question)
    ]
    assert not unlike, "\n".join(unlike)


def test_the_record_covers_every_case() -> None:
    assert RECORDED.keys() == record.CASES.keys()
    assert sum(len(answers) for answers in RECORDED.values()) > 7000


def test_the_page_shows_the_record() -> None:
    assert f"{summary.BEGIN}{summary.table()}{summary.END}" in summary.PAGE.read_text()


def test_every_difference_is_one() -> None:
    answers = {f"{case}: {question}": answer for case, own in RECORDED.items() for question, answer in own.items()}
    for different in differences.DIFFERENT:
        assert different.docker != different.ours
        assert any(
            answer == different.docker and re.fullmatch(different.where, what) for what, answer in answers.items()
        ), different.where
