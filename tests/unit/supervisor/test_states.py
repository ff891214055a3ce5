"""The table of a task's life: every status can be reached and left, and nothing else is allowed."""

from __future__ import annotations

import itertools

import pytest

from sampan.supervisor.states import TABLE, IllegalChange, TaskChange, TaskStatus, after

LAST = {TaskStatus.FAILED, TaskStatus.STOPPED}


def test_every_status_is_reached_from_creating_and_left() -> None:
    reached = {TaskStatus.CREATING}
    for _ in TaskStatus:
        reached |= {to for (of, _), to in TABLE.items() if of in reached}
    assert reached == set(TaskStatus)
    assert {of for of, _ in TABLE} == set(TaskStatus) - LAST


def test_every_status_that_lives_may_end() -> None:
    for status in set(TaskStatus) - LAST:
        assert after(status, TaskChange.EXIT) is TaskStatus.STOPPED


def test_what_the_table_lacks_is_refused() -> None:
    for status, change in itertools.product(TaskStatus, TaskChange):
        if (status, change) not in TABLE:
            with pytest.raises(IllegalChange):
                after(status, change)
