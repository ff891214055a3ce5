"""The state table: complete, closed, and without a trap. And the other pure tables of containers."""

from __future__ import annotations

import pytest

from sampan.engine.containers import names, restart, signals
from sampan.engine.containers.states import TABLE, IllegalTransition, State, Trigger, after
from sampan.errors import InvalidArgument
from sampan.spec.engine_api.container import RestartPolicy


def reachable(start: State) -> set[State]:
    found, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for (source, _), target in TABLE.items():
            if source is state and target not in found:
                found.add(target)
                todo.append(target)
    return found


def test_every_state_is_reached_from_created() -> None:
    assert reachable(State.CREATED) == set(State)


@pytest.mark.parametrize("state", [s for s in State if s is not State.GONE])
def test_every_state_has_a_way_out_to_removal(state: State) -> None:
    assert State.GONE in reachable(state)


def test_running_and_paused_always_can_exit() -> None:
    for state in (State.RUNNING, State.PAUSED, State.RESTARTING):
        assert after(state, Trigger.EXIT) is State.EXITED


def test_what_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(IllegalTransition, match="no transition from 'created' by 'pause'"):
        after(State.CREATED, Trigger.PAUSE)


def test_back_off_doubles_from_100_ms_to_a_minute_and_resets_after_ten_seconds() -> None:
    delays = [0.0]
    for _ in range(12):
        delays.append(restart.next_delay_s(delays[-1], run_s=0.5))
    assert delays[1:5] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 60.0
    assert restart.next_delay_s(30.0, run_s=10.0) == 0.1


@pytest.mark.parametrize(
    ("policy", "status", "stopped", "count", "wanted"),
    [
        ("no", 1, False, 0, False),
        ("always", 0, False, 9, True),
        ("always", 0, True, 0, False),
        ("unless-stopped", 0, False, 0, True),
        ("on-failure", 0, False, 0, False),
        ("on-failure", 1, False, 0, True),
        ("on-failure:2", 1, False, 1, True),
        ("on-failure:2", 1, False, 2, False),
    ],
)
def test_restart_policies(policy: str, status: int, stopped: bool, count: int, wanted: bool) -> None:
    name, _, limit = policy.partition(":")
    found = restart.wants_restart(
        RestartPolicy(name=name, maximum_retry_count=int(limit or 0)),
        exit_status=status,
        manually_stopped=stopped,
        restart_count=count,
    )
    assert found is wanted


@pytest.mark.parametrize(
    ("policy", "stopped", "starts"), [("always", True, True), ("unless-stopped", True, False), ("no", False, False)]
)
def test_policies_when_the_daemon_starts(policy: str, stopped: bool, starts: bool) -> None:
    found = restart.wants_start_at_boot(
        RestartPolicy(name=policy), manually_stopped=stopped, was_active=False, exit_status=0, restart_count=0
    )
    assert found is starts


def test_signals_by_name_and_number() -> None:
    assert [signals.parse(t) for t in ("TERM", "SIGTERM", "sigterm", "15", "RTMIN+3")] == [15, 15, 15, 15, 37]
    for wrong in ("NOPE", "0", "-1", ""):
        with pytest.raises(InvalidArgument, match=f"invalid signal: {wrong}"):
            signals.parse(wrong)


def test_generated_names_are_valid_and_free() -> None:
    taken: set[str] = set()
    for _ in range(500):
        name = names.generate(taken)
        assert names.check(name) == name
        taken.add(name)
    assert len(taken) == 500
    with pytest.raises(InvalidArgument, match=r"Invalid container name \(/a b\), only"):
        names.check("/a b")
