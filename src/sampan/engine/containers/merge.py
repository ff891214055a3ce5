"""Create-time arithmetic: the request, the image's configuration and the engine's defaults become one configuration.

Pure: nothing is looked up, nothing is changed in place. Checks are in `validate`, mounts in `mountpoints`.

Source: Docker Engine 28.5 as observed (`docker inspect` after create).
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from sampan.engine.config import EngineConfig
from sampan.engine.tasks.host import Host
from sampan.engine.tasks.security import MASKED_PATHS, READONLY_PATHS
from sampan.errors import InvalidArgument
from sampan.spec.engine_api.container import ContainerConfig, HealthConfig, HostConfig, LogConfig, RestartPolicy

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def container_config(request: ContainerConfig, image: dict[str, Any]) -> ContainerConfig:
    """Merge what the user asked for over what the image says. image: the `config` object of the image's JSON."""
    user_env = request.env or []
    named = {e.partition("=")[0] for e in user_env}
    env = [*user_env, *(e for e in image.get("Env") or [] if e.partition("=")[0] not in named)]
    cmd, entrypoint = request.cmd, request.entrypoint
    if not entrypoint:
        if not cmd:
            cmd = image.get("Cmd")
        if entrypoint is None:
            entrypoint = image.get("Entrypoint")
    if entrypoint == [""]:  # how a client asks for no entrypoint at all
        entrypoint = None
    if not entrypoint and not cmd:
        raise InvalidArgument("no command specified")
    volumes = {**(request.volumes or {}), **(image.get("Volumes") or {})}
    return replace(
        request,
        user=request.user or image.get("User") or "",
        exposed_ports={**(request.exposed_ports or {}), **(image.get("ExposedPorts") or {})} or None,
        env=env or image.get("Env"),
        cmd=cmd,
        entrypoint=entrypoint,
        labels={**(image.get("Labels") or {}), **(request.labels or {})},
        volumes=volumes or image.get("Volumes"),
        working_dir=_clean(request.working_dir or image.get("WorkingDir") or ""),
        stop_signal=request.stop_signal or image.get("StopSignal") or "",
        shell=request.shell or image.get("Shell"),
        healthcheck=_healthcheck(request.healthcheck, image.get("Healthcheck")),
    )


def _clean(path: str) -> str:
    if not path:
        return ""
    path = posixpath.normpath(path)
    return path[1:] if path.startswith("//") else path


def _healthcheck(user: HealthConfig | None, image: dict[str, Any] | None) -> HealthConfig | None:
    if not image:
        return user
    if user is None:
        user = HealthConfig()
    return HealthConfig(
        test=user.test or image.get("Test"),
        interval=user.interval or image.get("Interval") or 0,
        timeout=user.timeout or image.get("Timeout") or 0,
        start_period=user.start_period or image.get("StartPeriod") or 0,
        start_interval=user.start_interval or image.get("StartInterval") or 0,
        retries=user.retries or image.get("Retries") or 0,
    )


def process(config: ContainerConfig) -> tuple[str, list[str]]:
    """Return path and args: the entrypoint followed by the command."""
    argv = [*(config.entrypoint or []), *(config.cmd or [])]
    return argv[0], argv[1:]


def host_config(request: HostConfig, engine: EngineConfig, machine: Host) -> HostConfig:
    """Fill in what was left open and drop what this kernel cannot do, as `docker inspect` shows it after create."""
    memory_swap = request.memory_swap
    if request.memory > 0 and memory_swap == 0:
        memory_swap = request.memory * 2
    cgroupns = request.cgroupns_mode
    if not cgroupns and request.privileged and not machine.unified:
        cgroupns = "host"
    elif not cgroupns:
        cgroupns = engine.default_cgroupns_mode or ("private" if machine.unified else "host")
    weights = request.blkio_weight_device
    security = list(request.security_opt or [])
    if (request.privileged or request.ipc_mode == "host" or request.pid_mode == "host") and not any(
        o.startswith("label") for o in security
    ):
        security.append("label=disable")
    swappiness = request.memory_swappiness
    masked = request.masked_paths
    readonly = request.readonly_paths
    if not request.privileged:
        masked = list(MASKED_PATHS) if masked is None else masked
        readonly = list(READONLY_PATHS) if readonly is None else readonly
    mode = request.network_mode
    return replace(
        request,
        memory_swap=memory_swap,
        shm_size=request.shm_size or engine.default_shm_size_bytes,
        ipc_mode=request.ipc_mode or engine.default_ipc_mode,
        cgroupns_mode=cgroupns,
        network_mode="bridge" if mode in ("", "default") else mode,
        runtime=request.runtime or engine.default_runtime,
        log_config=_log_config(request.log_config, engine),
        restart_policy=RestartPolicy(
            name=request.restart_policy.name or "no", maximum_retry_count=request.restart_policy.maximum_retry_count
        ),
        pids_limit=request.pids_limit if request.pids_limit and request.pids_limit > 0 else None,
        memory_swappiness=swappiness if machine.swappiness and swappiness != -1 else None,
        oom_kill_disable=bool(request.oom_kill_disable) if machine.oom_kill_disable else None,
        security_opt=security or request.security_opt,
        masked_paths=masked,
        readonly_paths=readonly,
        blkio_weight=request.blkio_weight if machine.blkio_weight else 0,
        blkio_weight_device=weights if machine.blkio_weight_device or not weights else None,
        links=request.links or None,
        tmpfs=request.tmpfs or None,
        storage_opt=request.storage_opt or None,
        sysctls=request.sysctls or None,
        annotations=request.annotations or None,
    )


def _log_config(request: LogConfig, engine: EngineConfig) -> LogConfig:
    driver = request.type or engine.log_driver
    options = dict(request.config or {})
    if driver == engine.log_driver:
        options = {**engine.log_opts, **options}
    return LogConfig(type=driver, config=options)


def environment(
    config: ContainerConfig,
    *,
    hostname: str,
    linked: Sequence[str] = (),
    extra: Sequence[str] = (),
    tty: bool | None = None,
) -> list[str]:
    """Return the process's environment: PATH, HOSTNAME and (with a terminal) TERM, then the configured variables.

    linked: what links tell, which the configured ones override. extra: further variables, as
    exec gives them. tty: whether this process has a terminal; None: as the first one.
    """
    env = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if config.tty if tty is None else tty:
        env["TERM"] = "xterm"
    for item in [*linked, *(config.env or ()), *extra]:
        key, equals, value = item.partition("=")
        if equals:
            env[key] = value
        else:
            env.pop(key, None)  # a bare name takes the variable away
    return [f"{k}={v}" for k, v in env.items()]
