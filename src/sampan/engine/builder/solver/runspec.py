"""The OCI spec of a RUN step. Pure: what it needs was prepared by run.py and mounting.py.

Source: OCI runtime-spec 1.2; what Docker Engine 28.5 gives a step of its classic builder and one of BuildKit's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sampan.engine.builder.ops import Limits, RunOp
from sampan.engine.config import EngineConfig
from sampan.engine.networks.service import Sandbox
from sampan.engine.tasks import etcfiles, security, spec
from sampan.engine.tasks.capabilities import permitted
from sampan.engine.tasks.host import probe
from sampan.spec.engine_api.container import HostConfig, Ulimit

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """A RUN step as a task. id: the task's. directory: where its own files are. classic: it looks like a container."""

    id: str
    op: RunOp
    host: HostConfig
    hostname: str
    sandbox: Sandbox
    directory: str
    classic: bool


def document(
    step: RunStep,
    config: EngineConfig,
    options: security.SecurityOptions,
    mounts: Sequence[dict[str, Any]],
    env: Sequence[str],
) -> dict[str, Any]:
    """The OCI spec of the step. mounts, env: what `--mount` comes to. Pure."""
    op, host = step.op, step.host
    parent = op.limits.cgroup_parent or config.cgroup_parent or "/sampan"
    prepared = spec.Prepared(
        netns=step.sandbox.netns,
        cgroup_parent=parent if parent.startswith("/") else f"/{parent}",
        default_ulimits=tuple(
            Ulimit(name=n, hard=int(u.get("Hard", -1)), soft=int(u.get("Soft", -1)))
            for n, u in config.default_ulimits.items()
        ),
        available_capabilities=permitted(),
    )
    caps = spec.capability_names(host, prepared.available_capabilities)
    process: dict[str, Any] = {
        "user": spec.user(op.user, None),
        "args": list(op.args),
        "env": _environment(step, env),
        "cwd": op.cwd or "/",
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        "oomScoreAdj": 0,
    }
    if limits := spec.rlimits(host.ulimits, prepared.default_ulimits):
        process["rlimits"] = limits
    if options.no_new_privileges:
        process["noNewPrivileges"] = True
    if options.apparmor_profile:
        process["apparmorProfile"] = options.apparmor_profile
    taken = {mount["destination"] for mount in mounts}
    own = etcfiles.NAMES if step.classic else ("resolv.conf", "hosts")
    access = ["rbind", "rprivate"] if step.classic else ["rbind", "ro", "nosuid", "nodev", "noexec", "rprivate"]
    etc = [spec.mount(f"/etc/{name}", "bind", f"{step.directory}/{name}", access) for name in own]
    asked = sorted(
        [*mounts, *(mount for mount in etc if mount["destination"] not in taken)],
        key=lambda mount: mount["destination"].rstrip("/").count("/"),
    )
    defaults = [m for m in spec.default_mounts(host, prepared) if m["destination"] not in taken]
    document: dict[str, Any] = {
        "ociVersion": "1.2.1",
        "process": process,
        "root": {"path": "rootfs"},
        "hostname": step.hostname,
        "mounts": defaults + asked,
        "linux": spec.linux(host, prepared, id=step.id),
    }
    return document


def _environment(step: RunStep, secret: Sequence[str]) -> list[str]:
    """PATH unless it is set, what the step says, then proxies and secrets, which are recorded nowhere."""
    env = {"PATH": DEFAULT_PATH}
    if step.classic:
        env["HOSTNAME"] = step.hostname
    for item in (*step.op.proxy_env, *step.op.env, *secret):
        key, equals, value = item.partition("=")
        if equals:
            env[key] = value
    return [f"{key}={value}" for key, value in env.items()]


def host_config(op: RunOp, config: EngineConfig) -> HostConfig:
    """What a step gets from the host: its network, its limits, and no privilege unless it is insecure. Pure."""
    limits: Limits = op.limits
    insecure = op.security == "insecure"
    machine = probe()
    mode = op.network
    default = "none" if config.bridge == "none" else "bridge"
    return HostConfig(
        network_mode=default if mode in ("", "default", "sandbox") else mode,
        privileged=insecure,
        masked_paths=None if insecure else list(security.MASKED_PATHS),
        readonly_paths=None if insecure else list(security.READONLY_PATHS),
        extra_hosts=[f"{name}:{address}" for name, address in op.extra_hosts],
        cgroupns_mode=config.default_cgroupns_mode or ("private" if machine.unified else "host"),
        ipc_mode="private",
        shm_size=limits.shm_size_bytes or config.default_shm_size_bytes,
        memory=limits.memory_bytes,
        memory_swap=limits.memory_swap_bytes or 2 * limits.memory_bytes,
        cpu_shares=limits.cpu_shares,
        cpu_period=limits.cpu_period_us,
        cpu_quota=limits.cpu_quota_us,
        cpuset_cpus=limits.cpuset_cpus,
        cpuset_mems=limits.cpuset_mems,
        ulimits=[Ulimit(name=name, soft=soft, hard=hard) for name, soft, hard in limits.ulimits],
    )
