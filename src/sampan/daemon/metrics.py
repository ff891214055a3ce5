"""The metrics API (--metrics-addr): GET /metrics in Prometheus' text format, on an address of its own, without TLS.

It shows numbers, and of the configuration nothing that is secret. Who scrapes it needs no access to the engine.

Source: /metrics of dockerd 28.5; prometheus.io/docs/instrumenting/writing_clientlibs (process_*).
"""

from __future__ import annotations

import logging
import os
import resource
import socket
from collections.abc import Iterator

from aiohttp import web

from sampan.daemon.validation import ConfigError, metrics_address
from sampan.engine import hostinfo
from sampan.engine.engine import Engine
from sampan.engine.metrics import gauge, head, sample
from sampan.errors import words
from sampan.spec import release

log = logging.getLogger("sampan.daemon")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def bind(address: str) -> socket.socket:
    """Bind "host:port". Raises: ConfigError."""
    host, port = metrics_address(address)
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as e:
        raise ConfigError(f"failed to start metrics server: listen tcp {address}: {words(e)}") from e


class MetricsServer:
    """Serves the metrics of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        application = web.Application()
        application.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self, bound: socket.socket) -> None:
        """Serve on a bound socket, which belongs to the server from here on."""
        await self._runner.setup()
        await web.SockSite(self._runner, bound).start()
        address, port = bound.getsockname()[:2]
        log.info("metrics API listening on %s", f"[{address}]:{port}" if ":" in address else f"{address}:{port}")

    async def close(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        text = "".join(f"{line}\n" for line in (*self._engine.metrics.lines(), *_looked_up(self._engine)))
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def _looked_up(engine: Engine) -> Iterator[str]:
    """Yield the lines of what is looked up at the moment of asking."""
    counts = engine.containers.counts()
    states = ("paused", "running", "stopped")
    prefix = "engine_daemon_"
    yield from gauge(
        f"{prefix}container_states_containers",
        "The count of containers in various states",
        [({"state": state}, counts[f"Containers{state.title()}"]) for state in states],
    )
    host = hostinfo.identity()
    about = {
        "architecture": host["Architecture"],
        "commit": "",
        "daemon_id": engine.id,
        "graphdriver": engine.images.driver.name,
        "kernel": host["KernelVersion"],
        "os": host["OperatingSystem"],
        "os_type": host["OSType"],
        "os_version": host["OSVersion"],
        "version": release.ENGINE,
    }
    cpus, memory = "number of cpus that the host system", "number of bytes of memory that the host system"
    yield from gauge(f"{prefix}engine_cpus_cpus", f"The {cpus} of the engine has", [({}, host["NCPU"])])
    yield from gauge(
        f"{prefix}engine_info",
        "The information related to the engine and the OS it is running on",
        [(about, 1)],
    )
    yield from gauge(f"{prefix}engine_memory_bytes", f"The {memory} of the engine has", [({}, host["MemTotal"])])
    yield from gauge(
        f"{prefix}events_subscribers_total",
        "The number of current subscribers to events",
        [({}, engine.events.listeners())],
    )
    yield from head(f"{prefix}events_total", "The number of events logged", "counter")
    yield sample(f"{prefix}events_total", {}, engine.events.published)
    yield from _process()


def _process() -> Iterator[str]:
    """Yield what Prometheus' clients say of the process itself. Source: proc_pid_stat(5)."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as f:
        fields = f.read().rpartition(") ")[2].split()
    with open("/proc/stat", encoding="ascii") as f:
        booted_s = next(int(line.split()[1]) for line in f if line.startswith("btime "))
    ticks = os.sysconf("SC_CLK_TCK")
    name = "process_cpu_seconds_total"
    yield from head(name, "Total user and system CPU time spent in seconds.", "counter")
    yield sample(name, {}, (int(fields[11]) + int(fields[12])) / ticks)
    for name, help, value in (
        ("process_max_fds", "Maximum number of open file descriptors.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        ("process_open_fds", "Number of open file descriptors.", hostinfo.open_descriptors()),
        ("process_resident_memory_bytes", "Resident memory size in bytes.",
         int(fields[21]) * os.sysconf("SC_PAGE_SIZE")),
        ("process_start_time_seconds", "Start time of the process since unix epoch in seconds.",
         booted_s + int(fields[19]) / ticks),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", int(fields[20])),
    ):  # fmt: skip
        yield from gauge(name, help, [({}, value)])
