"""Health checks: run the probe on its schedule, keep the last results, tell when the verdict changes.

A probe is an exec like any other (with its events). One loop per container; it ends with the container.

Source: Engine API 1.51 `HealthConfig`, `Health`; docs.docker.com, Dockerfile HEALTHCHECK.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sampan.engine.background import Background
from sampan.engine.containers.exec import Execs
from sampan.engine.containers.launch import Launcher
from sampan.engine.containers.lifecycle import Lifecycle
from sampan.engine.containers.records import Container, rfc3339
from sampan.engine.containers.registry import Registry
from sampan.engine.containers.states import State
from sampan.errors import SampanError
from sampan.spec.engine_api.container import ExecConfig, HealthConfig

INTERVAL_S = 30.0
TIMEOUT_S = 30.0
START_INTERVAL_S = 5.0
RETRIES = 3
KEPT_RESULTS = 5
OUTPUT_LIMIT_BYTES = 4096
SIGKILL = 9


class Health:
    """The state of one container's health check."""

    def __init__(self, config: HealthConfig, started_ns: int) -> None:
        self.config = config
        self.started_ns = started_ns
        self.status = "starting"
        self.failing_streak = 0
        self.log: list[dict[str, Any]] = []
        self.ended = asyncio.Event()

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

    def __init__(
        self, registry: Registry, execs: Execs, lifecycle: Lifecycle, launcher: Launcher, background: Background
    ) -> None:
        self._registry = registry
        self._execs = execs
        self._lifecycle = lifecycle
        self._launcher = launcher
        self._background = background

    def started(self, c: Container) -> None:
        """Begin to probe a container that has just started (or was adopted)."""
        probe = command(c)
        if not probe or c.config.healthcheck is None:
            return
        live = self._registry.live(c.id)
        if live.health is not None:
            live.health.stop()
        live.health = Health(c.config.healthcheck, c.status.started_ns)
        self._background.spawn(self._loop(c.id, live.health, probe), f"health of {c.id[:12]}")

    def word(self, c: Container) -> str:
        """Return starting, healthy, unhealthy or none."""
        health = self._registry.live(c.id).health
        return health.status if health is not None else "none"

    def shown(self, c: Container) -> dict[str, Any] | None:
        """Return `State.Health`, or None for a container without a check."""
        health = self._registry.live(c.id).health
        if health is not None:
            return health.shown()
        return {"Status": "starting", "FailingStreak": 0, "Log": []} if command(c) and c.active else None

    async def _loop(self, id: str, health: Health, probe: list[str]) -> None:
        while not health.ended.is_set():
            try:
                await asyncio.wait_for(health.ended.wait(), health.next_delay_s())
                return
            except TimeoutError:
                pass
            c = self._registry.find(id)
            if c is None or health.ended.is_set():
                return
            if c.status.state is not State.RUNNING:
                continue
            result = await self._probe(c, health, probe)
            if health.ended.is_set():
                return
            if health.note(result):
                self._lifecycle.publish(self._registry.find(id) or c, f"health_status: {health.status}")

    async def _probe(self, c: Container, health: Health, probe: list[str]) -> dict[str, Any]:
        began = time.time_ns()
        timeout_s = health.config.timeout / 1e9 or TIMEOUT_S
        status, output = -1, b""
        try:
            id = await self._execs.create(c.id, ExecConfig(cmd=probe, attach_stdout=True, attach_stderr=True))
            session = await self._execs.start(id, detach=False)
            assert session is not None
            try:
                output = await asyncio.wait_for(session.collect(OUTPUT_LIMIT_BYTES), timeout_s)
                status = await self._status(id)
            except TimeoutError:
                output = f"Health check exceeded timeout ({_go_duration(timeout_s)})".encode()
                await self._kill(c.id, id)
            finally:
                session.abandon()
        except SampanError as e:
            output = e.message.encode()
        return {
            "Start": rfc3339(began),
            "End": rfc3339(time.time_ns()),
            "ExitCode": status,
            "Output": output.decode("utf-8", "replace"),
        }

    async def _status(self, exec_id: str) -> int:
        found = self._execs.find(exec_id)
        await asyncio.wait_for(found.ended.wait(), 5)
        return -1 if found.exit_status is None else found.exit_status

    async def _kill(self, id: str, exec_id: str) -> None:
        try:
            await self._launcher.supervisor.kill(id, SIGKILL, exec_id=exec_id)
        except SampanError:
            pass


def _go_duration(seconds: float) -> str:
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{seconds:g}s"
