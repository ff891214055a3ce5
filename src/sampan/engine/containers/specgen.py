"""A container's record and what the other services prepared for it, turned into an OCI runtime spec. Pure.

`build` looks nothing up but device nodes of the host (major and minor numbers are facts, not state). It does not
contain the seccomp profile (see `security.profile`): the engine sends a compiled program beside the spec.

The parts that a build step's spec has as well are in tasks/spec.py.

Differences from what Docker's daemon writes, all on purpose:
- `process.user.username` and `additionalGroupNames` (our extension) instead of looked-up ids: init reads the
  container's passwd file inside the container, where a hostile image cannot do harm.
- the root path is `rootfs` in the bundle; what is mounted there travels as the task's rootfs mounts.
- the device list is not written twice.

Source: OCI runtime-spec 1.2; specs that Docker Engine 28.5 generated (tests/unit/containers_specs).
"""

from __future__ import annotations

from typing import Any

from sampan.engine.containers.merge import environment
from sampan.engine.containers.records import Container, MountPoint
from sampan.engine.tasks import spec
from sampan.engine.tasks.security import SecurityOptions

INIT_IN_CONTAINER = "/sbin/docker-init"


def build(c: Container, prepared: spec.Prepared, security: SecurityOptions) -> dict[str, Any]:
    """Return the spec (config.json as a dict)."""
    host = c.host_config
    own_uts = host.uts_mode != "host"
    found: dict[str, Any] = {
        "ociVersion": "1.2.1",
        "process": _process(c, prepared, security),
        "root": {"path": "rootfs"},
        "mounts": _mounts(c, prepared),
        "linux": spec.linux(
            host, prepared, id=c.id, domainname=c.config.domainname, propagation=_root_propagation(c.mounts)
        ),
    }
    if host.readonly_rootfs:
        found["root"]["readonly"] = True
    if own_uts:
        found["hostname"] = c.config.hostname
    if host.annotations:
        found["annotations"] = dict(host.annotations)
    return found


def uses_init(c: Container, default: bool) -> bool:
    """Tell whether docker-init is process 1; never in a pid namespace that is not the container's own."""
    wanted = default if c.host_config.init is None else c.host_config.init
    return wanted and c.host_config.pid_mode == ""


def _process(c: Container, prepared: spec.Prepared, security: SecurityOptions) -> dict[str, Any]:
    host, config = c.host_config, c.config
    caps = spec.capability_names(host, prepared.available_capabilities)
    args = [c.path, *c.args]
    if prepared.init_path:
        args = [INIT_IN_CONTAINER, "--", *args]
    process: dict[str, Any] = {
        "user": spec.user(config.user, host.group_add),
        "args": args,
        "env": environment(config, hostname=config.hostname),
        "cwd": config.working_dir or "/",
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        "oomScoreAdj": host.oom_score_adj,
    }
    if config.tty:
        process["terminal"] = True
        if any(host.console_size):
            process["consoleSize"] = {"height": host.console_size[0], "width": host.console_size[1]}
    if limits := spec.rlimits(host.ulimits, prepared.default_ulimits):
        process["rlimits"] = limits
    if security.no_new_privileges:
        process["noNewPrivileges"] = True
    if security.apparmor_profile:
        process["apparmorProfile"] = security.apparmor_profile
    return process


def _mounts(c: Container, prepared: spec.Prepared) -> list[dict[str, Any]]:
    host = c.host_config
    user_mounts: list[dict[str, Any]] = []
    if prepared.init_path:
        user_mounts.append(spec.mount(INIT_IN_CONTAINER, "bind", prepared.init_path, ["bind", "ro"]))
    for destination, options in (host.tmpfs or {}).items():
        user_mounts.append(spec.tmpfs(destination, options.split(",") if options else []))
    for point in c.mounts:
        user_mounts.append(
            spec.tmpfs(point.destination, list(point.tmpfs_options)) if point.type == "tmpfs" else _bind(point)
        )
    taken = {m["destination"] for m in user_mounts}
    ro = ["rro"] if host.readonly_rootfs else []
    for destination, source in prepared.files:
        if destination not in taken:
            user_mounts.append(spec.mount(destination, "bind", source, ["rbind", *ro, "rprivate"]))
    # A mount on /a must come before one on /a/b; sorting by depth alone keeps the order asked for otherwise.
    user_mounts.sort(key=lambda m: m["destination"].rstrip("/").count("/"))
    return [m for m in spec.default_mounts(host, prepared) if m["destination"] not in taken] + user_mounts


def _bind(point: MountPoint) -> dict[str, Any]:
    options = ["rbind" if point.recursive else "bind"]
    if not point.rw:
        options.append("rro" if point.read_only_recursive else "ro")
    if point.propagation:
        options.append(point.propagation)
    return spec.mount("/" + point.destination.lstrip("/"), "bind", point.source, options)


def _root_propagation(mounts: list[MountPoint]) -> str:
    """A shared or slave bind needs the root to be no more private than itself."""
    asked = {m.propagation for m in mounts}
    if asked & {"shared", "rshared"}:
        return "rshared"
    if asked & {"slave", "rslave"}:
        return "rslave"
    return ""
