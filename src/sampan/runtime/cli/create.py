"""create and run: make a container from a bundle; with `run`, start it and, unless detached, stay with it to its end.

The container's init outlives this process: it waits at its gate, and whoever starts it fetches the gate's descriptor
from init itself (`Container.from_state`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from sampan.linux import pty
from sampan.linux.capabilities import NUMBERS
from sampan.linux.cgroups import groups
from sampan.runtime import container as runtime
from sampan.runtime import plan as planning
from sampan.runtime.__main__ import Invocation
from sampan.runtime.cli import foreground
from sampan.runtime.cli.output import CommandFailure
from sampan.runtime.cli.store import ContainerStore, StoredContainer, new_record
from sampan.runtime.container import Container, InvalidSpec, RuntimeFailure
from sampan.runtime.failure import strerror

Spec = dict[str, Any]


def create(call: Invocation) -> int:
    try:
        _make(call, detach=True)
    except (CommandFailure, RuntimeFailure) as error:
        raise CommandFailure(f"runc create failed: {reason(error)}") from error
    return 0


def run(call: Invocation) -> int:
    detach = bool(call.flags.get("detach"))
    try:
        store, container, record, tty_fd = _make(call, detach=detach)
        try:
            if not detach:
                foreground.prepare()
                if container.console_fd is not None:
                    pty.leave_line_ends(container.console_fd)
            container.start()
            store.save(container, record)
        except BaseException:
            _discard(store, container)
            raise
    except (CommandFailure, RuntimeFailure) as error:
        raise CommandFailure(f"runc run failed: {reason(error)}") from error
    if detach:
        return 0
    status = foreground.attend(container.pid, container.console_fd, tty_fd)
    call.log.debug("process exited", pid=container.pid, status=status)
    if not call.flags.get("keep"):
        for failure in _discard(store, container):
            call.log.write("warning", f"unable to destroy container: {failure}")
    return status


def reason(error: CommandFailure | RuntimeFailure, *, joining: bool = False) -> str:
    """Return an error's text with the words that runc puts before what init, or with `joining` an exec, said."""
    if isinstance(error, InvalidSpec) and joining:
        return f"invalid {error.field}: {error.reason}"  # it may come from a flag
    if isinstance(error, CommandFailure | InvalidSpec) or error.step == "seccomp":
        return error.message
    if joining or error.step in ("start", "cgroup"):
        return f"unable to start container process: {error.message}"
    return f"unable to start container process: error during container init: {error.message}"


def _make(call: Invocation, *, detach: bool) -> tuple[ContainerStore, Container, dict[str, Any], int | None]:
    """Create the container, hand its terminal out, write its pid; everything is undone when a step fails."""
    flags = call.flags
    pid_file = os.path.abspath(flags["pid-file"]) if flags.get("pid-file") else ""  # from the caller's directory
    bundle = flags.get("bundle", "")
    if bundle:
        try:
            os.chdir(bundle)
        except OSError as error:
            raise CommandFailure(f"chdir {bundle}: {strerror(error.errno or 0)}") from error
    bundle = os.getcwd()
    spec = load_spec()
    runtime.validate(spec)
    warn(call, spec.get("process") or {}, spec.get("mounts") or ())
    terminal = bool((spec.get("process") or {}).get("terminal"))
    check_console(flags.get("console-socket", ""), terminal=terminal, detach=detach)
    if call.options.get("systemd-cgroup"):
        _refuse_systemd((spec.get("linux") or {}).get("cgroupsPath") or "")
    preserve = preserved(spec.get("process") or {}, flags.get("preserve-fds", 0))
    tty_fd = foreground.own_terminal() if terminal and not detach else None
    _check_root(spec, bundle)
    pidfd_socket = foreground.dial_for_pidfd(flags.get("pidfd-socket", ""))
    store = ContainerStore(call.root)
    (id,) = call.arguments
    if call.log.verbose:
        for line in planning.build(spec, id=id, bundle=bundle).describe():
            call.log.debug(line)
    store.reserve(id)
    try:
        _check_cgroup(planning.cgroup_path(spec, id))
        container = runtime.create(
            spec,
            id=id,
            bundle=bundle,
            options=runtime.CreateOptions(
                stdio=(0, 1, 2),
                detached=True,
                preserve_fds=preserve,
                keyring=not flags.get("no-new-keyring"),
                pivot=not flags.get("no-pivot"),
                agents=True,
            ),
        )
    except BaseException:
        store.forget(id)
        raise
    try:
        record = new_record(spec, bundle)
        store.save(container, record)
        if flags.get("console-socket"):
            foreground.hand_out(container.console_fd, foreground.dial(flags["console-socket"]), b"/dev/ptmx")
        if pidfd_socket is not None:
            foreground.hand_out(container.pidfd, pidfd_socket, b"standard")
        if pid_file:
            write_pid(pid_file, container.pid)
    except BaseException:
        _discard(store, container)
        raise
    return store, container, record, tty_fd


