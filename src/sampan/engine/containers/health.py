"""Health checks: run the probe on its schedule, keep the last results, tell when the verdict changes.

Verdict and results are kept in a table of their own, so that a daemon that starts again goes on where it was. A probe
is an exec like any other (with its events). One loop per container; it ends with the container.

Source: Engine API 1.51 `HealthConfig`, `Health`; docs.docker.com, Dockerfile HEALTHCHECK.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from sampan.engine.background import Background
from sampan.engine.containers.exec import Execs
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.records import Container, rfc3339
from sampan.engine.containers.states import WITH_TASK, State
from sampan.engine.containers.table import ContainerTable
from sampan.engine.events import Events
from sampan.engine.metrics import Metrics
from sampan.engine.store import Record, Watch
from sampan.errors import SampanError
from sampan.spec import go_values
from sampan.spec.engine_api.container import ExecConfig, HealthConfig
from sampan.supervisor.client import Supervisor

INTERVAL_S = 30.0
TIMEOUT_S = 30.0
START_INTERVAL_S = 5.0
RETRIES = 3
KEPT_RESULTS = 5
OUTPUT_LIMIT_BYTES = 4096
SIGKILL = 9


class HealthRecord(Record, kw_only=True):
    """What is kept of a check, by the container's id, for the run that began at `started_ns`."""

    started_ns: int
    status: str
    failing_streak: int
    log: list[dict[str, Any]]


class Health:
    """The state of one container's health check."""

    def __init__(self, config: HealthConfig, started_ns: int) -> None:
        self.config = config
        self.started_ns = started_ns
        self.status = "starting"
        self.failing_streak = 0
        self.log: list[dict[str, Any]] = []
        self.ended = asyncio.Event()

    def restore(self, kept: HealthRecord) -> None:
        """Go on where an earlier daemon was."""
        self.status, self.failing_streak, self.log = kept.status, kept.failing_streak, kept.log

    def stop(self) -> None:
        """End the loop: the container has ended."""
        self.ended.set()
        self.status = "unhealthy"  # what inspect shows of a stopped container

    def note(self, result: dict[str, Any]) -> bool:
        """Take in one probe's result; True when the verdict changed."""
        before = self.status
        self.log = [*self.log, result][-KEPT_RESULTS:]
        if result["ExitCode"] == 0:
            self.failing_streak = 0
            self.status = "healthy"
        elif not self._in_start_period() or self.status != "starting":
            self.failing_streak += 1
            if self.failing_streak >= (self.config.retries or RETRIES):
                self.status = "unhealthy"
        return self.status != before

    def _in_start_period(self) -> bool:
        return time.time_ns() - self.started_ns < self.config.start_period

    def next_delay_s(self) -> float:
        """Return the pause before the next probe; shorter while the container is starting."""
        interval = self.config.interval / 1e9 or INTERVAL_S
        if self.status == "starting" and self._in_start_period():
            return min(interval, self.config.start_interval / 1e9 or START_INTERVAL_S)
        return interval

    def shown(self) -> dict[str, Any]:
        """Return the JSON of `State.Health`."""
        return {"Status": self.status, "FailingStreak": self.failing_streak, "Log": self.log}


def command(c: Container) -> list[str] | None:
    """Return the probe's command, or None when there is none."""
    check = c.config.healthcheck
    test = check.test if check is not None else None
    if not test or test[0] == "NONE":
        return None
    if test[0] == "CMD-SHELL":
        shell = c.config.shell or ["/bin/sh", "-c"]
        return [*shell, *test[1:2]]
    return test[1:] if test[0] == "CMD" else None


