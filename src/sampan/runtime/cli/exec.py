"""exec: run another process inside a container, and unless detached, stay with it."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from sampan.linux.cgroups import groups
from sampan.linux.cgroups.interface import Cgroup
from sampan.runtime.__main__ import Invocation
from sampan.runtime.cli import foreground
from sampan.runtime.cli.create import check_console, json_fault, load, preserved, reason, warn, without_nulls, write_pid
from sampan.runtime.cli.output import CommandFailure
from sampan.runtime.cli.store import StoredContainer
from sampan.runtime.container import ExecProcess, RuntimeFailure
from sampan.runtime.failure import strerror
from sampan.runtime.validate import validate_process

Spec = dict[str, Any]

#: What runc's exec exits with when the process could not be run; its own codes stay distinguishable.
FAILED = 255


def exec_(call: Invocation) -> int:
    try:
        process, tty_fd = _start(call)
        if call.flags.get("detach"):
            return 0
        status = foreground.attend(process.pid, process.console_fd, tty_fd)
        call.log.debug("process exited", pid=process.pid, status=status)
        return status
    except (CommandFailure, RuntimeFailure) as error:
        raise CommandFailure(f"exec failed: {reason(error, joining=True)}", FAILED) from error


def _start(call: Invocation) -> tuple[ExecProcess, int | None]:
    flags = call.flags
    entry = load(call)
    status = entry.status()
    if status == "stopped":
        raise CommandFailure("cannot exec in a stopped container")
    if status == "paused" and not flags.get("ignore-paused"):
        raise CommandFailure("cannot exec in a paused container (use --ignore-paused to override)")
    spec = _process(call, entry)
    validate_process(spec, "process")
    warn(call, spec)
    detach = bool(flags.get("detach"))
    socket = flags.get("console-socket", "")
    terminal = bool(spec.get("terminal"))
    check_console(socket, terminal=terminal, detach=detach)
    tty_fd = foreground.own_terminal() if terminal and not detach else None
    preserve = preserved(spec, flags.get("preserve-fds", 0))
    console_socket = foreground.dial(socket) if socket else None
    pidfd_socket = foreground.dial_for_pidfd(flags.get("pidfd-socket", ""))
    if not detach:
        foreground.prepare()
    process = entry.container.exec(
        spec,
        stdio=(0, 1, 2),
        cgroup=_sub_cgroup(entry.container.cgroup, flags.get("cgroup") or []),
        detached=True,
        line_ends=detach,
        preserve_fds=preserve,
        ignore_paused=bool(flags.get("ignore-paused")),
    )
    if console_socket is not None:
        foreground.hand_out(process.console_fd, console_socket, b"/dev/ptmx")
    if pidfd_socket is not None:
        foreground.hand_out(process.pidfd, pidfd_socket, b"setns")
    if flags.get("pid-file"):
        write_pid(os.path.abspath(flags["pid-file"]), process.pid)
    return process, tty_fd


def _process(call: Invocation, entry: StoredContainer) -> Spec:
    """Return the process: from --process as it is, or the container's own with the flags on top."""
    flags = call.flags
    arguments = call.arguments[1:]
    if flags.get("process"):
        try:
            with open(flags["process"], encoding="utf-8") as file:
                given: Spec = without_nulls(json.load(file))
        except OSError as error:
            raise CommandFailure(f"open {flags['process']}: {strerror(error.errno or 0)}") from error
        except (ValueError, RecursionError) as error:
            raise CommandFailure(json_fault(error)) from error
        if not isinstance(given, dict):
            raise CommandFailure(f"{flags['process']}: not an object")
        return given
    if not arguments:
        raise CommandFailure("exec args cannot be empty")
    spec: Spec = {**(entry.container.spec.get("process") or {})}
    spec["args"] = arguments
    spec["terminal"] = bool(flags.get("tty"))
    spec["env"] = [*(spec.get("env") or []), *(flags.get("env") or [])]
    for flag, key in (("cwd", "cwd"), ("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if flags.get(flag):
            spec[key] = flags[flag]
    if "no-new-privs" in flags:
        spec["noNewPrivileges"] = flags["no-new-privs"]
    if flags.get("cap"):
        own = spec.get("capabilities") or {}
        sets = ("bounding", "effective", "permitted")
        # What is effective must be permitted; the inheritable set stays empty.
        spec["capabilities"] = {**own, **{name: _with(own.get(name), flags["cap"]) for name in sets}}
        if own.get("ambient"):
            spec["capabilities"]["ambient"] = own["ambient"]
    _identity(spec, flags)
    return spec


def _with(present: list[str] | None, added: list[str]) -> list[str]:
    return list(dict.fromkeys([*(present or []), *added]))


def _identity(spec: Spec, flags: dict[str, Any]) -> None:
    user: Spec = {**(spec.get("user") or {})}
    user.pop("username", None)
    if flags.get("user"):
        uid, colon, gid = flags["user"].partition(":")
        for key, text in (("uid", uid), *([("gid", gid)] if colon else [])):
            if not re.fullmatch("[+-]?[0-9]{1,18}", text):
                raise CommandFailure(f'bad {key}: strconv.Atoi: parsing "{text}": invalid syntax')
            user[key] = int(text)
    extra = [gid for gids in flags.get("additional-gids") or () for gid in gids]
    for gid in extra:
        if gid < 0:
            raise CommandFailure(f"additional-gids must be a positive number {gid}")
    if extra:
        user["additionalGids"] = [*(user.get("additionalGids") or []), *extra]
    spec["user"] = user


def _sub_cgroup(base: Cgroup, wanted: list[str]) -> Cgroup | None:
    """Return the container's cgroup with some hierarchies pointing below it; None when --cgroup is not given."""
    if not wanted:
        return None
    sub = groups.load(base.path)
    for entry in wanted:
        names, colon, path = entry.rpartition(":")
        for name in names.split(",") if colon else list(sub.paths):
            if name not in sub.paths:
                raise CommandFailure(
                    f"unable to create new parent process: unknown controller {name} in SubCgroupPaths"
                )
            directory = os.path.normpath(f"{base.paths[name]}/{path.strip('/')}")
            if directory != base.paths[name] and not directory.startswith(base.paths[name] + "/"):
                raise CommandFailure(f"unable to create new parent process: {path} is not a sub cgroup path")
            if not os.path.isdir(directory):
                if name == "" and base.layout.mode != "unified":
                    continue  # the v2 tree of a hybrid machine is ours, users make sub-cgroups of controllers
                raise CommandFailure(f"unable to find sub cgroup: {directory}")
            sub.paths[name] = directory
    return sub