def _check_root(spec: Spec, bundle: str) -> None:
    path = os.path.join(bundle, spec["root"]["path"])
    try:
        os.stat(path)
    except OSError as error:
        raise CommandFailure(f"invalid rootfs: stat {path}: {strerror(error.errno or 0)}") from error


def _refuse_systemd(path: str) -> None:
    if path.count(":") != 2:
        raise CommandFailure(
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{path}" instead'
        )
    raise CommandFailure("systemd not running on this host, cannot use systemd cgroups manager")


def _check_cgroup(path: str) -> None:
    """Refuse a cgroup that is frozen, where init would stop before it begins, or in use by others."""
    cgroup = groups.load(path)
    try:
        if cgroup.frozen():
            raise CommandFailure("container's cgroup unexpectedly frozen")
        count = len(cgroup.pids())
    except OSError:  # there is none
        return
    if count:
        raise CommandFailure(f"container's cgroup is not empty: {count} process(es) found")


def warn(call: Invocation, process: Spec, mounts: Sequence[Spec] = ()) -> None:
    """Say what of a process and its mounts is passed over, in runc's words."""
    for mount in mounts:
        if not mount["destination"].startswith("/"):
            call.log.write(
                "warning",
                f"mount destination {mount['destination']} is not absolute."
                " Support for non-absolute mount destinations will be removed in a future release.",
            )
    named = {cap for caps in (process.get("capabilities") or {}).values() for cap in caps or ()}
    unknown = sorted(named - NUMBERS.keys())
    if unknown:
        call.log.write("warning", f"ignoring unknown or unavailable capabilities: [{' '.join(unknown)}]")
    caps = process.get("capabilities") or {}
    may_be_raised = {*(caps.get("permitted") or ())} & {*(caps.get("inheritable") or ())}
    for cap in caps.get("ambient") or ():
        if cap in NUMBERS and cap not in may_be_raised:
            call.log.write("warning", f"can't raise ambient capability {cap}: operation not permitted")


def _discard(store: ContainerStore, container: Container) -> list[str]:
    failures = container.delete()
    try:
        os.waitpid(container.pid, os.WNOHANG)
    except ChildProcessError:
        pass
    store.forget(container.id)
    return failures


def load_spec() -> Spec:
    """Read config.json in the current directory. Raises: CommandFailure in runc's words."""
    try:
        with open("config.json", encoding="utf-8") as file:
            spec = without_nulls(json.load(file))
    except FileNotFoundError:
        raise CommandFailure("JSON specification file config.json not found") from None
    except (ValueError, RecursionError) as error:
        fault = json_fault(error)
        raise CommandFailure(fault if fault.endswith("EOF") else f"invalid config.json: {fault}") from error
    if spec is None:
        raise CommandFailure("config cannot be null")
    if not isinstance(spec, dict):
        raise CommandFailure("invalid config.json: not an object")
    if not spec.get("process"):
        raise CommandFailure("process property must not be empty")
    return spec


def without_nulls(value: Any) -> Any:
    """Return a decoded document without the members that are null: to Go they are not there."""
    if isinstance(value, dict):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


def json_fault(error: ValueError | RecursionError) -> str:
    """Say what is wrong with a JSON text; one that ends too early in runc's words."""
    if isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip()):
        return "unexpected EOF" if error.doc.strip() else "EOF"
    return str(error)


def check_console(socket: str, *, terminal: bool, detach: bool) -> None:
    """Refuse terminal settings that leave nobody with the master."""
    if terminal and detach and not socket:
        raise CommandFailure("cannot allocate tty if runc will detach without setting console socket")
    if socket and not (terminal and detach):
        raise CommandFailure("cannot use console socket if runc will not detach or allocate tty")


def preserved(process: Spec, count: int) -> int:
    """Return how many descriptors after standard error go to the process; LISTEN_FDS come with their environment."""
    listening = os.environ.get("LISTEN_FDS", "")
    if listening.isdecimal() and int(listening) and os.environ.get("LISTEN_PID") == str(os.getpid()):
        process["env"] = [*(process.get("env") or []), f"LISTEN_FDS={listening}", "LISTEN_PID=1"]
        count += int(listening)
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError:
            missing = f"unable to stat preserved-fd {fd} (of {count}): no such file or directory"
            raise CommandFailure(missing) from None
    return count


def write_pid(path: str, pid: int) -> None:
    """Write a pid file, whole or not at all."""
    temporary = f"{os.path.dirname(path)}/.{os.path.basename(path)}"
    try:
        with open(temporary, "w", encoding="ascii") as file:
            file.write(str(pid))
        os.rename(temporary, path)
    except OSError as error:
        raise CommandFailure(f"open {temporary}: {strerror(error.errno or 0)}") from error


def load(call: Invocation) -> StoredContainer:
    """Return the container that the command names."""
    return ContainerStore(call.root).load(call.arguments[0])
