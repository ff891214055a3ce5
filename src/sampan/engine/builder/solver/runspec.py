"""A RUN step of a build as what its task asks for: `TaskOptions`. Pure.

Source: what Docker Engine 28.5 gives a step of its classic builder and one of BuildKit's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sampan.engine.builder.ops import RunOp
from sampan.engine.config import EngineConfig
from sampan.engine.tasks import etcfiles, limits, security
from sampan.engine.tasks.capabilities import of_task, permitted
from sampan.engine.tasks.host import probe
from sampan.engine.tasks.options import (
    NamespaceMode,
    Namespaces,
    ProcessOptions,
    ResolverOptions,
    ResourceLimits,
    TaskOptions,
    cgroup_parent,
)
from sampan.spec.oci_runtime import Mount

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_READ_ONLY = ("rbind", "ro", "nosuid", "nodev", "noexec", "rprivate")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """A RUN step that is to be a task. id: the task's. classic: it looks like a container."""

    id: str
    op: RunOp
    hostname: str
    classic: bool

    @property
    def files(self) -> tuple[str, ...]:
        """The files in /etc that the step gets from the engine: a step of BuildKit has the image's hostname."""
        return etcfiles.NAMES if self.classic else ("resolv.conf", "hosts")


def network_mode(op: RunOp, config: EngineConfig) -> str:
    """Return the step's network as a container's mode: none, host, bridge, or a network's name."""
    default = "none" if config.bridge == "none" else "bridge"
    return default if op.network in ("", "default", "sandbox") else op.network


def task_options(
    step: RunStep, config: EngineConfig, mounts: Sequence[Mount] = (), env: Sequence[str] = ()
) -> TaskOptions:
    """Return what the step asks for: no privilege unless it is insecure. mounts, env: what `--mount` comes to.

    Raises: Internal for a limit that does not exist.
    """
    op = step.op
    insecure = op.security == "insecure"
    return TaskOptions(
        id=step.id,
        process=ProcessOptions(
            args=tuple(op.args),
            env=tuple(_environment(step, env)),
            cwd=op.cwd or "/",
            user=op.user,
            capabilities=of_task(add=(), drop=(), privileged=insecure, available=permitted()),
            security=security.parse((), config, privileged=insecure),
            rlimits=limits.rlimits(op.limits.ulimits, config),
            oom_score_adj=0,
        ),
        namespaces=_namespaces(op, config),
        hostname=step.hostname,
        resolver=ResolverOptions(extra_hosts=tuple(f"{name}:{address}" for name, address in op.extra_hosts)),
        privileged=insecure,
        mounts=tuple(mounts),
        etc_options=("rbind", "rprivate") if step.classic else _READ_ONLY,
        shm_size_bytes=op.limits.shm_size_bytes or config.default_shm_size_bytes,
        masked_paths=() if insecure else security.MASKED_PATHS,
        readonly_paths=() if insecure else security.READONLY_PATHS,
        limits=_limits(op),
        cgroup_parent=cgroup_parent(op.limits.cgroup_parent, config),
    )


def _namespaces(op: RunOp, config: EngineConfig) -> Namespaces:
    cgroup = config.default_cgroupns_mode or ("private" if probe().unified else "host")
    return Namespaces(
        network=NamespaceMode.HOST if network_mode(op, config) == "host" else NamespaceMode.OWN,
        cgroup=NamespaceMode.OWN if cgroup == "private" else NamespaceMode.HOST,
    )


def _limits(op: RunOp) -> ResourceLimits:
    asked = op.limits
    return ResourceLimits(
        memory_bytes=asked.memory_bytes,
        memory_swap_bytes=asked.memory_swap_bytes or 2 * asked.memory_bytes,
        cpu_shares=asked.cpu_shares,
        cpu_period_us=asked.cpu_period_us,
        cpu_quota_us=asked.cpu_quota_us,
        cpuset_cpus=asked.cpuset_cpus,
        cpuset_mems=asked.cpuset_mems,
    )


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
