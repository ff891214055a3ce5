"""sampand: configure, open the engine, serve the API, stop in reverse order.

    flags + daemon.json ─▶ config ─▶ directories, lock, pidfile ─▶ engine ─▶ API server ─▶ listeners ─▶ READY=1
    SIGTERM, SIGINT: listeners close ─▶ requests finish ─▶ engine closes ─▶ supervisor ends if idle ─▶ pidfile away
    SIGHUP: daemon.json is read again (`reload`); SIGUSR1: where every thread stands, on standard error

A restart touches no container: live-restore is on unless the configuration says false. The daemon never forks; the one
process it starts is the supervisor, by posix_spawn, in `sampan.supervisor.client`.

The heavy modules are imported where they are first needed: --version, --validate and a wrong flag answer at once.

Invariants: umask 077; one daemon per data root (a lock, not the pidfile, decides); nothing is changed on disk before
the configuration has been accepted as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from sampan.api import versions
from sampan.daemon import flags, notify, tls
from sampan.daemon.config import DaemonConfig, load
from sampan.daemon.logs import configure as configure_logs
from sampan.daemon.validation import ConfigError
from sampan.errors import words
from sampan.spec import release

if TYPE_CHECKING:
    import socket

    from sampan.daemon.reload import Reloader
    from sampan.engine.engine import Engine
    from sampan.supervisor.starter import Boot

log = logging.getLogger("sampan.daemon")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; return the exit status: 0 stopped as asked, else 1."""
    try:
        given = flags.parse(sys.argv[1:] if argv is None else argv)
    except flags.CommandLineError as e:
        print(f"{e}\nSee 'sampand --help'.\n\nUsage:\tsampand [OPTIONS]", file=sys.stderr)
        return 1
    if given.get("help"):
        print(flags.usage(), end="")
        return 0
    if given.get("version"):
        print(f"Sampan version {release.SAMPAN}, Docker Engine API {versions.MAXIMUM}")
        return 0
    try:
        config = load(given)
        tls.context(config)
        _check_kernel(config)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return 1
    if given.get("validate"):
        print("configuration OK", file=sys.stderr)
        return 0
    return run(config, given)


def run(config: DaemonConfig, given: dict[str, object]) -> int:
    """Set the process up and run until a signal asks to stop."""
    import uvloop

    os.umask(0o077)
    _name_process(config)
    configure_logs(config.log_level, config.log_format)
    for warning in config.warnings:
        log.warning(warning)
    _tell_of_unused_variables()
    _protect_from_oom(config.oom_score_adjust)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    if os.geteuid() != 0:
        print("sampand needs to be started with root privileges", file=sys.stderr)
        return 1
    try:
        with contextlib.ExitStack() as held:
            from sampan.daemon.locks import hold_data_root, hold_pidfile, prepare_directories

            prepare_directories(config.engine)
            held.enter_context(hold_data_root(config.engine.data_root))
            held.enter_context(hold_pidfile(config.pidfile))
            with asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=False) as runner:
                runner.run(serve(config, given))
    except ConfigError as e:
        log.critical("failed to start daemon: %s", e)
        return 1
    except Exception as e:
        log.critical("daemon stopped: %s", e, exc_info=config.engine.debug)
        return 1
    return 0


async def serve(config: DaemonConfig, given: dict[str, object]) -> None:
    """Start the supervisor and run until a signal. It boots while this process imports its engine, which saves
    0.1 s.
    """
    from sampan.supervisor import starter

    gc.disable()  # imports leave next to no garbage: looking for it takes a tenth of the start
    exec_root = os.path.abspath(config.engine.exec_root)
    with starter.booting(exec_root, debug=config.engine.debug) as boot:
        await _serve(config, given, boot)


async def _serve(config: DaemonConfig, given: dict[str, object], boot: Boot | None) -> None:
    """Open everything in order, say READY, wait for a signal, close everything in reverse."""
    from sampan.api.server import ApiServer
    from sampan.daemon import listeners
    from sampan.daemon.reload import Reloader
    from sampan.engine.engine import Engine

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, number)
    async with AsyncExitStack() as undo:
        bound = listeners.bind(config)
        undo.callback(listeners.remove, bound)
        measured = _bind_metrics(config)
        if measured is not None:
            undo.callback(measured.close)
        engine = await Engine.open(config.engine, boot)
        reloader = Reloader(engine, config, given)
        undo.push_async_callback(_close_engine, engine, reloader)
        server = ApiServer(engine)
        await server.start()
        undo.push_async_callback(server.close)
        await listeners.protect(engine, bound)
        if measured is not None:
            await _serve_metrics(engine, measured, undo)
        context = tls.context(config)
        for listener in bound:
            await server.listen(listener.sock, context if listener.is_tcp else None, guarded=listener.guarded)
            log.info("API listen on %s", listener.host)
        loop.add_signal_handler(signal.SIGHUP, reloader.reload)
        undo.callback(loop.remove_signal_handler, signal.SIGHUP)
        gc.freeze()  # what is there now stays: a full collection looks at the rest only, and holds nobody up for 20 ms
        gc.enable()
        notify.notify("READY=1")
        log.info("Daemon has completed initialization")
        await stop.wait()
        notify.notify("STOPPING=1")


def _bind_metrics(config: DaemonConfig) -> socket.socket | None:
    """Bind what serves the metrics; None when nobody wants them. Raises: ConfigError."""
    if not config.metrics_addr:
        return None
    from sampan.daemon import metrics

    return metrics.bind(config.metrics_addr)


async def _serve_metrics(engine: Engine, bound: socket.socket, undo: AsyncExitStack) -> None:
    from sampan.daemon.metrics import MetricsServer

    server = MetricsServer(engine)
    undo.push_async_callback(server.close)
    await server.start(bound)


async def _close_engine(engine: Engine, reloader: Reloader) -> None:
    """Close the engine by the configuration in force now: a reload may have changed live-restore."""
    await engine.close(stop_containers=not reloader.config.engine.live_restore)


def _tell_of_unused_variables() -> None:
    """Say that proxies of the environment do not count: a password meant for root's programs could be among them."""
    for name in ("http-proxy", "https-proxy"):
        variable = name.upper().replace("-", "_")
        if os.environ.get(variable) or os.environ.get(variable.lower()):
            log.warning("%s of the environment is not used: give --%s, or set it in daemon.json", variable, name)


def _check_kernel(config: DaemonConfig) -> None:
    """Refuse what this machine's kernel does not have. Raises: ConfigError."""
    if config.engine.cpu_rt_period or config.engine.cpu_rt_runtime:
        from sampan.linux.cgroups import realtime

        if not realtime.supported():
            raise ConfigError("daemon-scoped cpu-rt-period and cpu-rt-runtime are not supported by the kernel")


def _protect_from_oom(score: int) -> None:
    """Set the daemon's own oom_score_adj; not being allowed to is worth a warning, not a failure."""
    if score:
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
                f.write(str(score))
        except OSError as e:
            log.warning("cannot set oom_score_adj to %d: %s", score, words(e))


def _stop(stop: asyncio.Event, number: signal.Signals) -> None:
    if stop.is_set():
        log.warning("Processing signal '%s' already", number.name)
        return
    log.info("Processing signal '%s'", signal.strsignal(number))
    stop.set()


def _name_process(config: DaemonConfig) -> None:
    """Say in `ps` what this is and which of several it is."""
    from setproctitle import setproctitle

    setproctitle(f"sampand --exec-root {config.engine.exec_root}")


if __name__ == "__main__":
    sys.exit(main())
