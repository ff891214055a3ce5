"""Events for a subscriber that does not take them, and lines for a log that is full: both have an end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import pytest

from sampan.supervisor import client, notes, server
from sampan.supervisor import supervisor_pb2 as pb
from sampan.supervisor.client import Supervisor
from sampan.supervisor.server import Service
from sampan.supervisor.values import TaskKind


def exited(number: int) -> pb.Event:
    return pb.Event(kind=pb.Event.EXEC_EXIT, id="c", exec_id=str(number), task_kind=pb.TaskKind.Value("CONTAINER"))


@pytest.mark.asyncio
async def test_the_daemon_is_told_to_ask_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_EVENTS", 10)
    supervisor = Supervisor("/nowhere", debug=False)
    events = supervisor.events()
    for number in range(25):
        supervisor._deliver(exited(number))
    seen = [await anext(events) for _ in range(5)]
    assert [event.kind for event in seen] == ["connected", *["exec-exit"] * 4]
    assert seen[-1].exec_id == "24"
    await cast(Any, events).aclose()


@pytest.mark.asyncio
async def test_a_subscriber_that_is_too_slow_has_to_subscribe_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_EVENTS", 10)
    service = Service.__new__(Service)
    service._debug, queue = False, asyncio.Queue[pb.Event | None](10)
    service._subscribers = {queue}
    task = cast(Any, type("Task", (), {"id": "c", "kind": TaskKind.CONTAINER}))
    for _ in range(25):
        service._publish(task, cast(Any, {"kind": "oom"}))
    assert queue.get_nowait() is None and queue.empty()
    assert not service._subscribers


def test_the_log_is_emptied_at_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "LIMIT_BYTES", 1000)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    kept = os.dup(2)
    os.dup2(log, 2)
    try:
        for number in range(300):
            notes.note(f"line {number}")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(log)
    text = (tmp_path / "log").read_text()
    assert len(text) < 1100 and text.endswith("line 299\n")