class Healthchecks:
    """The probe loops of an engine."""

    def __init__(self, table: ContainerTable, execs: Execs, supervisor: Supervisor, events: Events) -> None:
        self._table = table
        self._execs = execs
        self._supervisor = supervisor
        self._events = events
        self._background = Background()
        self._checks: dict[str, Health] = {}
        self._kept = table.store.table("health", HealthRecord)
        self.metrics = Metrics()  # of nobody, until somebody wants to know

    def begin(self) -> None:
        """Follow the records from now on: what starts is probed, what ends is not any more."""
        for kept in self._kept.all():
            c = self._table.find(kept.id)
            if c is None and kept.id not in self._table.hidden:
                self._forget(kept.id)
            elif c is not None and c.config.healthcheck is not None and kept.started_ns == c.status.started_ns:
                health = self._checks[c.id] = Health(c.config.healthcheck, c.status.started_ns)
                health.restore(kept)
                health.ended.set()  # `_changed` begins anew with what runs
        self._background.spawn(self._follow(self._table.watch()), "health checks")

    async def close(self) -> None:
        """End all loops."""
        await self._background.close()

    async def _follow(self, watch: Watch[Container]) -> None:
        with watch:
            async for change in watch:
                if change.record is None:
                    if (health := self._checks.pop(change.id, None)) is not None:
                        health.stop()
                        self._forget(change.id)
                else:
                    self._changed(change.record)

    def _changed(self, c: Container) -> None:
        health = self._checks.get(c.id)
        runs = c.status.state in WITH_TASK
        if health is not None and not (runs and health.started_ns == c.status.started_ns):
            health.stop()
            self._keep(c.id, health)
        if runs and (health is None or health.ended.is_set()):
            self._start(c)

    def _start(self, c: Container) -> None:
        """Begin to probe a container that has just started, or that an earlier daemon has."""
        probe = command(c)
        if not probe or c.config.healthcheck is None:
            return
        health = self._checks[c.id] = Health(c.config.healthcheck, c.status.started_ns)
        kept = self._kept.get(c.id)
        if kept is not None and kept.started_ns == c.status.started_ns:
            health.restore(kept)
        self._background.spawn(self._loop(c.id, health, probe), f"health of {c.id[:12]}")

    def _keep(self, id: str, health: Health) -> None:
        kept = HealthRecord(
            id=id,
            started_ns=health.started_ns,
            status=health.status,
            failing_streak=health.failing_streak,
            log=health.log,
        )
        with contextlib.suppress(SampanError):  # a full disk: it is in memory
            self._table.store.apply_now(self._kept.put(kept))

    def _forget(self, id: str) -> None:
        with contextlib.suppress(SampanError):
            self._table.store.apply_now(self._kept.delete(id))

    def word(self, c: Container) -> str:
        """Return starting, healthy, unhealthy or none."""
        health = self._checks.get(c.id)
        return health.status if health is not None else "none"

    def shown(self, c: Container) -> dict[str, Any] | None:
        """Return `State.Health`, or None for a container without a check."""
        health = self._checks.get(c.id)
        if health is not None:
            return health.shown()
        return {"Status": "starting", "FailingStreak": 0, "Log": []} if command(c) and c.active else None

    async def _loop(self, id: str, health: Health, probe: list[str]) -> None:
        while not health.ended.is_set():
            try:
                async with asyncio.timeout(health.next_delay_s()):
                    await health.ended.wait()
                return
            except TimeoutError:
                pass
            c = self._table.find(id)
            if c is None or health.ended.is_set():
                return
            if c.status.state is not State.RUNNING:
                continue
            result = await self._probe(c, health, probe)
            if health.ended.is_set():
                return
            changed = health.note(result)
            self._keep(id, health)
            if changed:
                publish(self._events, self._table.find(id) or c, f"health_status: {health.status}")

    async def _probe(self, c: Container, health: Health, probe: list[str]) -> dict[str, Any]:
        began = time.time_ns()
        timeout_s = health.config.timeout / 1e9 or TIMEOUT_S
        status, output, failure = -1, bytearray(), ""
        try:
            id = await self._execs.create(c.id, ExecConfig(cmd=probe, attach_stdout=True, attach_stderr=True))
            session = await self._execs.start(id, detach=False)
            self.metrics.health_check_starts.note((time.time_ns() - began) / 1e9)
            assert session is not None
            try:
                async with asyncio.timeout(timeout_s):
                    await session.collect(output, OUTPUT_LIMIT_BYTES + 1)
                status = await self._status(id)
            except TimeoutError:
                failure = f"Health check exceeded timeout ({go_values.duration(round(timeout_s * 1e9))})"
                await self._kill(c.id, id)
            finally:
                session.abandon()
        except SampanError as e:
            failure = e.message
        self.metrics.health_checks.add()
        if status != 0:
            self.metrics.health_checks_failed.add()
        said = output[:OUTPUT_LIMIT_BYTES].decode("utf-8", "replace")
        if len(output) > OUTPUT_LIMIT_BYTES:
            said += "..."
        return {
            "Start": rfc3339(began),
            "End": rfc3339(time.time_ns()),
            "ExitCode": status,
            "Output": ": ".join(part for part in (failure, said) if part),
        }

    async def _status(self, exec_id: str) -> int:
        found = self._execs.find(exec_id)
        async with asyncio.timeout(5):
            await found.ended.wait()
        return -1 if found.exit_status is None else found.exit_status

    async def _kill(self, id: str, exec_id: str) -> None:
        """End a probe with all that it has started: a shell's children outlive it otherwise, and pile up."""
        with contextlib.suppress(SampanError):
            await self._supervisor.kill(id, SIGKILL, exec_id=exec_id, all=True)
